// A local APIC in place: the model behind its lock, what a vCPU thread can see of it without the lock, its timer.

import DeviceModel
import Synchronization

/// What waits for a vCPU, in one word; 0 is nothing.
package struct PendingInterrupts: Equatable, Sendable, BitwiseCopyable {
  /// Bits 7-0 vector, 8 external, 19-16 events.
  let rawValue: UInt32

  /// Nothing.
  package static let none = PendingInterrupts(rawValue: 0)

  init(rawValue: UInt32) { self.rawValue = rawValue }

  init(_ apic: borrowing LocalAPIC) {
    rawValue =
      UInt32(apic.deliverableVector ?? 0) | (apic.externalInterruptPending ? 1 << 8 : 0)
      | UInt32(apic.events.rawValue) << 16
  }

  /// True when there is nothing to look at.
  package var isEmpty: Bool { rawValue == 0 }
  /// A maskable interrupt: of the local APIC or of the 8259 pair.
  package var hasInterrupt: Bool { rawValue & 0x1FF != 0 }
  /// The vector of the local APIC, if that has one above the processor priority.
  package var vector: UInt8? {
    let vector = UInt8(truncatingIfNeeded: rawValue)
    return vector == 0 ? nil : vector
  }
  /// The 8259 pair (or an ExtINT message) asks for an acknowledge cycle.
  package var external: Bool { rawValue & 1 << 8 != 0 }
  /// NMI, SMI, INIT, start-up.
  package var events: LocalAPIC.Events {
    LocalAPIC.Events(rawValue: UInt8(truncatingIfNeeded: rawValue >> 16 & 0xF))
  }
}

/// What the accelerator lends to a local APIC.
package struct VCPUHooks: Sendable {
  /// Makes the vCPU's thread look at `LocalAPICUnit.pending` soon. Any thread, no lock of this module held.
  package var kick: @Sendable () -> Void
  /// The vCPU's time stamp counter now. Any thread; a lock of this module may be held.
  package var timeStampCounter: @Sendable () -> UInt64
  /// Ticks of it in a second.
  package var tscFrequency: UInt64

  /// Hooks; without a counter the TSC-deadline timer sees one that stands at 0.
  package init(
    kick: @escaping @Sendable () -> Void, tscFrequency: UInt64 = 1_000_000_000,
    timeStampCounter: @escaping @Sendable () -> UInt64 = { 0 }
  ) {
    self.kick = kick
    self.tscFrequency = max(tscFrequency, 1)
    self.timeStampCounter = timeStampCounter
  }
}

/// One local vCPU's APIC and its surroundings. The fabric owns it; `LocalAPICUnit` is the handle for others.
final class LocalAPICSlot: Sendable {
  let index: Int
  private let state: Mutex<LocalAPIC>
  private let published: Atomic<UInt32>
  /// Address of the register page, or all ones when there is none.
  private let page: Atomic<UInt64>
  /// Task priority register, for reads.
  private let tpr = Atomic<UInt8>(0)
  /// Guest time at which the timer wants to be looked at.
  private let deadline = Atomic<Int64>(Int64.max)
  private let hooks = Mutex<VCPUHooks?>(nil)
  private let routes: RouteTable
  private let clock: any MachineClock
  private let timer = Mutex<(any MachineTimer)?>(nil)
  /// Tells the other nodes about a new route.
  private let routeChanged: (@Sendable (Int, APICRoute) -> Void)?

  init(
    index: Int, apic: LocalAPIC, routes: RouteTable, clock: any MachineClock,
    routeChanged: (@Sendable (Int, APICRoute) -> Void)?
  ) {
    self.index = index
    self.routes = routes
    self.clock = clock
    self.routeChanged = routeChanged
    published = Atomic(PendingInterrupts(apic).rawValue)
    page = Atomic(apic.mode == .xAPIC ? apic.base.pageAddress : UInt64.max)
    state = Mutex(apic)
    routes.set(index, apic.route)
    let made = clock.makeTimer { [weak self] in self?.timerFired() }
    timer.withLock { $0 = made }
  }

  // MARK: - Without the lock

  var pending: PendingInterrupts {
    PendingInterrupts(rawValue: published.load(ordering: .acquiring))
  }

  func claims(_ address: UInt64) -> Bool {
    address & ~0xFFF == page.load(ordering: .relaxed)
  }

  var taskPriority: UInt8 { tpr.load(ordering: .relaxed) }

  /// Guest time of the next timer expiry, or `Int64.max`.
  var nextDeadline: Int64 { deadline.load(ordering: .acquiring) }

  func connect(_ new: VCPUHooks) { hooks.withLock { $0 = new } }

  func kick() {
    let hooks = hooks.withLock { $0 }
    hooks?.kick()
  }

  // MARK: - With the lock

  /// Runs `body` on the model and publishes what changed. The Boolean answers whether there is something new
  /// for the vCPU to look at; a caller on another thread then calls `kick` once it holds no lock.
  func update<R: Sendable>(_ body: (inout LocalAPIC) -> R) -> (R, kick: Bool) {
    var routeToTell: APICRoute?
    var deadlineChanged = false
    let result = state.withLock { apic -> (R, Bool) in
      let before = (apic.route, apic.nextDeadline)
      let result = body(&apic)
      let now = PendingInterrupts(apic).rawValue
      let old = published.load(ordering: .relaxed)
      if now != old { published.store(now, ordering: .releasing) }
      tpr.store(apic.tpr, ordering: .relaxed)
      let route = apic.route
      if route != before.0 {
        routes.set(index, route)
        routeToTell = route
      }
      page.store(apic.mode == .xAPIC ? apic.base.pageAddress : UInt64.max, ordering: .relaxed)
      if apic.nextDeadline != before.1 {
        deadline.store(hostDeadline(apic.nextDeadline), ordering: .releasing)
        deadlineChanged = true
      }
      return (result, now != old && now != 0)
    }
    if deadlineChanged { armTimer() }
    if let routeToTell, let routeChanged { routeChanged(index, routeToTell) }
    return result
  }

  /// Delivers a message that was routed here. True: kick the vCPU when no lock is held.
  func accept(_ message: InterruptMessage) -> Bool {
    let (_, kick) = update { $0.accept(message) }
    return kick
  }

  /// A copy of the model.
  var snapshot: LocalAPIC { state.withLock { $0 } }

  // MARK: - Time

  /// Both counters; the second only when somebody can see it.
  func time(withTSC: Bool) -> APICTime {
    let now = UInt64(bitPattern: clock.now)
    guard withTSC, let hooks = hooks.withLock({ $0 }) else { return APICTime(nanoseconds: now) }
    return APICTime(nanoseconds: now, tsc: hooks.timeStampCounter())
  }

  /// Looks whether the timer has expired. True when there is something new to look at.
  func advanceTimer() -> Bool { expire().kick }

  private func timerFired() {
    let (expired, kick) = expire()
    // Too early (the deadline has moved): arm it anew.
    if !expired { armTimer() }
    if kick { self.kick() }
  }

  /// Lets the timer expire by guest time. The time stamp counter was asked when the deadline was set, on the
  /// vCPU's own thread, and not here: on a host whose counter is unstable another thread cannot know it.
  private func expire() -> (Bool, kick: Bool) {
    let now = clock.now
    return update { apic in
      var time = APICTime(nanoseconds: UInt64(bitPattern: now))
      if case .tsc(let target) = apic.nextDeadline, now >= deadline.load(ordering: .relaxed) {
        time.tsc = target
      }
      return apic.advance(to: time)
    }
  }

  /// Computes the deadline again and arms the timer: after the time stamp counter was set.
  func refreshDeadline() {
    state.withLock { apic in
      deadline.store(hostDeadline(apic.nextDeadline), ordering: .releasing)
    }
    armTimer()
  }

  private func hostDeadline(_ deadline: APICDeadline) -> Int64 {
    switch deadline {
    case .none: return Int64.max
    case .nanoseconds(let at): return Int64(bitPattern: at)
    case .tsc(let target):
      guard let hooks = hooks.withLock({ $0 }) else { return Int64.max }
      let now = clock.now
      let counter = hooks.timeStampCounter()
      guard target > counter else { return now }
      let ticks = target &- counter
      // ticks * 10^9 / frequency, rounded up, in 128 bits: a guest may ask for any counter value.
      let product = ticks.multipliedFullWidth(by: 1_000_000_000)
      guard product.high < hooks.tscFrequency else { return Int64.max }
      let quotient = hooks.tscFrequency.dividingFullWidth(product).quotient
      guard quotient < UInt64(Int64.max / 2) else { return Int64.max }
      return now &+ Int64(quotient) &+ 1
    }
  }

  /// Arms the machine's timer with the published deadline. Called without the lock, so two threads may meet
  /// here: whoever arms last has seen the newest deadline, because it reads it again afterwards.
  private func armTimer() {
    guard let timer = timer.withLock({ $0 }) else { return }
    var wanted = deadline.load(ordering: .sequentiallyConsistent)
    while true {
      if wanted == Int64.max { timer.cancel() } else { timer.arm(at: wanted) }
      let again = deadline.load(ordering: .sequentiallyConsistent)
      if again == wanted { return }
      wanted = again
    }
  }
}
