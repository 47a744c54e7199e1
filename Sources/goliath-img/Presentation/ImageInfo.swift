package import JSON

/// What is known about an image (`info`).
package struct ImageInfo: Sendable {
  package var filename = ""
  package var format = ""
  /// Bytes that a guest sees.
  package var virtualSize: UInt64 = 0
  /// Bytes on the host; nil when unknown.
  package var actualSize: UInt64?
  package var clusterSize: UInt64?
  /// Nil when the format knows no such flag.
  package var isDirty: Bool?
  package var isEncrypted = false
  /// As the image names it.
  package var backingFile: String?
  /// The path that it stands for.
  package var fullBackingFile: String?
  package var backingFormat: String?
  package var snapshots: [SnapshotInfo] = []
  /// What only this format knows: its members by QAPI's names.
  package var specific: JSONObject?

  package init() {}

  /// Prints QAPI's `ImageInfo`; what is large goes out piece by piece, for an image may have 65,536 snapshots.
  package func print(with printer: inout JSONPrinter, to output: inout TextOutput) {
    let members = members
    printer.beginObject()
    for position in members.wireOrder {
      let (name, value) = members.member(at: position)
      printer.member(named: name)
      guard name == "snapshots" else {
        printer.print(value)
        continue
      }
      printer.beginArray()
      for snapshot in snapshots {
        printer.element()
        printer.print(snapshot.json)
        output.raw(printer.output)
        printer.output.removeAll(keepingCapacity: true)
        output.flushWhenLarge()
      }
      printer.endArray()
    }
    printer.endObject()
  }

  /// The members, that of the snapshots without its elements.
  private var members: JSONObject {
    var object = JSONObject()
    object["filename"] = .string(filename)
    object["format"] = .string(format)
    if let isDirty { object["dirty-flag"] = .bool(isDirty) }
    if let actualSize { object["actual-size"] = JSONValue(actualSize) }
    object["virtual-size"] = JSONValue(virtualSize)
    if let clusterSize { object["cluster-size"] = JSONValue(clusterSize) }
    if isEncrypted { object["encrypted"] = true }
    if let backingFile { object["backing-filename"] = .string(backingFile) }
    if let fullBackingFile { object["full-backing-filename"] = .string(fullBackingFile) }
    if let backingFormat { object["backing-filename-format"] = .string(backingFormat) }
    if !snapshots.isEmpty { object["snapshots"] = .array([]) }
    if let specific {
      object["format-specific"] = .object(
        JSONObject([("type", .string(format)), ("data", .object(specific))]))
    }
    return object
  }

  /// The text for people.
  package var text: String {
    var text = "image: \(filename)\nfile format: \(format)\n"
    text += "virtual size: \(Sizes.text(virtualSize)) (\(virtualSize) bytes)\n"
    text += "disk size: \(actualSize.map(Sizes.text) ?? "unavailable")\n"
    if isEncrypted { text += "encrypted: yes\n" }
    if let clusterSize { text += "cluster_size: \(clusterSize)\n" }
    if isDirty == true { text += "cleanly shut down: no\n" }
    if let backingFile {
      text += "backing file: \(backingFile)"
      if let full = fullBackingFile {
        if full != backingFile { text += " (actual path: \(full))" }
      } else {
        text += " (cannot determine actual path)"
      }
      text += "\n"
      if let backingFormat { text += "backing file format: \(backingFormat)\n" }
    }
    if !snapshots.isEmpty { text += SnapshotInfo.table(snapshots) }
    if let specific {
      text += "Format specific information:\n"
      text += ImageInfo.lines(of: .object(specific), indentation: 1)
    }
    return text
  }

  /// Members and elements, each on a line behind its name.
  private static func lines(of value: JSONValue, indentation: Int) -> String {
    let margin = String(repeating: " ", count: indentation * 4)
    var text = ""
    switch value {
    case .object(let object):
      for position in object.wireOrder {
        let member = object.member(at: position)
        let name = String(member.name.map { $0 == "-" ? " " : $0 })
        text += margin + name + ":" + inline(member.value, indentation)
      }
    case .array(let elements):
      for (index, element) in elements.enumerated() {
        text += margin + "[\(index)]:" + inline(element, indentation)
      }
    default: break
    }
    return text
  }

  private static func inline(_ value: JSONValue, _ indentation: Int) -> String {
    switch value {
    case .object, .array: "\n" + lines(of: value, indentation: indentation + 1)
    case .string(let text): " \(text)\n"
    case .bool(let flag): flag ? " true\n" : " false\n"
    default: " \(value.text)\n"
    }
  }
}

/// An internal snapshot.
package struct SnapshotInfo: Sendable, Equatable {
  package var id = ""
  package var name = ""
  /// Bytes of machine state.
  package var stateSize: UInt64 = 0
  package var seconds: UInt32 = 0
  package var nanoseconds: UInt32 = 0
  package var clockNanoseconds: UInt64 = 0
  /// Instructions executed; nil when it was not counted.
  package var instructionCount: UInt64?

  package init() {}

  package var json: JSONValue {
    var object = JSONObject()
    object["id"] = .string(id)
    object["name"] = .string(name)
    object["vm-state-size"] = JSONValue(stateSize)
    object["date-sec"] = JSONValue(UInt64(seconds))
    object["date-nsec"] = JSONValue(UInt64(nanoseconds))
    object["vm-clock-sec"] = JSONValue(clockNanoseconds / 1_000_000_000)
    object["vm-clock-nsec"] = JSONValue(clockNanoseconds % 1_000_000_000)
    if let instructionCount { object["icount"] = JSONValue(instructionCount) }
    return .object(object)
  }

  /// The list for people, with its head.
  package static func table(_ snapshots: [SnapshotInfo]) -> String {
    var text = "Snapshot list:\n"
    text += row("ID", "TAG", "VM SIZE", "DATE", "VM CLOCK", "ICOUNT")
    for snapshot in snapshots {
      text += row(
        snapshot.id, snapshot.name, Sizes.text(snapshot.stateSize),
        LocalDate.text(seconds: snapshot.seconds), clock(snapshot.clockNanoseconds),
        snapshot.instructionCount.map { String($0) } ?? "")
    }
    return text
  }

  private static func row(
    _ id: String, _ tag: String, _ size: String, _ date: String, _ clock: String, _ count: String
  ) -> String {
    left(id, 9) + " " + left(tag, 16) + " " + right(size, 8) + right(date, 20) + right(clock, 13)
      + right(count, 11) + "\n"
  }

  /// Hours, minutes, seconds and milliseconds of the machine's clock.
  private static func clock(_ nanoseconds: UInt64) -> String {
    let seconds = nanoseconds / 1_000_000_000
    return LocalDate.digits(seconds / 3600, 2) + ":" + LocalDate.digits(seconds / 60 % 60, 2) + ":"
      + LocalDate.digits(seconds % 60, 2) + "."
      + LocalDate.digits(nanoseconds / 1_000_000 % 1000, 3)
  }

  private static func left(_ text: String, _ width: Int) -> String {
    text + String(repeating: " ", count: max(0, width - text.utf8.count))
  }

  private static func right(_ text: String, _ width: Int) -> String {
    String(repeating: " ", count: max(0, width - text.utf8.count)) + text
  }
}
