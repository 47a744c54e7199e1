package import Cluster
import Synchronization

/// Collects every node's transitions in one order, within one process, for `CoherenceTrace.firstViolation`. For tests: it reads whole pages.
@safe package final class CoherenceTracer: Sendable {
  private struct State {
    var trace = CoherenceTrace()
    /// The generation by which each node got its copy, by page * 64 + node.
    var copies: [UInt64: UInt64] = [:]
  }
  private let state = Mutex(State())

  package init() {}

  package var trace: CoherenceTrace { state.withLock { $0.trace } }

  /// Notes an event; `gen` nil: that of the node's copy.
  func note(
    _ event: CoherenceTrace.Event, _ page: UInt64, _ node: NodeID, gen: UInt64?,
    _ bytes: UnsafeMutableRawPointer
  ) {
    let hash = unsafe CoherenceTracer.hash(bytes)
    state.withLock { state in
      let key = page * 64 + UInt64(node.rawValue)
      if event == .gotS || event == .gotM { state.copies[key] = gen }
      state.trace.append(
        CoherenceTrace.Entry(
          time: UInt64(state.trace.entries.count), node: node, page: page, event: event,
          gen: gen ?? state.copies[key] ?? 0, hash: hash))
    }
  }

  /// Of a page's bytes: every word counts, by its place.
  private static func hash(_ bytes: UnsafeMutableRawPointer) -> UInt64 {
    var hash: UInt64 = 0xCBF2_9CE4_8422_2325
    var offset = 0
    while offset < Int(GuestAddress.pageSize) {
      // SAFETY: within the page.
      hash = unsafe (hash ^ bytes.load(fromByteOffset: offset, as: UInt64.self)) &* 0x100_0000_01B3
      offset += 8
    }
    return hash
  }
}
