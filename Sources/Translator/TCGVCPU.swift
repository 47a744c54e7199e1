package import CPU
import CX86
package import DeviceModel
package import Shm
import Synchronization

/// A vCPU of the software CPU.
///
/// `@unchecked Sendable`: everything but `requestExit`, `timeStampCounter` and the environment's invalidations belongs to the thread that
/// runs it, or to whoever has it paused.
@safe package final class TCGVCPU: VCPU, @unchecked Sendable {
  package let id: VCPUID
  let environment: CoreEnvironment
  private let core: Core
  /// Nil: vCPUs execute at the same time.
  private let turns: VCPUTurns?

  init(id: VCPUID, environment: CoreEnvironment, tscOffset: UInt64, turns: VCPUTurns? = nil) {
    self.id = id
    self.turns = turns
    self.environment = environment
    core = environment.core
    core.prepare(environment.cpuid)
    core.tscOffset = tscOffset
    let leaf1 = environment.cpuid.lookup(leaf: 1, subleaf: 0, apicID: 0)
    core.writeState(CPUState.reset(signature: leaf1.eax))
  }

  package func run() -> VMExit {
    guard let turns else { return runNow() }
    guard turns.take(self) else { return .interrupted }
    defer { turns.give() }
    return runNow()
  }

  private func runNow() -> VMExit {
    environment.enter(isBetweenBlocks: true)
    defer { environment.leave() }
    if let exception = environment.pendingException {
      environment.pendingException = nil
      if let payload = exception.payload { environment.faultAddress = payload }
      let code = exception.errorCode
      if !core.deliver(
        exception.vector, hasCode: code != nil, code: code ?? 0, .exception)
      {
        return .shutdown
      }
    }
    switch core.run() {
    case .halt: return .halt
    case .interrupted, .none: return .interrupted
    case .window: return .interruptWindow
    case .shutdown: return .shutdown
    }
  }

  package func requestExit() {
    // SAFETY: an atomic in memory that lives as long as this object.
    unsafe x86_request_set(environment.state.pointer, UInt32(X86_REQUEST_EXIT))
  }

  /// Whether `requestExit` was called since `run` answered one; takes it.
  func takesExitRequest() -> Bool {
    // SAFETY: as above.
    if unsafe x86_request(environment.state.pointer) & UInt32(X86_REQUEST_EXIT) == 0 {
      return false
    }
    unsafe x86_request_clear(environment.state.pointer, UInt32(X86_REQUEST_EXIT))
    return true
  }

  package var canAcceptInterrupt: Bool { core.canAcceptInterrupt }

  package func inject(vector: UInt8) { environment.pendingVector = vector }

  package func injectNMI() { environment.pendingNMI = true }

  package var wantsInterruptWindow: Bool {
    get { environment.wantsWindow }
    set { environment.wantsWindow = newValue }
  }

  package var timeStampCounter: UInt64 { core.timeStampCounter }

  package func readState() throws(AcceleratorError) -> CPUState { core.readState() }

  package func writeState(_ state: CPUState) throws(AcceleratorError) {
    core.writeState(state)
    environment.host.taskPriority = UInt8(truncatingIfNeeded: state.cr8 & 15) << 4
  }

  package func translate(linear: UInt64) -> GuestAddress? { core.translate(linear) }

  /// Executes one instruction, without looking at events before it. False: it raised an exception, which waits for `run` to deliver
  /// it, or the core has shut down.
  package func stepOnce() -> Bool {
    core.stepOnce()
  }
}

extension Core {
  func translate(_ linear: UInt64) -> GuestAddress? {
    let masked = isLongModeActive ? linear : linear & 0xFFFF_FFFF
    if isLongModeActive && !isCanonical(masked) { return nil }
    // Rights do not matter to a debugger: only supervisor reads that SMAP allows are asked for.
    let vector = (faultVector, faultHasCode, faultCode, environment.faultAddress)
    defer { (faultVector, faultHasCode, faultCode, environment.faultAddress) = vector }
    do throws(GuestFault) {
      let page = try walk(
        masked, write: false, fetch: false, class: AccessClass.supervisorWithAC, update: false)
      return GuestAddress(page.physical & a20Mask | masked & Core.pageMask)
    } catch {
      _ = environment.takeRestart()
      return nil
    }
  }

  func stepOnce() -> Bool {
    do throws(GuestFault) {
      _ = try step()
      return !environment.isShutdown
    } catch {
      if environment.takeRestart() { return true }
      environment.pendingException = PendingException(
        vector: faultVector, errorCode: faultHasCode != 0 ? faultCode : nil,
        payload: faultVector == ExceptionVector.pageFault
          ? environment.faultAddress
          : faultVector == ExceptionVector.debug ? pendingDebug : nil)
      return false
    }
  }
}
