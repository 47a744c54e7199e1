package import Host
package import Shm

/// The bus master of one channel (Programming Interface for Bus Master IDE Controller 1.0; 82371SB, 2.7): moves data between a drive and the
/// stretches of memory that a table in guest memory lists.
package struct BusMaster: Equatable, Sendable {
  private enum Command {
    static let start: UInt8 = 1
    static let toMemory: UInt8 = 8
  }
  private enum Status {
    static let active: UInt8 = 1
    static let error: UInt8 = 2
    static let interrupt: UInt8 = 4
    /// Software notes there which drives it has set up.
    static let capable: UInt8 = 0x60
  }
  /// The table lies in one page (1.2).
  private static let tableSize: UInt64 = 4096

  package private(set) var command: UInt8 = 0
  package private(set) var status: UInt8 = 0
  package var table: UInt32 = 0

  /// Where in the table the transfer is: the next entry's offset, and what is left of the present entry.
  private var nextEntry: UInt64 = 0
  private var address: UInt64 = 0
  private var left: UInt32 = 0
  private var isLast = false

  package init() {}

  package var isActive: Bool { status & Status.active != 0 }

  package mutating func writeCommand(_ value: UInt8) {
    let value = value & (Command.start | Command.toMemory)
    if value & Command.start != 0, command & Command.start == 0 {
      nextEntry = 0
      left = 0
      isLast = false
      status |= Status.active
    } else if value & Command.start == 0 {
      status &= ~Status.active
    }
    command = value
  }

  package mutating func writeStatus(_ value: UInt8) {
    let cleared = value & (Status.error | Status.interrupt)
    status = value & Status.capable | status & (Status.active | Status.error | Status.interrupt)
    status &= ~cleared
  }

  mutating func interruptArrived() { status |= Status.interrupt }

  /// The drive has all it wanted: the transfer is over, unless the table goes on (1.1).
  mutating func finish() {
    if isLast, left == 0 { status &= ~Status.active }
  }

  /// The table has ended before the drive had enough.
  mutating func stopShort() { status &= ~Status.active }

  /// Collects the host memory of the next `count` bytes of the table into `vector`, and where they are in `pieces`. Answers how many bytes
  /// there are, fewer when the table ends; nil where an entry does not name memory.
  package mutating func gather(
    _ count: Int, toMemory: Bool, _ memory: GuestMemory, into vector: inout IOVector,
    pieces: inout [(address: GuestAddress, count: Int)], pinning pins: inout MemoryPins
  ) -> Int? {
    var done = 0
    while done < count {
      if left == 0 {
        guard !isLast, nextEntry < BusMaster.tableSize else { break }
        let at = GuestAddress(UInt64(table & ~3) + nextEntry)
        guard let entry = memory.load(at, as: UInt64.self) else { return nil }
        nextEntry += 8
        address = entry & 0xFFFF_FFFE
        left = UInt32(truncatingIfNeeded: entry >> 32) & 0xFFFE
        if left == 0 { left = 0x1_0000 }
        isLast = entry >> 63 != 0
      }
      let part = min(left, UInt32(clamping: count - done))
      let start = GuestAddress(address)
      guard
        memory.append(
          start, part, for: toMemory ? .write : .read, to: &vector, pinning: &pins)
      else {
        return nil
      }
      pieces.append((start, Int(part)))
      address += UInt64(part)
      left -= part
      done += Int(part)
    }
    return done
  }
}
