import CKVM
import CLinux
package import CPU
package import DeviceModel
import Glibc
import Host
import Shm
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
  /// The last exit was for RAM whose page could not be had then: it is served first.
  var hasUnservedMemory = false
  /// KVM_RUN failed for a page so often in a row without a known reason.
  var strayFailures = 0
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
    vm.mapping?.adopt(goliath_thread_id(), descriptor: file.file.rawValue)
    KVMVCPU.letKicksIn()
  }

  /// Unblocks the signal of kicks for the calling thread.
  static func letKicksIn() {
    var set = sigset_t()
    // SAFETY: the set lives through the calls.
    unsafe sigemptyset(&set)
    unsafe sigaddset(&set, kickSignal)
    unsafe pthread_sigmask(SIG_UNBLOCK, &set, nil)
  }

  // MARK: - Running

  package func run() -> VMExit {
    let current = pthread_self()
    if current != runner { adopt(current) }
    if activity != .running {
      return exitRequested.exchange(false, ordering: .sequentiallyConsistent) ? .interrupted : .halt
    }
    if hasUnservedMemory, let exit = serveAgain() { return exit }
    loadTaskPriority()
    while true {
      if let error = enter() {
        if error == -Int(EINTR) || error == -Int(EAGAIN) {
          if takeExitRequest() { return .interrupted }
          continue
        }
        if error == -Int(EFAULT), let exit = takeRefusal() { return exit }
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
    // Without a value for it the instruction is not complete; the state is that before it.
    while hasPendingCompletion, !hasUnservedMemory {
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

  // MARK: - Pages of other nodes

  /// The thread's id for the kernel.
  var threadID: Int64 { thread.load(ordering: .relaxed) }

  /// KVM_RUN failed because a page is not to be had; nil: it failed for something else.
  @inline(never) private func takeRefusal() -> VMExit? {
    guard let mapping = vm.mapping else { return nil }
    switch mapping.takeRefusal(of: threadID) {
    case .lost(let address):
      strayFailures = 0
      return machineCheck(at: address)
    case .frozen: strayFailures = 0
    case nil:
      // The page was kept from another vCPU just then.
      strayFailures += 1
      if strayFailures > 1000 { return nil }
    }
    HostClock.sleep(nanoseconds: 1_000_000)
    return .interrupted
  }

  /// The access that could not be served is tried again; nil: it is done.
  @inline(never) private func serveAgain() -> VMExit? {
    hasUnservedMemory = false
    hasPendingCompletion = true
    return handleExit()
  }

  /// The bytes of a page are lost with their node: a machine check in place of the access, as the software CPU's.
  func machineCheck(at address: GuestAddress) -> VMExit {
    let bank: UInt32 = 0x405
    // KVM forgets one that it cannot deliver as long as the guest has set up no banks; the vCPU would come back for the page forever.
    guard takesMachineChecks else { return lostForGood(address) }
    var check = kvm_x86_mce()
    // Uncorrected, of a data load, with the address of the page; the instruction has had no effect (SDM vol. 3B, 16.3.2).
    check.status = 0xBD80_0000_0000_0134
    check.addr = address.rawValue
    check.misc = 2 << 6 | 12
    check.mcg_status = 7
    check.bank = 1
    let isTaken = (try? file.setMCE(check)) != nil
    registersInArea = false
    let isKnown = (readMSR(bank) ?? 0) >> 63 == 1 || (readMSR(0x17A) ?? 0) & 4 != 0
    if isTaken, isKnown { return .interrupted }
    return lostForGood(address)
  }

  /// CR4.MCE: else a machine check shuts the processor down.
  var takesMachineChecks: Bool {
    (try? file.getSystemRegisters()).map { $0.cr4 & 0x40 != 0 } ?? false
  }

  func lostForGood(_ address: GuestAddress) -> VMExit {
    .failure(
      "kvm: memory at 0x\(String(address.rawValue, radix: 16)) was lost with another node, and the guest takes no machine checks"
    )
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

  /// Moves the guest's counter; paused only.
  func moveOffset(by change: UInt64) {
    learnTSCOffset()
    let offset = tscOffset.load(ordering: .relaxed) &+ change
    if (try? file.setTSCOffset(offset)) != nil { tscOffset.store(offset, ordering: .relaxed) }
    tscRead = nil
  }

  /// The host's counter now.
  static var hostTSC: UInt64 { goliath_rdtsc() }

  package var timeStampCounter: UInt64 {
    KVMVCPU.hostTSC &+ tscOffset.load(ordering: .relaxed)
  }
}
