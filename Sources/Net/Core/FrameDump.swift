package import Host

/// Writes the frames of a port into a file that packet analysers read (pcap, link type Ethernet).
@MainLoop
package final class FrameDump: FrameObserver {
  package let path: String
  package let netdev: String
  package var isOn = true
  /// Which frames are of interest: those that the backend sends, those that it gets.
  package var looksAtSent = true
  package var looksAtReceived = true
  /// What `info network` says after the file.
  package var details = ""
  private let limit: Int
  private let file: FileDescriptor
  private var record = [UInt8]()
  private weak var port: NetPort?
  private var isBroken = false

  /// Creates the file. `limit`: bytes of a frame that are kept. Throws with QEMU's sentence.
  package init(_ path: String, limit: Int, netdev: String) throws(NetError) {
    self.path = path
    self.limit = limit
    self.netdev = netdev
    do throws(SystemError) {
      file = try FileDescriptor.open(path, FileDescriptor.createFlags, mode: 0o644)
    } catch {
      throw NetError("net dump: can't open \(path): \(error.reason)")
    }
    var header: [UInt8] = []
    FrameDump.append(0xA1B2_C3D4, to: &header)
    FrameDump.append(4 << 16 | 2, to: &header)
    FrameDump.append(0, to: &header)
    FrameDump.append(0, to: &header)
    FrameDump.append(UInt32(clamping: limit), to: &header)
    FrameDump.append(1, to: &header)
    write(header)
  }

  private static func append(_ value: UInt32, to bytes: inout [UInt8]) {
    for shift in stride(from: UInt32(0), to: 32, by: 8) {
      bytes.append(UInt8(truncatingIfNeeded: value >> shift))
    }
  }

  func attach(to port: NetPort) {
    self.port = port
    port.add(self)
  }

  package func observe(_ frame: Frame, isSentByPort: Bool) {
    guard !isBroken, isOn, isSentByPort ? looksAtSent : looksAtReceived else { return }
    let kept = min(frame.count, limit)
    let now = HostClock.realtime / 1000
    record.removeAll(keepingCapacity: true)
    FrameDump.append(UInt32(truncatingIfNeeded: now / 1_000_000), to: &record)
    FrameDump.append(UInt32(truncatingIfNeeded: now % 1_000_000), to: &record)
    FrameDump.append(UInt32(clamping: kept), to: &record)
    FrameDump.append(UInt32(clamping: frame.count), to: &record)
    record += frame.buffer.bytes(frame.range.lowerBound..<frame.range.lowerBound + kept)
    write(record)
  }

  private func write(_ bytes: [UInt8]) {
    var done = 0
    while done < bytes.count {
      guard let count = try? file.write(bytes, from: done), count > 0 else {
        if !isBroken { Log.error("network dump write error - stopping dump") }
        isBroken = true
        return
      }
      done += count
    }
  }

  package func close() {
    port?.remove(self)
    port = nil
  }
}
