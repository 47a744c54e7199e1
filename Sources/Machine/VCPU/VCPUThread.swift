import CPU
import DeviceModel
import DistIRQ
import Glibc
import Host
import Synchronization

/// One vCPU's host thread: takes its mail, injects interrupts, runs the guest, sleeps in HLT.
///
/// Any thread may `kick`, `pause` and `resume` it. While it is paused, whoever paused it may use the `VCPU`.
final class VCPUThread: Sendable {
  let vcpu: any VCPU
  let apic: LocalAPICUnit
  private let name: String
  private let signature: UInt32
  private let isBoot: Bool
  /// Other nodes wait for what the thread does, and it for them: it runs often rather than long.
  private let takesShortTurns: Bool
  private let onExit: @Sendable (VCPUID, VMExit) -> Void

  /// How many want it parked. The thread runs while it is zero.
  private let pauses: Atomic<Int>
  private let isParked = Atomic<Bool>(false)
  private let isSleeping = Atomic<Bool>(false)
  private let isEnding = Atomic<Bool>(false)
  /// Advanced by every kick; the thread sleeps on it.
  private let mail = WaitWord()
  /// Advanced when the thread parks; pausers wait on it.
  private let parked = WaitWord()
  private let activityBox: Atomic<UInt8>
  private let thread = Mutex<HostThread?>(nil)

  /// A parked vCPU, whose thread will be called `name`. `onExit` is called on its thread for `shutdown`, `debug` and `failure`, after the pause count was raised by one.
  init(
    name: String, vcpu: any VCPU, apic: LocalAPICUnit, signature: UInt32, tscFrequency: UInt64,
    isBoot: Bool, takesShortTurns: Bool = false,
    onExit: @escaping @Sendable (VCPUID, VMExit) -> Void
  ) {
    self.name = name
    self.vcpu = vcpu
    self.apic = apic
    self.signature = signature
    self.isBoot = isBoot
    self.takesShortTurns = takesShortTurns
    self.onExit = onExit
    pauses = Atomic(1)
    activityBox = Atomic(isBoot ? Activity.running : Activity.waitingForStartup)
    apic.connect(
      VCPUHooks(
        kick: { [weak self] in self?.kick() }, tscFrequency: tscFrequency,
        timeStampCounter: { vcpu.timeStampCounter }))
  }

  private enum Activity {
    static let running: UInt8 = 0
    static let halted: UInt8 = 1
    static let waitingForStartup: UInt8 = 2
  }

  /// Begins the thread, parked. Throws `SystemError`.
  func start() throws(SystemError) {
    let started = try HostThread(name: name) { [self] in loop() }
    thread.withLock { $0 = started }
  }

  /// The kernel's id of the thread, 0 before it runs.
  var threadID: Int64 { thread.withLock { $0?.id ?? 0 } }

  /// Whether the guest has executed HLT or waits for STARTUP. Any thread; a snapshot.
  var isHalted: Bool { activityBox.load(ordering: .relaxed) != Activity.running }

  var activity: VCPUActivity {
    switch activityBox.load(ordering: .acquiring) {
    case Activity.halted: .halted
    case Activity.waitingForStartup: .waitingForStartup
    default: .running
    }
  }

  /// Sets what the vCPU waits for. Paused only.
  func setActivity(_ activity: VCPUActivity) {
    let value =
      switch activity {
      case .running: Activity.running
      case .halted: Activity.halted
      case .waitingForStartup: Activity.waitingForStartup
      }
    activityBox.store(value, ordering: .releasing)
  }

  /// The state after a machine reset. Paused only. Throws `AcceleratorError`.
  func reset() throws(AcceleratorError) {
    Trace.write(.guestCPUReset, vcpu: vcpu.id.rawValue, "cpu=\(vcpu.id)")
    if Log.isEnabled(.cpuReset), let state = try? vcpu.readState() {
      Log.write(
        .cpuReset, "CPU Reset (CPU \(vcpu.id))\n" + state.registerText(withFloatingPoint: true))
    }
    try vcpu.writeState(CPUState.reset(signature: signature))
    setActivity(isBoot ? .running : .waitingForStartup)
  }

  // MARK: - Any thread

  /// There is something to look at: mail in the APIC, a pause, the end.
  func kick() {
    // Sequentially consistent with the sleeper: it sets the flag, then looks; we made the mail, then look at the flag.
    atomicMemoryFence(ordering: .sequentiallyConsistent)
    if isSleeping.load(ordering: .relaxed) { mail.advance() } else { vcpu.requestExit() }
  }

  /// Asks the thread to park; it does so soon.
  func pause() {
    pauses.wrappingAdd(1, ordering: .sequentiallyConsistent)
    kick()
  }

  /// Waits until the thread has parked or ended, at most so long: false when it has not. Never on a vCPU's thread.
  func waitUntilParked(nanoseconds: Int64) -> Bool {
    let end = HostClock.monotonic &+ nanoseconds
    while true {
      let seen = parked.value
      if isParked.load(ordering: .acquiring) || isEnding.load(ordering: .acquiring) { return true }
      let left = end &- HostClock.monotonic
      if left <= 0 { return false }
      parked.wait(while: seen, nanoseconds: left)
    }
  }

  /// Takes back one `pause`.
  func resume() {
    let left = pauses.wrappingSubtract(1, ordering: .sequentiallyConsistent).newValue
    if left == 0 { mail.advance() }
  }

  /// Ends the thread and waits for its end. It must be paused.
  func end() {
    isEnding.store(true, ordering: .sequentiallyConsistent)
    mail.advance()
    thread.withLock { thread in
      thread?.join()
      thread = nil
    }
  }

  // MARK: - The vCPU's thread

  private func loop() {
    if takesShortTurns { ThreadDuty.preferShortTurns() }
    Trace.write(.guestCPUEnter, vcpu: vcpu.id.rawValue, "cpu=\(vcpu.id)")
    defer { Trace.write(.guestCPUExit, vcpu: vcpu.id.rawValue, "cpu=\(vcpu.id)") }
    while true {
      if pauses.load(ordering: .acquiring) > 0, !park() { return }
      takeEvents()
      guard activityBox.load(ordering: .relaxed) == Activity.running || wakes() else {
        sleep()
        continue
      }
      deliverInterrupt()
      switch vcpu.run() {
      case .halt:
        Trace.write(.cpuHalt, vcpu: vcpu.id.rawValue, "cpu=\(vcpu.id)")
        activityBox.store(Activity.halted, ordering: .relaxed)
      case .interrupted, .interruptWindow:
        break
      case let exit:
        pauses.wrappingAdd(1, ordering: .sequentiallyConsistent)
        onExit(vcpu.id, exit)
      }
    }
  }

  /// Waits until nobody wants a pause; false when the thread must end.
  private func park() -> Bool {
    isParked.store(true, ordering: .sequentiallyConsistent)
    isSleeping.store(true, ordering: .sequentiallyConsistent)
    parked.advance()
    defer {
      isSleeping.store(false, ordering: .sequentiallyConsistent)
      isParked.store(false, ordering: .sequentiallyConsistent)
    }
    while true {
      let seen = mail.value
      if isEnding.load(ordering: .acquiring) { return false }
      if pauses.load(ordering: .sequentiallyConsistent) == 0 { return true }
      mail.wait(while: seen)
    }
  }

  /// INIT, STARTUP, NMI.
  private func takeEvents() {
    guard !apic.pending.events.isEmpty else { return }
    let (events, vector) = apic.takeEvents()
    if events.contains(.initialize) {
      Log.write(.interrupts, "CPU \(vcpu.id): INIT")
      if let state = try? vcpu.readState() {
        Log.write(
          .cpuReset, "CPU Reset (CPU \(vcpu.id))\n" + state.registerText(withFloatingPoint: true))
        try? vcpu.writeState(state.initialized(signature: signature))
      }
      setActivity(isBoot ? .running : .waitingForStartup)
    }
    if events.contains(.startUp), activity == .waitingForStartup, var state = try? vcpu.readState()
    {
      Log.write(.interrupts, "CPU \(vcpu.id): STARTUP vector 0x\(String(vector, radix: 16))")
      state.start(vector: vector)
      try? vcpu.writeState(state)
      setActivity(.running)
    }
    if events.contains(.nmi), activity != .waitingForStartup {
      Log.write(.interrupts, "CPU \(vcpu.id): NMI")
      vcpu.injectNMI()
      setActivity(.running)
    }
  }

  /// Whether a halted vCPU has an interrupt that it may take now.
  private func wakes() -> Bool {
    guard mayWake else { return false }
    activityBox.store(Activity.running, ordering: .relaxed)
    return true
  }

  private var mayWake: Bool {
    activityBox.load(ordering: .relaxed) == Activity.halted && apic.pending.hasInterrupt
      && vcpu.canAcceptInterrupt
  }

  private func sleep() {
    isSleeping.store(true, ordering: .sequentiallyConsistent)
    let seen = mail.value
    atomicMemoryFence(ordering: .sequentiallyConsistent)
    let mustLook =
      pauses.load(ordering: .relaxed) > 0 || !apic.pending.events.isEmpty || mayWake
    if !mustLook { mail.wait(while: seen) }
    isSleeping.store(false, ordering: .sequentiallyConsistent)
  }

  private func deliverInterrupt() {
    guard apic.pending.hasInterrupt else {
      if vcpu.wantsInterruptWindow { vcpu.wantsInterruptWindow = false }
      return
    }
    if vcpu.canAcceptInterrupt {
      if let vector = apic.acknowledge() {
        Log.write(
          .interrupts, "CPU \(vcpu.id): interrupt vector 0x\(String(vector, radix: 16))")
        Trace.write(
          .cpuInterrupt, vcpu: vcpu.id.rawValue,
          "cpu=\(vcpu.id) vector \(Trace.hex(UInt64(vector)))")
        vcpu.inject(vector: vector)
      }
      vcpu.wantsInterruptWindow = apic.pending.hasInterrupt
    } else {
      vcpu.wantsInterruptWindow = true
    }
  }
}
