/// The watchdog timer of iBASE's IB700 board (ib700wdt.c of Linux): two ports, sixteen lengths of time. A pure model.
package struct IB700Model: Equatable, Sendable {
  /// Any write there stops the timer.
  package static let disablePort: UInt16 = 0x441
  /// Writing n there starts it anew for 30 - 2n seconds.
  package static let enablePort: UInt16 = 0x443

  /// Virtual nanoseconds at which it expires; nil while it does not run.
  package private(set) var deadline: Int64?

  package init() {}

  /// A write to one of the two ports at virtual time `now`.
  package mutating func write(_ port: UInt16, _ value: UInt8, at now: Int64) {
    switch port {
    case IB700Model.enablePort:
      deadline = now &+ Int64(30 - 2 * Int(value & 15)) * 1_000_000_000
    case IB700Model.disablePort: deadline = nil
    default: break
    }
  }

  /// Whether it expires at `now`; it stops then.
  package mutating func expires(at now: Int64) -> Bool {
    guard let due = deadline, due <= now else { return false }
    deadline = nil
    return true
  }
}
