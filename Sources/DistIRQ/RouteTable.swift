// Routing facts of all local APICs, on this and on other nodes, readable without a lock.

import Synchronization

/// One word per vCPU; written by the owner of the APIC (or by the link that speaks for it), read by every sender.
final class RouteTable: Sendable {
  private let words: InlineArray<512, Atomic<UInt64>>
  /// x2APIC ID of each vCPU.
  let initialIDs: [UInt32]
  /// vCPU by x2APIC ID, where that is below the table's length; -1 where there is none.
  private let slotOfID: [Int32]
  /// Every present vCPU has the ID it was made with, so a physical destination needs no search.
  private let idsAreInitial = Atomic<Bool>(true)

  init(initialIDs: [UInt32]) {
    words = InlineArray { _ in Atomic(APICRoute.absent.rawValue) }
    self.initialIDs = initialIDs
    let length = min(Int(initialIDs.max() ?? 0) &+ 1, 65_536)
    var slots = [Int32](repeating: -1, count: length)
    for (slot, id) in initialIDs.enumerated() where Int(id) < length {
      slots[Int(id)] = Int32(slot)
    }
    slotOfID = slots
  }

  var count: Int { initialIDs.count }

  func route(_ slot: Int) -> APICRoute {
    APICRoute(rawValue: words[slot].load(ordering: .relaxed))
  }

  func set(_ slot: Int, _ route: APICRoute) {
    words[slot].store(route.rawValue, ordering: .releasing)
    let isInitial = route.mode == .disabled || route.id == initialIDs[slot]
    if !isInitial {
      idsAreInitial.store(false, ordering: .relaxed)
    } else if !idsAreInitial.load(ordering: .relaxed) {
      idsAreInitial.store(
        (0..<count).allSatisfy {
          self.route($0).mode == .disabled || self.route($0).id == initialIDs[$0]
        }, ordering: .relaxed)
    }
  }

  /// The only vCPU that `message` can be for, found without a search; nil when a search is needed.
  func singleDestination(_ message: InterruptMessage) -> Int? {
    guard message.destinationMode == .physical, !message.isBroadcast,
      idsAreInitial.load(ordering: .relaxed), Int(message.destination) < slotOfID.count
    else { return nil }
    let slot = Int(slotOfID[Int(message.destination)])
    guard slot >= 0, route(slot).matches(message, initialID: initialIDs[slot]) else { return nil }
    return slot
  }

  /// All vCPUs whose APIC the destination field of `message` addresses.
  func destinations(_ message: InterruptMessage) -> VCPUSet {
    var set = VCPUSet()
    for slot in 0..<count where route(slot).matches(message, initialID: initialIDs[slot]) {
      set.insert(slot)
    }
    return set
  }

  /// All vCPUs with an enabled local APIC.
  var present: VCPUSet {
    var set = VCPUSet()
    for slot in 0..<count where route(slot).mode != .disabled { set.insert(slot) }
    return set
  }
}
