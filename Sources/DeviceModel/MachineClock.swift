/// The machine's time: nanoseconds of virtual time, which stands still while the machine is paused.
///
/// Two implementations: the machine's own over the host's clock, and the tests' fake.
package protocol MachineClock: AnyObject, Sendable {
  /// Virtual nanoseconds since the machine was made. Any thread.
  var now: Int64 { get }
  /// The guest's wall clock: nanoseconds since 1970-01-01 UTC by the clock that `-rtc clock=` chose. Any thread.
  var wallClock: Int64 { get }
  /// A timer that calls `fire` (short, no lock of the caller's may be held across `arm`) when virtual time reaches its deadline.
  func makeTimer(_ fire: @escaping @Sendable () -> Void) -> any MachineTimer
}

/// A timer in virtual time. Released, it does not fire any more.
package protocol MachineTimer: AnyObject, Sendable {
  /// Fires once at `deadline` (virtual nanoseconds), at once if that has passed; replaces an earlier deadline. Any thread.
  func arm(at deadline: Int64)
  /// Does not fire any more, unless it is firing right now. Any thread.
  func cancel()
}
