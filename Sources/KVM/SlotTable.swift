import Shm

/// Which KVM memory slot holds what: a pure model that turns a new layout into the fewest requests.
///
/// Slots that stay as they were are not touched, for their shadow and dirty state is costly to build. A slot cannot be resized, so a
/// changed one is deleted and added again; all deletions come first, because KVM refuses overlaps at every step.
struct SlotTable: Equatable {
  /// The content of one KVM slot. Addresses and sizes in bytes, multiples of the page size.
  struct Slot: Hashable {
    var guest: UInt64
    var size: UInt64
    var host: UInt
    var isReadOnly: Bool
    var logsDirtyPages = false
  }
  enum Change: Equatable {
    case delete(number: UInt32)
    case add(number: UInt32, Slot)
    /// Only the flags differ, which KVM changes in place.
    case setFlags(number: UInt32, Slot)
  }

  /// By slot number; nil is free.
  private(set) var slots: [Slot?] = []

  /// The occupied slots by number.
  var occupied: [(number: UInt32, slot: Slot)] {
    slots.enumerated().compactMap { index, slot in slot.map { (UInt32(index), $0) } }
  }

  /// Makes the table hold `wanted`; answers the requests that make KVM follow, in order.
  mutating func update(_ wanted: [Slot]) -> [Change] {
    var changes: [Change] = []
    var missing = Set(wanted)
    for (index, slot) in slots.enumerated() {
      guard let slot else { continue }
      if missing.remove(slot) != nil { continue }
      var other = slot
      other.logsDirtyPages.toggle()
      if missing.remove(other) != nil {
        slots[index] = other
        changes.append(.setFlags(number: UInt32(index), other))
        continue
      }
      slots[index] = nil
      changes.insert(.delete(number: UInt32(index)), at: 0)
    }
    for slot in wanted where missing.remove(slot) != nil {
      let index = slots.firstIndex(where: { $0 == nil }) ?? slots.count
      if index == slots.count { slots.append(slot) } else { slots[index] = slot }
      changes.append(.add(number: UInt32(index), slot))
    }
    return changes
  }
}
