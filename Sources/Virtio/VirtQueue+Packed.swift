import Shm
import Synchronization

// Packed virtqueues (virtio 1.1, 2.7): one ring of descriptors that driver and device write in turn. `descriptors` is the ring, `available`
// the driver's area for event suppression, `used` the device's.
//
// Places in the ring are counted over two laps, since every other lap is told by the wrap counter: `nextAvailable` and `nextUsed` run from 0
// to twice the size, the wrap counter is 1 in the first half.

extension VirtQueue {
  private enum PackedFlag {
    static let next: UInt16 = 1
    static let write: UInt16 = 2
    static let indirect: UInt16 = 4
    static let available: UInt16 = 1 << 7
    static let used: UInt16 = 1 << 15
  }
  /// What an area for event suppression says (2.7.14).
  private enum Suppression {
    static let enable: UInt16 = 0
    static let disable: UInt16 = 1
    static let descriptor: UInt16 = 2
  }

  private func index(_ place: UInt16) -> UInt64 { UInt64(place < size ? place : place &- size) }
  private func wrap(_ place: UInt16) -> Bool { place < size }
  /// `place` and `count` further; neither is beyond two laps.
  private func advanced(_ place: UInt16, _ count: UInt16) -> UInt16 {
    let laps = UInt32(size) * 2
    let next = UInt32(place) + UInt32(count)
    return UInt16(truncatingIfNeeded: next < laps ? next : next - laps)
  }

  /// Whether flags say that the driver has made the descriptor available in this lap.
  private func isAvailable(_ flags: UInt16, _ wrap: Bool) -> Bool {
    (flags & PackedFlag.available != 0) == wrap && (flags & PackedFlag.used != 0) != wrap
  }

  func hasPackedAvailable(in memory: GuestMemory) -> Bool {
    let at = descriptors + index(nextAvailable) * 16
    guard isEnabled, size > 0, let flags = memory.load(at + 14, as: UInt16.self) else {
      return false
    }
    return isAvailable(flags, wrap(nextAvailable))
  }

  mutating func popPacked(
    into element: inout VirtQueueElement, from memory: GuestMemory
  ) throws(VirtQueueError) -> Bool {
    guard isEnabled, size > 0 else { return false }
    guard
      let first = memory.load(
        descriptors + (index(nextAvailable) * 16 + 14), as: UInt16.self)
    else { throw VirtQueueError("descriptor ring is not in memory") }
    guard isAvailable(first, wrap(nextAvailable)) else { return false }
    // What the driver wrote before it set the first descriptor's flags.
    atomicMemoryFence(ordering: .acquiring)
    element.begin(0)
    var count: UInt16 = 0
    var place = nextAvailable
    var flags = first
    while true {
      // More than the ring holds cannot be in the device's hands, and a chain does not go round.
      guard inUse + count < size else {
        throw VirtQueueError("more than \(size) descriptors in use")
      }
      let at = descriptors + index(place) * 16
      guard let address = memory.load(at, as: UInt64.self),
        let rest = memory.load(at + 8, as: UInt64.self)
      else { throw VirtQueueError("descriptor ring is not in memory") }
      let length = UInt32(truncatingIfNeeded: rest)
      // The first one's flags were read before; what they are now does not count.
      if count > 0 { flags = UInt16(truncatingIfNeeded: rest >> 48) }
      element.head = UInt16(truncatingIfNeeded: rest >> 32)
      count += 1
      place = advanced(place, 1)
      if flags & PackedFlag.indirect != 0 {
        guard allowsIndirect, count == 1, flags & PackedFlag.next == 0 else {
          throw VirtQueueError("indirect descriptor where none may be")
        }
        try fillIndirect(&element, GuestAddress(address), length, from: memory)
        break
      }
      try element.append(address, length, isWritable: flags & PackedFlag.write != 0)
      if flags & PackedFlag.next == 0 { break }
    }
    element.count = count
    inUse += count
    lastCount = count
    nextAvailable = place
    if usesEventIndex, !isPolled { publishPackedEvent(in: memory) }
    return true
  }

  /// The descriptors of an indirect table follow each other; only their WRITE flag means something (2.7.7).
  private func fillIndirect(
    _ element: inout VirtQueueElement, _ table: GuestAddress, _ length: UInt32,
    from memory: GuestMemory
  ) throws(VirtQueueError) {
    guard length != 0, length % 16 == 0 else {
      throw VirtQueueError("indirect table of \(length) bytes")
    }
    for entry in 0..<UInt64(length / 16) {
      let at = table + entry * 16
      guard let address = memory.load(at, as: UInt64.self),
        let rest = memory.load(at + 8, as: UInt64.self)
      else { throw VirtQueueError("indirect table is not in memory") }
      let flags = UInt16(truncatingIfNeeded: rest >> 48)
      guard flags & PackedFlag.indirect == 0 else {
        throw VirtQueueError("indirect descriptor where none may be")
      }
      try element.append(
        address, UInt32(truncatingIfNeeded: rest), isWritable: flags & PackedFlag.write != 0)
    }
  }

  mutating func unpopPacked() {
    guard lastCount > 0, inUse >= lastCount else { return }
    inUse -= lastCount
    nextAvailable = advanced(nextAvailable, UInt16(truncatingIfNeeded: Int(size) * 2) &- lastCount)
    lastCount = 0
  }

  mutating func pushPacked(
    _ element: VirtQueueElement, written: UInt32, to memory: GuestMemory
  ) throws(VirtQueueError) {
    guard size > 0, element.count > 0, element.count <= inUse else { return }
    inUse -= element.count
    let at = descriptors + index(nextUsed) * 16
    let flags: UInt16 =
      (wrap(nextUsed) ? PackedFlag.available | PackedFlag.used : 0)
      | (written > 0 ? PackedFlag.write : 0)
    guard memory.store(at + 8, written), memory.store(at + 12, element.head) else {
      throw VirtQueueError("descriptor ring is not in memory")
    }
    // The driver takes the descriptor by its flags.
    atomicMemoryFence(ordering: .releasing)
    guard memory.store(at + 14, flags) else {
      throw VirtQueueError("descriptor ring is not in memory")
    }
    nextUsed = advanced(nextUsed, element.count)
  }

  mutating func shouldNotifyPacked(_ memory: GuestMemory) -> Bool {
    let old = signalledUsed
    signalledUsed = nextUsed
    guard let word = memory.load(available, as: UInt32.self) else { return true }
    switch UInt16(truncatingIfNeeded: word >> 16) & 3 {
    case Suppression.disable: return false
    case Suppression.descriptor where usesEventIndex:
      let offset = UInt16(truncatingIfNeeded: word & 0x7FFF)
      guard offset < size else { return true }
      let laps = UInt32(size) * 2
      let event = UInt32(offset) + (word & 0x8000 != 0 ? 0 : UInt32(size))
      func distance(_ from: UInt32, _ to: UInt32) -> UInt32 {
        to >= from ? to - from : to + laps - from
      }
      // Whether the driver's descriptor is among those that were used since.
      return distance(UInt32(old), event) < distance(UInt32(old), UInt32(nextUsed))
    default: return true
    }
  }

  mutating func setPackedPolled(_ on: Bool, in memory: GuestMemory) -> Bool {
    guard isEnabled, size > 0 else { return false }
    isPolled = on
    if on {
      _ = memory.store(used + 2, Suppression.disable)
    } else if usesEventIndex {
      publishPackedEvent(in: memory)
    } else {
      _ = memory.store(used + 2, Suppression.enable)
    }
    atomicMemoryFence(ordering: .sequentiallyConsistent)
    return hasPackedAvailable(in: memory)
  }

  /// Tells the driver from which descriptor on it must notify us.
  private func publishPackedEvent(in memory: GuestMemory) {
    let place =
      UInt32(truncatingIfNeeded: index(nextAvailable)) | (wrap(nextAvailable) ? 0x8000 : 0)
    _ = memory.store(used, place | UInt32(Suppression.descriptor) << 16)
    atomicMemoryFence(ordering: .sequentiallyConsistent)
  }
}
