package import Host
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
///
/// Devices on the fast path keep elements and fill them again (`VirtQueue.pop(into:from:)`): after the first uses nothing is allocated.
package struct VirtQueueElement: Equatable, Sendable {
  /// Names the element when it is given back: the index of the chain's first descriptor, or a packed ring's buffer id.
  package internal(set) var head: UInt16 = 0
  /// How many places of a packed ring it takes.
  var count: UInt16 = 1
  /// Which start of its queue it was taken after.
  var epoch: UInt32 = 0
  package internal(set) var readable: [GuestRange] = []
  package internal(set) var writable: [GuestRange] = []
  /// Bytes that the device may read.
  package private(set) var readableLength: UInt64 = 0
  /// Bytes that the device may write.
  package private(set) var writableLength: UInt64 = 0

  package init() {}

  /// Forgets the ranges and keeps their room.
  mutating func begin(_ head: UInt16) {
    self.head = head
    readable.removeAll(keepingCapacity: true)
    writable.removeAll(keepingCapacity: true)
    readableLength = 0
    writableLength = 0
  }

  /// Adds the range of a descriptor. Throws when a readable one follows a writable one, when it wraps, and when there are too many.
  mutating func append(
    _ address: UInt64, _ length: UInt32, isWritable: Bool
  ) throws(VirtQueueError) {
    guard !address.addingReportingOverflow(UInt64(length)).overflow else {
      throw VirtQueueError("buffer of \(length) bytes wraps")
    }
    guard readable.count + writable.count < VirtQueue.longestChain else {
      throw VirtQueueError("more than \(VirtQueue.longestChain) buffers in a chain")
    }
    let range = GuestRange(address: GuestAddress(address), length: length)
    if isWritable {
      writable.append(range)
      writableLength += UInt64(length)
    } else {
      guard writable.isEmpty else {
        throw VirtQueueError("readable buffer after a writable one")
      }
      readable.append(range)
      readableLength += UInt64(length)
    }
  }
}

/// A split virtqueue (virtio 1.1, 2.6), or a packed one (2.7), from the device's side.
///
/// A value to be kept behind its device's lock. Everything that it reads is the guest's and may change at any time: each field is read
/// once and checked; what does not hold together throws.
package struct VirtQueue: Sendable {
  /// Most buffers of one element, as many as one system call takes.
  package static let longestChain = 1024

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
  package internal(set) var nextAvailable: UInt16 = 0
  /// Next entry of the used ring to fill.
  package internal(set) var nextUsed: UInt16 = 0
  /// `nextUsed` when the driver was last told.
  var signalledUsed: UInt16 = 0
  private var hasSignalled = false
  /// Elements that the device has taken and not given back; in a packed ring their descriptors.
  package internal(set) var inUse: UInt16 = 0
  /// VIRTIO_F_RING_PACKED as negotiated.
  package var isPacked = false
  /// How many descriptors of a packed ring the element has that was taken last.
  var lastCount: UInt16 = 0
  /// The device looks again by itself: the driver need not announce what it adds.
  var isPolled = false
  /// Counts resets: what was taken before one does not come back into the ring of the next driver.
  var epoch: UInt32 = 0

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

  package mutating func reset() {
    let next = epoch &+ 1
    self = VirtQueue(maximumSize: maximumSize)
    epoch = next
  }

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
    if isPacked { return hasPackedAvailable(in: memory) }
    guard isEnabled, let index = load16(memory, available, 2) else { return false }
    return index != nextAvailable
  }

  /// Takes the next entry; nil when none waits.
  package mutating func pop(from memory: GuestMemory) throws(VirtQueueError) -> VirtQueueElement? {
    var element = VirtQueueElement()
    return try pop(into: &element, from: memory) ? element : nil
  }

  /// Takes the next entry into `element`, in the room that it has; false when none waits.
  package mutating func pop(
    into element: inout VirtQueueElement, from memory: GuestMemory
  ) throws(VirtQueueError) -> Bool {
    element.epoch = epoch
    if isPacked { return try popPacked(into: &element, from: memory) }
    guard isEnabled, size > 0 else { return false }
    guard let index = load16(memory, available, 2) else {
      throw VirtQueueError("available ring is not in memory")
    }
    let waiting = index &- nextAvailable
    if waiting == 0 { return false }
    guard waiting <= size else {
      throw VirtQueueError("available index \(index) is \(waiting) ahead of \(nextAvailable)")
    }
    // Else a driver that makes entries available again and again could fill the host's memory with requests.
    guard inUse < size else { throw VirtQueueError("more than \(size) elements in use") }
    // What the driver wrote before it raised the index.
    atomicMemoryFence(ordering: .acquiring)
    guard let head = load16(memory, available, 4 + 2 * UInt64(nextAvailable % size)) else {
      throw VirtQueueError("available ring is not in memory")
    }
    nextAvailable &+= 1
    if usesEventIndex, !isPolled { publishAvailableEvent(in: memory) }
    try fill(&element, head, from: memory)
    inUse += 1
    return true
  }

  /// Puts the element that was taken last back, to be taken again later.
  package mutating func unpop() {
    if isPacked { return unpopPacked() }
    guard inUse > 0 else { return }
    nextAvailable &-= 1
    inUse -= 1
  }

  /// While `on`, the driver is asked not to announce what it adds, since the device looks by itself (2.6.7, 2.6.10). Answers whether entries wait
  /// after the change, which the driver may have added without a word.
  package mutating func setPolled(_ on: Bool, in memory: GuestMemory) -> Bool {
    if isPacked { return setPackedPolled(on, in: memory) }
    guard isEnabled, size > 0 else { return false }
    isPolled = on
    if usesEventIndex {
      // An event index that is left behind is one that the driver has passed long ago.
      if !on { publishAvailableEvent(in: memory) }
    } else {
      _ = memory.store(used, UInt16(on ? 1 : 0))
      atomicMemoryFence(ordering: .sequentiallyConsistent)
    }
    return hasAvailable(in: memory)
  }

  private func fill(
    _ element: inout VirtQueueElement, _ head: UInt16, from memory: GuestMemory
  ) throws(VirtQueueError) {
    element.begin(head)
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
        let rest = memory.load(table + (at + 8), as: UInt64.self)
      else { throw VirtQueueError("descriptor table is not in memory") }
      let length = UInt32(truncatingIfNeeded: rest)
      let flags = UInt16(truncatingIfNeeded: rest >> 32)
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
      try element.append(address, length, isWritable: flags & Flag.write != 0)
      if flags & Flag.next == 0 { return }
      index = UInt32(rest >> 48)
    }
  }

  /// Gives an element back with `written` bytes written into it; one of before a reset is forgotten.
  package mutating func push(
    _ element: VirtQueueElement, written: UInt32, to memory: GuestMemory
  ) throws(VirtQueueError) {
    guard element.epoch == epoch else { return }
    if isPacked { return try pushPacked(element, written: written, to: memory) }
    guard size > 0 else { return }
    if inUse > 0 { inUse -= 1 }
    let entry = used + (4 + 8 * UInt64(nextUsed % size))
    guard memory.store(entry, UInt64(element.head) | UInt64(written) << 32) else {
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
    if isPacked { return shouldNotifyPacked(memory) }
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
  /// Appends the host memory of the ranges' bytes from `offset` on, `count` of them, to a request's memory; false, with `vector` unusable,
  /// unless all of it is there and RAM (for `.read`: or ROM).
  package func append(
    _ ranges: [GuestRange], _ offset: UInt64 = 0, _ count: UInt64 = UInt64.max,
    for right: PageRight, to vector: inout IOVector, pinning pins: inout MemoryPins
  ) -> Bool {
    var skip = offset
    var left = count
    for range in ranges {
      if left == 0 { return true }
      let length = UInt64(range.length)
      if skip >= length {
        skip -= length
        continue
      }
      let part = min(length - skip, left)
      guard
        append(
          range.address + skip, UInt32(truncatingIfNeeded: part), for: right, to: &vector,
          pinning: &pins)
      else { return false }
      left -= part
      skip = 0
    }
    return left == 0 || count == UInt64.max
  }

  /// Throws decoded code of the ranges' bytes away after a device wrote there by an `IOVector`.
  package func noteWrites(_ ranges: [GuestRange]) {
    for range in ranges { noteWrite(range.address, Int(range.length)) }
  }

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
