package import Shm
import Synchronization

/// A driver broke the rules of its queue; the device needs a reset (virtio 1.1, 2.1.2).
package struct VirtQueueError: Error, Equatable, Sendable {
  package let message: String

  init(_ message: String) { self.message = message }
}

/// A range of guest memory that a driver gave in a descriptor.
package struct GuestRange: Equatable, Sendable {
  package let address: GuestAddress
  /// Bytes.
  package let length: UInt32

  package init(address: GuestAddress, length: UInt32) {
    self.address = address
    self.length = length
  }
}

/// What one available entry describes: what the device may read, then what it may write.
package struct VirtQueueElement: Equatable, Sendable {
  /// Index of the chain's first descriptor, which names it in the used ring.
  package let head: UInt16
  package var readable: [GuestRange] = []
  package var writable: [GuestRange] = []

  /// Bytes that the device may read.
  package var readableLength: UInt64 { readable.reduce(0) { $0 + UInt64($1.length) } }
  /// Bytes that the device may write.
  package var writableLength: UInt64 { writable.reduce(0) { $0 + UInt64($1.length) } }
}

/// A split virtqueue (virtio 1.1, 2.6) from the device's side.
///
/// A value to be kept behind its device's lock. Everything that it reads is the guest's and may change at any time: each field is read
/// once and checked; what does not hold together throws.
package struct VirtQueue: Sendable {
  /// The most entries that the device offers.
  package let maximumSize: UInt16
  /// Entries in use; the driver may choose fewer.
  package var size: UInt16
  package var isEnabled = false
  package var descriptors = GuestAddress(0)
  package var available = GuestAddress(0)
  package var used = GuestAddress(0)
  /// VIRTIO_F_EVENT_IDX and VIRTIO_F_INDIRECT_DESC as negotiated.
  package var usesEventIndex = false
  package var allowsIndirect = false
  /// Next entry of the available ring to take.
  package private(set) var nextAvailable: UInt16 = 0
  /// Next entry of the used ring to fill.
  package private(set) var nextUsed: UInt16 = 0
  /// `nextUsed` when the driver was last told.
  private var signalledUsed: UInt16 = 0
  private var hasSignalled = false

  private enum Flag {
    static let next: UInt16 = 1
    static let write: UInt16 = 2
    static let indirect: UInt16 = 4
    static let noInterrupt: UInt16 = 1
  }

  package init(maximumSize: UInt16) {
    self.maximumSize = maximumSize
    size = maximumSize
  }

  package mutating func reset() { self = VirtQueue(maximumSize: maximumSize) }

  /// Places the three parts as the legacy interface does (2.6.2): one after the other, the used ring at the next page.
  package mutating func placeLegacy(page: UInt32) {
    let start = UInt64(page) << 12
    let count = UInt64(size)
    descriptors = GuestAddress(start)
    available = GuestAddress(start + 16 * count)
    let end = start + 16 * count + 4 + 2 * count + 2
    used = GuestAddress((end + 4095) & ~4095)
    isEnabled = page != 0
  }

  /// Whether entries wait.
  package func hasAvailable(in memory: GuestMemory) -> Bool {
    guard isEnabled, let index = load16(memory, available, 2) else { return false }
    return index != nextAvailable
  }

  /// Takes the next entry; nil when none waits.
  package mutating func pop(from memory: GuestMemory) throws(VirtQueueError) -> VirtQueueElement? {
    guard isEnabled, size > 0 else { return nil }
    guard let index = load16(memory, available, 2) else {
      throw VirtQueueError("available ring is not in memory")
    }
    let waiting = index &- nextAvailable
    if waiting == 0 { return nil }
    guard waiting <= size else {
      throw VirtQueueError("available index \(index) is \(waiting) ahead of \(nextAvailable)")
    }
    // What the driver wrote before it raised the index.
    atomicMemoryFence(ordering: .acquiring)
    guard let head = load16(memory, available, 4 + 2 * UInt64(nextAvailable % size)) else {
      throw VirtQueueError("available ring is not in memory")
    }
    nextAvailable &+= 1
    if usesEventIndex { publishAvailableEvent(in: memory) }
    return try element(head, in: memory)
  }

  /// Puts an element back whose processing must wait.
  package mutating func unpop() { nextAvailable &-= 1 }

  private func element(
    _ head: UInt16, in memory: GuestMemory
  ) throws(VirtQueueError) -> VirtQueueElement {
    var element = VirtQueueElement(head: head)
    var table = descriptors
    var count = UInt32(size)
    var index = UInt32(head)
    var steps: UInt32 = 0
    var isIndirect = false
    while true {
      guard index < count else { throw VirtQueueError("descriptor \(index) of \(count)") }
      // Every descriptor at most once: a chain cannot be longer than its table.
      steps += 1
      guard steps <= count else { throw VirtQueueError("looped descriptor chain") }
      let at = UInt64(index) * 16
      guard let address = memory.load(table + at, as: UInt64.self),
        let length = memory.load(table + (at + 8), as: UInt32.self),
        let word = memory.load(table + (at + 12), as: UInt32.self)
      else { throw VirtQueueError("descriptor table is not in memory") }
      let flags = UInt16(truncatingIfNeeded: word)
      if flags & Flag.indirect != 0 {
        guard allowsIndirect, !isIndirect, flags & Flag.next == 0 else {
          throw VirtQueueError("indirect descriptor where none may be")
        }
        guard length != 0, length % 16 == 0, length / 16 <= UInt32(UInt16.max) + 1 else {
          throw VirtQueueError("indirect table of \(length) bytes")
        }
        isIndirect = true
        table = GuestAddress(address)
        count = length / 16
        index = 0
        steps = 0
        continue
      }
      guard !address.addingReportingOverflow(UInt64(length)).overflow else {
        throw VirtQueueError("buffer of \(length) bytes wraps")
      }
      let range = GuestRange(address: GuestAddress(address), length: length)
      if flags & Flag.write != 0 {
        element.writable.append(range)
      } else {
        guard element.writable.isEmpty else {
          throw VirtQueueError("readable buffer after a writable one")
        }
        element.readable.append(range)
      }
      if flags & Flag.next == 0 { return element }
      index = UInt32(word >> 16)
    }
  }

  /// Gives an element back with `written` bytes written into it.
  package mutating func push(
    _ element: VirtQueueElement, written: UInt32, to memory: GuestMemory
  ) throws(VirtQueueError) {
    guard size > 0 else { return }
    let entry = used + (4 + 8 * UInt64(nextUsed % size))
    guard memory.store(entry, UInt32(element.head)), memory.store(entry + 4, written) else {
      throw VirtQueueError("used ring is not in memory")
    }
    atomicMemoryFence(ordering: .releasing)
    nextUsed &+= 1
    guard memory.store(used + 2, nextUsed) else {
      throw VirtQueueError("used ring is not in memory")
    }
  }

  /// Whether the driver wants to hear of what was pushed since it last did (2.6.7, 2.6.8).
  package mutating func shouldNotify(_ memory: GuestMemory) -> Bool {
    atomicMemoryFence(ordering: .sequentiallyConsistent)
    if usesEventIndex {
      guard let event = load16(memory, available, 4 + 2 * UInt64(size)) else { return true }
      let old = signalledUsed
      let wasSignalled = hasSignalled
      signalledUsed = nextUsed
      hasSignalled = true
      return !wasSignalled || nextUsed &- event &- 1 < nextUsed &- old
    }
    return (load16(memory, available, 0) ?? 0) & Flag.noInterrupt == 0
  }

  /// Tells the driver from which entry on it must notify us.
  private func publishAvailableEvent(in memory: GuestMemory) {
    _ = memory.store(used + (4 + 8 * UInt64(size)), nextAvailable)
    atomicMemoryFence(ordering: .sequentiallyConsistent)
  }

  private func load16(_ memory: GuestMemory, _ base: GuestAddress, _ offset: UInt64) -> UInt16? {
    memory.load(base + offset, as: UInt16.self)
  }
}

extension GuestMemory {
  /// Copies what the ranges hold, up to `limit` bytes; nil where they are not memory.
  package func gather(_ ranges: [GuestRange], limit: Int) -> [UInt8]? {
    var bytes: [UInt8] = []
    for range in ranges where bytes.count < limit {
      let count = min(Int(range.length), limit - bytes.count)
      guard let piece = read(range.address, count: count) else { return nil }
      bytes += piece
    }
    return bytes
  }

  /// Fills the ranges from the start; answers how many bytes went in, nil where they are not memory.
  package func scatter(_ bytes: [UInt8], to ranges: [GuestRange]) -> Int? {
    var done = 0
    for range in ranges where done < bytes.count {
      let count = min(Int(range.length), bytes.count - done)
      guard write(range.address, Array(bytes[done..<done + count])) else { return nil }
      done += count
    }
    return done
  }
}
