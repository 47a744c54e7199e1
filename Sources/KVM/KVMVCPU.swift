import CKVM
import CLinux
package import CPU
package import DeviceModel
import Glibc
import Host
import Synchronization

/// A vCPU of accelerator `kvm`.
///
/// `@unchecked Sendable`: everything but the atomics and `requestExit` belongs to the thread that runs it, or to whoever has it
/// paused, as the `VCPU` protocol says; the protocol's user provides the happens-before edge when that changes.
package final class KVMVCPU: VCPU, @unchecked Sendable {
  package let id: VCPUID
  package let apicID: APICID

  let vm: KVMVirtualMachine
  let host: any VCPUHost
  let file: VCPUFile
  private let statisticsSource = StatisticsSource()

  // MARK: What other threads touch

  /// `run` is to come back.
  private let exitRequested = Atomic<Bool>(false)
  /// The thread is in KVM_RUN, or about to be.
  private let isInside = Atomic<Bool>(false)
  /// The kernel's id of the thread that runs the vCPU.
  private let thread = Atomic<Int64>(0)
  /// Guest's minus host's time-stamp counter.
  let tscOffset = Atomic<UInt64>(0)

  // MARK: What the owner thread touches

  private var runner = pthread_t()
  var activity = VCPUActivity.running
  /// CR8 as guest and local APIC last agreed on it.
  var taskPriorityClass: UInt8 = 0
  /// The last exit asked for data or an answer that the kernel takes at the next KVM_RUN.
  var hasPendingCompletion = false
  /// The run area holds registers as they are (general, system, events).
  var registersInArea = false
  /// Exits since the registers were last asked for; beyond a limit the kernel need not store them any more.
  var exitsSinceRead: UInt32 = 0
  /// Registers that this host lets a VMM read.
  var msrIndices: [UInt32]
  /// The TSC that `readState` answered last; the same value written back changes nothing.
  var tscRead: UInt64?

  /// The kernel's counters about the vCPU; nil when it has none.
  package var counters: [AcceleratorStatistic]? {
    statisticsSource.counters(of: file.file.rawValue)
  }

  init(
    id: VCPUID, apicID: APICID, vm: KVMVirtualMachine, host: any VCPUHost, file: consuming VCPUFile,
    msrIndices: [UInt32]
  ) {
    self.id = id
    self.apicID = apicID
    self.vm = vm
    self.host = host
    self.file = file
    self.msrIndices = msrIndices
    _ = goliath_install_kick_handler(KVMVCPU.kickSignal)
  }

  deinit { vm.remove(self) }

  // MARK: - Kicks

  /// Its empty handler interrupts KVM_RUN.
  static let kickSignal = SIGUSR1

  package func requestExit() {
    // Who finds it set already relies on the one who set it.
    if exitRequested.exchange(true, ordering: .sequentiallyConsistent) { return }
    evict()
  }

  /// Makes the thread leave the guest if it is there; answers whether it was.
  @discardableResult
  func evict() -> Bool {
    // First the flag that the kernel reads at the beginning of KVM_RUN, then the signal for what is past that point: nothing is lost.
    file.area.setImmediateExit(true)
    guard isInside.load(ordering: .sequentiallyConsistent) else { return false }
    goliath_kick_thread(thread.load(ordering: .acquiring), KVMVCPU.kickSignal)
    return true
  }

  /// Notes the thread that runs the vCPU, and lets it be interrupted.
  private func adopt(_ current: pthread_t) {
    runner = current
    thread.store(goliath_thread_id(), ordering: .releasing)
    var set = sigset_t()
    // SAFETY: the set lives through the calls.
    unsafe sigemptyset(&set)
    unsafe sigaddset(&set, KVMVCPU.kickSignal)
    unsafe pthread_sigmask(SIG_UNBLOCK, &set, nil)
  }

  // MARK: - Running

  package func run() -> VMExit {
    let current = pthread_self()
    if current != runner { adopt(current) }
    if activity != .running {
      return exitRequested.exchange(false, ordering: .sequentiallyConsistent) ? .interrupted : .halt
    }
    loadTaskPriority()
    while true {
      if let error = enter() {
        if error == -Int(EINTR) || error == -Int(EAGAIN) {
          if takeExitRequest() { return .interrupted }
          continue
        }
        return .failure("kvm: KVM_RUN: \(SystemError(call: "KVM_RUN", code: Int32(-error)).reason)")
      }
      if let exit = handleExit() { return exit }
      if exitRequested.load(ordering: .relaxed), takeExitRequest() { return .interrupted }
    }
  }

  /// Clears the request to leave; answers whether there was one.
  private func takeExitRequest() -> Bool {
    file.area.setImmediateExit(false)
    return exitRequested.exchange(false, ordering: .sequentiallyConsistent)
  }

  /// KVM_RUN once: nil after an exit, else -errno (-EINTR also when there was no need to enter).
  @inline(__always) private func enter() -> Int? {
    isInside.store(true, ordering: .sequentiallyConsistent)
    while vm.gate.isClosed {
      isInside.store(false, ordering: .sequentiallyConsistent)
      vm.gate.noteDeparture()
      vm.gate.waitUntilOpen()
      // The flag that evicted us stays: clearing it could swallow a request to exit; it costs one empty KVM_RUN.
      isInside.store(true, ordering: .sequentiallyConsistent)
    }
    // A request that came before `isInside` was visible has set the flag that KVM_RUN looks at first; this only saves the call.
    if exitRequested.load(ordering: .sequentiallyConsistent), !hasPendingCompletion {
      isInside.store(false, ordering: .releasing)
      return -Int(EINTR)
    }
    let result = file.run()
    isInside.store(false, ordering: .releasing)
    hasPendingCompletion = false
    registersInArea = file.area.validRegisters != 0
    return result < 0 ? result : nil
  }

  /// Lets the kernel finish the access that the last exit was about, so that the registers are those after the instruction.
  func completePendingAccess() {
    while hasPendingCompletion {
      file.area.setImmediateExit(true)
      isInside.store(true, ordering: .sequentiallyConsistent)
      let result = file.run()
      isInside.store(false, ordering: .releasing)
      hasPendingCompletion = false
      registersInArea = file.area.validRegisters != 0
      // Another part of the same instruction: string accesses, or one that crosses a page.
      if result >= 0 { _ = handleExit() }
    }
    file.area.setImmediateExit(exitRequested.load(ordering: .sequentiallyConsistent))
  }

  // MARK: - Interrupts

  package var canAcceptInterrupt: Bool { file.area.isReadyForInterrupt }

  package func inject(vector: UInt8) {
    flushRegisters()
    // KVM queues it whatever the state; only an irqchip in the kernel would make it fail.
    try? file.interrupt(vector)
    file.area.isReadyForInterrupt = false
    registersInArea = false
    if activity == .halted { activity = .running }
  }

  package func injectNMI() {
    flushRegisters()
    try? file.nmi()
    registersInArea = false
    if activity == .halted { activity = .running }
  }

  package var wantsInterruptWindow: Bool {
    get { file.area.requestsInterruptWindow }
    set { file.area.requestsInterruptWindow = newValue }
  }

  // MARK: - Time

  /// The host's counter now.
  static var hostTSC: UInt64 { goliath_rdtsc() }

  package var timeStampCounter: UInt64 {
    KVMVCPU.hostTSC &+ tscOffset.load(ordering: .relaxed)
  }
}
