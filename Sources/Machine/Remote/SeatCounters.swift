package import Host

/// What a node's machine asked of others: interrupts, device accesses, ends of interrupts. Any thread.
package final class SeatCounters: Sendable {
  /// Kinds of device accesses that node 0 makes for this node.
  package enum Access: Int, Sendable, CaseIterable {
    case portRead
    case portWrite
    case memoryRead
    case memoryWrite

    /// The word in metrics.
    package var word: String {
      switch self {
      case .portRead: "port-read"
      case .portWrite: "port-write"
      case .memoryRead: "memory-read"
      case .memoryWrite: "memory-write"
      }
    }
  }

  /// Interrupts sent to vCPUs of other nodes, by delivery mode's number.
  package let remoteInterrupts = CounterTable(count: 8)
  /// Time (nanoseconds) that their senders spent.
  package let interruptTime = CounterTable(count: 1)
  /// Accesses by kind, and the time (nanoseconds) that vCPUs waited for them.
  package let accesses = CounterTable(count: Access.allCases.count)
  package let accessTime = CounterTable(count: Access.allCases.count)
  /// Ends of level-triggered interrupts that went to node 0.
  package let endsOfInterrupt = CounterTable(count: 1)

  package init() {}
}
