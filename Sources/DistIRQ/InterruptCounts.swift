import Synchronization

/// How many interrupts there were of each delivery mode. Any thread: a relaxed addition each, no lock.
package final class InterruptCounts: Sendable {
  private let fixed = Atomic<UInt64>(0)
  private let lowestPriority = Atomic<UInt64>(0)
  private let nmi = Atomic<UInt64>(0)
  private let external = Atomic<UInt64>(0)
  /// INIT, start-up messages and the rest, which are rare.
  private let others = Mutex<[UInt64]>(Array(repeating: 0, count: 8))

  package init() {}

  func add(_ mode: DeliveryMode) {
    switch mode {
    case .fixed: fixed.wrappingAdd(1, ordering: .relaxed)
    case .lowestPriority: lowestPriority.wrappingAdd(1, ordering: .relaxed)
    case .nmi: nmi.wrappingAdd(1, ordering: .relaxed)
    case .external: external.wrappingAdd(1, ordering: .relaxed)
    case .smi, .reserved, .initialize, .startUp:
      others.withLock { $0[Int(mode.rawValue)] &+= 1 }
    }
  }

  package subscript(_ mode: DeliveryMode) -> UInt64 {
    switch mode {
    case .fixed: fixed.load(ordering: .relaxed)
    case .lowestPriority: lowestPriority.load(ordering: .relaxed)
    case .nmi: nmi.load(ordering: .relaxed)
    case .external: external.load(ordering: .relaxed)
    case .smi, .reserved, .initialize, .startUp: others.withLock { $0[Int(mode.rawValue)] }
    }
  }
}
