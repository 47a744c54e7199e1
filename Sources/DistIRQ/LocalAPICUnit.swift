import DeviceModel

/// A vCPU's local APIC as its thread uses it: the handle to one slot of the fabric.
///
/// Everything may be called from any thread, but register accesses, `acknowledge` and `takeEvents` are the
/// vCPU's. None of them kicks the vCPU itself: its thread looks at `pending` before it enters the guest.
package struct LocalAPICUnit: Sendable {
  let fabric: InterruptFabric
  let slot: LocalAPICSlot

  /// What waits for the vCPU. One atomic load.
  package var pending: PendingInterrupts { slot.pending }

  /// Connects the accelerator's vCPU. Before the vCPU's first run.
  package func connect(_ hooks: VCPUHooks) {
    slot.connect(hooks)
    slot.refreshDeadline()
  }

  // MARK: - Interrupts and events

  /// An interrupt acknowledge cycle: the vector to deliver now, or nil when nothing is deliverable any more.
  package func acknowledge() -> UInt8? {
    guard slot.pending.hasInterrupt else { return nil }
    let (answer, _) = slot.update { apic -> LocalAPIC.Acknowledgement in
      guard apic.externalInterruptPending || apic.deliverableVector != nil else { return .none }
      return apic.acknowledge()
    }
    switch answer {
    case .vector(let vector): return vector
    case .external: return fabric.acknowledgePIC()
    case .none: return nil
    }
  }

  /// Takes NMI, SMI, INIT and start-up. INIT has then already reset the registers of the local APIC; the core
  /// is the caller's: on `.initialize` reset it and, unless it is the boot processor, wait; on
  /// `.startUp` (after the former, if both) go on at page `startUpVector`.
  package func takeEvents() -> (events: LocalAPIC.Events, startUpVector: UInt8) {
    guard !slot.pending.events.isEmpty else { return ([], 0) }
    return slot.update { ($0.takeEvents(), $0.startUpVector) }.0
  }

  /// The core is an application processor that waits for a start-up message.
  package var isWaitingForStartUp: Bool { slot.snapshot.isWaitingForStartUp }

  /// The task priority register, all eight bits: class in bits 7-4. CR8 is the class (see `LocalAPIC.cr8`).
  /// Reading is one atomic load; writing the value that it has costs no more.
  package var taskPriority: UInt8 {
    get { slot.taskPriority }
    nonmutating set {
      guard newValue != slot.taskPriority else { return }
      _ = slot.update { $0.tpr = newValue }
    }
  }

  // MARK: - Registers

  /// True when `address` is in the register page: xAPIC mode, at the address in IA32_APIC_BASE.
  package func claims(address: UInt64) -> Bool { slot.claims(address) }

  /// A read of `width` bytes at `offset` in the register page.
  package func read(offset: UInt32, width: Int) -> UInt64 {
    let time = registerTime(LocalAPIC.needsTime(offset: offset))
    return slot.update { $0.read(offset: offset, width: width, at: time) }.0
  }

  /// A write of `width` bytes at `offset` in the register page.
  package func write(offset: UInt32, width: Int, _ value: UInt64) {
    let time = registerTime(LocalAPIC.needsTime(offset: offset))
    perform(slot.update { $0.write(offset: offset, width: width, value, at: time) }.0)
  }

  /// RDMSR of one of `LocalAPIC.claims(msr:)`. Nil: general protection fault.
  package func readMSR(_ index: UInt32) -> UInt64? {
    let time = registerTime(LocalAPIC.needsTime(msr: index))
    return slot.update { apic -> UInt64? in
      // A deadline that has passed reads as disarmed.
      if index == LocalAPIC.tscDeadlineMSR { apic.advance(to: time) }
      return apic.readMSR(index, at: time)
    }.0
  }

  /// WRMSR of one of `LocalAPIC.claims(msr:)`. False: general protection fault.
  package func writeMSR(_ index: UInt32, _ value: UInt64) -> Bool {
    let time = registerTime(LocalAPIC.needsTime(msr: index))
    guard let outcome = slot.update({ $0.writeMSR(index, value, at: time) }).0 else {
      return false
    }
    perform(outcome)
    return true
  }

  /// An event of a local source, such as a counter overflow.
  package func raise(_ source: LocalAPIC.LocalSource) {
    if slot.update({ $0.raise(source) }).kick { slot.kick() }
  }

  // MARK: - Timer

  /// Guest time (of the machine's clock) at which the timer is due, or `Int64.max`. For a thread that sleeps by
  /// itself; the machine's timer fires then anyway.
  package var nextDeadline: Int64 { slot.nextDeadline }

  /// Lets the timer expire if it is time, without waiting for the machine's timer.
  package func advanceTimer() { _ = slot.advanceTimer() }

  /// To be called when the vCPU's time stamp counter was set: the deadline in guest time is another now.
  package func timeStampCounterChanged() { slot.refreshDeadline() }

  // MARK: - State

  /// A copy of the model: for inspection and saving.
  package var snapshot: LocalAPIC { slot.snapshot }

  /// Replaces the model by a saved one. The vCPU is paused.
  package func restore(_ apic: LocalAPIC) {
    _ = slot.update { $0 = apic }
    slot.refreshDeadline()
  }

  /// Power-on reset of the local APIC. The vCPU is paused.
  package func reset() { _ = slot.update { $0.reset() } }

  // MARK: - Private

  private func registerTime(_ needed: Bool) -> APICTime {
    needed ? slot.time(withTSC: true) : APICTime(nanoseconds: 0)
  }

  private func perform(_ outcome: LocalAPICOutcome) {
    switch outcome {
    case .none: break
    case .ipi(let message, let shorthand):
      fabric.send(message, shorthand: shorthand, from: slot.index)
    case .endOfInterrupt(let vector): fabric.endOfInterrupt(vector: vector)
    }
  }
}
