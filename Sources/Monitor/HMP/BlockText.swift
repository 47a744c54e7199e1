import Host
import JSON
import QAPI

/// How `info block` and `info blockstats` show drives, nodes and images.
enum BlockText {
  static func drive(_ info: BlockInfo, verbose: Bool) -> String {
    var name = info.device
    if name.isEmpty {
      name = info.inserted?.nodeName ?? info.qdev ?? "<anonymous>"
    } else if let node = info.inserted?.nodeName {
      name += " (\(node))"
    }
    var text = name + heading(info.inserted)
    if let device = info.qdev { text += line("Attached to", device) }
    if let status = info.ioStatus, status != .ok { text += line("I/O status", status.rawValue) }
    if info.removable {
      let tray = info.trayOpen == true ? "open" : "closed"
      text += line("Removable device", "\(info.locked ? "" : "not ")locked, tray \(tray)")
    }
    if let medium = info.inserted { text += details(medium, verbose: verbose) }
    return text
  }

  static func node(_ info: BlockDeviceInfo, verbose: Bool) -> String {
    (info.nodeName ?? "<anonymous>") + heading(info) + details(info, verbose: verbose)
  }

  static func statistics(_ stats: BlockStats) -> String {
    guard let device = stats.device else { return "" }
    let counts = stats.stats
    return "\(device): rd_bytes=\(counts.rdBytes) wr_bytes=\(counts.wrBytes)"
      + " rd_operations=\(counts.rdOperations) wr_operations=\(counts.wrOperations)"
      + " flush_operations=\(counts.flushOperations)"
      + " wr_total_time_ns=\(counts.wrTotalTimeNs) rd_total_time_ns=\(counts.rdTotalTimeNs)"
      + " flush_total_time_ns=\(counts.flushTotalTimeNs) rd_merged=\(counts.rdMerged)"
      + " wr_merged=\(counts.wrMerged) idle_time_ns=\(counts.idleTimeNs ?? 0)\n"
  }

  // MARK: -

  private static func heading(_ medium: BlockDeviceInfo?) -> String {
    guard let medium else { return ": [not inserted]\n" }
    return ": \(medium.file) (\(medium.drv)\(medium.ro ? ", read-only" : "")"
      + "\(medium.encrypted ? ", encrypted" : ""))\n"
  }

  /// A line with its value in the column of all values.
  private static func line(_ name: String, _ value: String) -> String {
    let name = name + ":"
    return "    " + name + String(repeating: " ", count: max(1, 18 - name.utf8.count)) + value
      + "\n"
  }

  private static func details(_ info: BlockDeviceInfo, verbose: Bool) -> String {
    var text = line(
      "Cache mode",
      (info.cache.writeback ? "writeback" : "writethrough")
        + (info.cache.direct ? ", direct" : "")
        + (info.cache.noFlush ? ", ignore flushes" : ""))
    if let backing = info.backingFile {
      text += line("Backing file", "\(backing) (chain depth: \(info.backingFileDepth))")
    }
    if info.detectZeroes != .off { text += line("Detect zeroes", info.detectZeroes.rawValue) }
    let rates = [info.bps, info.bpsRd, info.bpsWr, info.iops, info.iopsRd, info.iopsWr]
    if rates.contains(where: { $0 != 0 }) { text += line("I/O throttling", limits(info)) }
    guard verbose else { return text }
    text += "\nImages:\n"
    var next: ImageInfo? = info.image
    while let image = next {
      text += self.image(image)
      next = nil
      if case .value(let below)? = image.backingImage { next = below }
    }
    return text
  }

  private static func limits(_ info: BlockDeviceInfo) -> String {
    "bps=\(info.bps) bps_rd=\(info.bpsRd) bps_wr=\(info.bpsWr) bps_max=\(info.bpsMax ?? 0)"
      + " bps_rd_max=\(info.bpsRdMax ?? 0) bps_wr_max=\(info.bpsWrMax ?? 0)"
      + " iops=\(info.iops) iops_rd=\(info.iopsRd) iops_wr=\(info.iopsWr)"
      + " iops_max=\(info.iopsMax ?? 0) iops_rd_max=\(info.iopsRdMax ?? 0)"
      + " iops_wr_max=\(info.iopsWrMax ?? 0) iops_size=\(info.iopsSize ?? 0)"
      + " group=\(info.group ?? "")"
  }

  private static func image(_ info: ImageInfo) -> String {
    var text = "image: \(info.filename)\nfile format: \(info.format)\n"
    text += "virtual size: \(size(info.virtualSize)) (\(info.virtualSize) bytes)\n"
    text += "disk size: \(info.actualSize.map(size) ?? "unavailable")\n"
    if info.encrypted == true { text += "encrypted: yes\n" }
    if let clusters = info.clusterSize { text += "cluster_size: \(clusters)\n" }
    if info.dirtyFlag == true { text += "cleanly shut down: no\n" }
    if let backing = info.backingFilename {
      text += "backing file: \(backing)"
      if let path = info.fullBackingFilename {
        if path != backing { text += " (actual path: \(path))" }
      } else {
        text += " (cannot determine actual path)"
      }
      text += "\n"
      if let format = info.backingFilenameFormat { text += "backing file format: \(format)\n" }
    }
    if let snapshots = info.snapshots {
      text += "Snapshot list:\n" + row("ID", "TAG", "VM SIZE", "DATE", "VM CLOCK", "ICOUNT")
      for snapshot in snapshots { text += row(snapshot) }
    }
    if let data = info.formatSpecific?.encoded["data"]?.objectValue {
      text += "Format specific information:\n" + members(data, 1)
    }
    return text
  }

  /// Members and elements, each on a line behind its name, in the order of the wire.
  private static func members(_ object: JSONObject, _ depth: Int) -> String {
    object.wireOrder.map { position in
      let member = object.member(at: position)
      let name = String(member.name.map { $0 == "-" ? " " : $0 })
      return String(repeating: "    ", count: depth) + name + ":" + value(member.value, depth)
    }.joined()
  }

  private static func value(_ value: JSONValue, _ depth: Int) -> String {
    switch value {
    case .object(let object): return "\n" + members(object, depth + 1)
    case .array(let elements):
      let margin = String(repeating: "    ", count: depth + 1)
      return "\n"
        + elements.enumerated().map {
          "\(margin)[\($0.offset)]:\(self.value($0.element, depth + 1))"
        }
        .joined()
    case .string(let text): return " \(text)\n"
    default: return " \(value.text)\n"
    }
  }

  private static func row(_ snapshot: SnapshotInfo) -> String {
    func two(_ number: Int) -> String { number < 10 ? "0\(number)" : "\(number)" }
    let milliseconds = snapshot.vmClockNsec / 1_000_000
    let seconds = snapshot.vmClockSec
    let clock =
      [seconds / 3600, seconds / 60 % 60, seconds % 60].map(two).joined(separator: ":")
      + "." + String(String(1000 + milliseconds).dropFirst())
    return row(
      snapshot.id, snapshot.name, size(snapshot.vmStateSize),
      HostClock.localText(seconds: Int64(snapshot.dateSec)), clock,
      snapshot.icount.map { "\($0)" } ?? "")
  }

  private static func row(
    _ id: String, _ name: String, _ size: String, _ date: String, _ clock: String,
    _ count: String
  ) -> String {
    func left(_ text: String, _ width: Int) -> String {
      text + String(repeating: " ", count: max(0, width - text.utf8.count))
    }
    func right(_ text: String, _ width: Int) -> String {
      String(repeating: " ", count: max(0, width - text.utf8.count)) + text
    }
    return left(id, 9) + " " + left(name, 16) + " " + right(size, 8) + right(date, 20)
      + right(clock, 13) + right(count, 11) + "\n"
  }

  /// Three significant digits and a unit, which goes up to 1000 of the one below: `1.27 MiB`.
  static func size(_ bytes: Int) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
    var unit = 0
    while unit < 6, Double(bytes) >= 1000 * Double(UInt64(1) << UInt64(unit * 10)) { unit += 1 }
    let divisor = Double(UInt64(1) << UInt64(unit * 10))
    let value = Double(max(0, bytes)) / divisor
    let decimals = value >= 100 ? 0 : value >= 10 ? 1 : 2
    let scale = [1.0, 10, 100][decimals]
    let rounded = UInt64((value * scale).rounded(.toNearestOrEven))
    var text = "\(rounded / UInt64(scale))"
    var fraction = String(String(UInt64(scale) + rounded % UInt64(scale)).dropFirst())
    while fraction.hasSuffix("0") { fraction.removeLast() }
    if !fraction.isEmpty { text += "." + fraction }
    return "\(text) \(units[unit])"
  }
}
