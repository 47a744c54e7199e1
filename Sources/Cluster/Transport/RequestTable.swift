import Host
import Synchronization

/// The requests of a node that wait for their replies. A waiter sleeps on its own word, and nothing is allocated for it.
final class RequestTable: Sendable {
  /// One request. Its number on the wire is its place, and how often the place was used.
  final class Slot: Sendable {
    struct Outcome {
      var argument: UInt64 = 0
      var body: [UInt8] = []
      var failure: TransportError?
    }
    let index: Int
    let waiter = FrameWaiter()
    let outcome = Mutex(Outcome())

    init(index: Int) { self.index = index }

    fileprivate func finish(_ result: Outcome) {
      outcome.withLock { $0 = result }
      waiter.finish()
    }
  }

  private struct Entry {
    let slot: Slot
    /// Numbers uses, so that a late reply meets nobody.
    var use: UInt32 = 0
    /// Whom it asks; nil while it is free.
    var node: NodeID?
  }
  private struct State {
    var entries: [Entry] = []
    var free: [Int] = []
    var lost: UInt64 = 0
  }
  private let state = Mutex(State())

  // Numbers are use << 12 | place + 1.
  private static let placeBits: UInt32 = 12
  /// Most requests at a time: far more than a node has threads that wait.
  private static let limit = (1 << 12) - 2

  /// A place for a request to `node`, and its number. Throws when the node is lost.
  func begin(_ node: NodeID) throws(TransportError) -> (slot: Slot, number: UInt32) {
    let made: (Slot, UInt32)? = state.withLock { state in
      if state.lost & 1 << UInt64(node.rawValue & 63) != 0 { return nil }
      if state.free.isEmpty {
        // As many as there are threads that wait at a time; the limit is out of their reach.
        let index = state.entries.count
        precondition(index < RequestTable.limit, "requests of \(index) threads")
        state.entries.append(Entry(slot: Slot(index: index)))
        state.free.append(index)
      }
      let index = state.free.removeLast()
      state.entries[index].use = (state.entries[index].use &+ 1) & 0xF_FFFF
      state.entries[index].node = node
      let slot = state.entries[index].slot
      slot.waiter.reset()
      return (slot, state.entries[index].use << RequestTable.placeBits | UInt32(index + 1))
    }
    guard let made else { throw .lost(node) }
    return made
  }

  /// The result of a slot that is done, which is free afterwards.
  func end(_ slot: Slot) throws(TransportError) -> FrameReply {
    let outcome = slot.outcome.withLock { outcome in
      let result = outcome
      outcome = Slot.Outcome()
      return result
    }
    state.withLock { $0.free.append(slot.index) }
    if let failure = outcome.failure { throw failure }
    return FrameReply(argument: outcome.argument, body: outcome.body)
  }

  /// A reply of `node`; false when nobody waits for it.
  func complete(
    _ number: UInt32, of node: NodeID, argument: UInt64, body: [UInt8], isRefusal: Bool
  ) -> Bool {
    let index = Int(number & (1 << RequestTable.placeBits - 1)) - 1
    let slot: Slot? = state.withLock { state in
      guard index >= 0, index < state.entries.count, state.entries[index].node == node,
        state.entries[index].use == number >> RequestTable.placeBits
      else { return nil }
      state.entries[index].node = nil
      return state.entries[index].slot
    }
    guard let slot else { return false }
    var outcome = Slot.Outcome(argument: argument, body: body)
    if isRefusal { outcome.failure = .refused(String(decoding: body, as: UTF8.self)) }
    slot.finish(outcome)
    return true
  }

  /// Fails what waits for `node`, now and later.
  func lose(_ node: NodeID) {
    let slots: [Slot] = state.withLock { state in
      state.lost |= 1 << UInt64(node.rawValue & 63)
      var found: [Slot] = []
      for index in state.entries.indices where state.entries[index].node == node {
        state.entries[index].node = nil
        found.append(state.entries[index].slot)
      }
      return found
    }
    for slot in slots { slot.finish(Slot.Outcome(failure: .lost(node))) }
  }
}
