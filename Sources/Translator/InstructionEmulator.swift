package import CPU
import CX86
package import DeviceModel
package import Shm
import Synchronization

/// Executes single instructions on the state of another accelerator's vCPU, for those that it cannot execute itself.
///
/// One for each vCPU, used on its thread.
@safe package final class InstructionEmulator: @unchecked Sendable {
  // Belongs to the thread of the vCPU it serves.
  private let environment: CoreEnvironment

  /// Nil when the host has no memory left. `host` answers device accesses as for the vCPU itself.
  package init?(
    memory: GuestMemory, cpuid: CPUIDTable, apicID: APICID, host: any VCPUHost
  ) {
    guard let blocks = BlockCache(bytes: 1 << 20), let state = StateMemory() else { return nil }
    environment = CoreEnvironment(
      memory: memory, host: host, machine: nil, blocks: blocks, state: state,
      cpuid: cpuid, apicID: apicID)
    environment.core.prepare(cpuid)
  }

  /// Executes the instruction at the vCPU's RIP. An exception that it raises is left in the state for the vCPU to deliver. Throws what
  /// reading and writing the state throws.
  package func step(_ vcpu: any VCPU) throws(AcceleratorError) {
    let core = environment.core
    let before = try vcpu.readState()
    core.writeState(before)
    // What waits outside the instruction stays outside.
    environment.pendingVector = nil
    environment.pendingNMI = false
    environment.pendingException = nil
    core.tscOffset = vcpu.timeStampCounter &- x86_tsc()
    if !core.stepOnce(), environment.isShutdown {
      throw AcceleratorError(.failed, "the emulated instruction ended in a triple fault")
    }
    var after = core.readState()
    after.msrs = before.msrs.merging(after.msrs) { old, new in new }
    after.msrs[0x10] = nil
    after.pendingInterrupt = before.pendingInterrupt
    after.isNMIPending = before.isNMIPending
    if let exception = environment.pendingException { after.pendingException = exception }
    try vcpu.writeState(after)
  }
}

/// Instruction emulators for the vCPUs of another accelerator's machine.
package final class EmulationService: Sendable {
  private let memory: GuestMemory
  private let cpuid: CPUIDTable
  private let emulators = Mutex<[VCPUID: InstructionEmulator]>([:])

  /// For a machine with this memory whose vCPUs report `cpuid`.
  package init(memory: GuestMemory, cpuid: CPUIDTable) {
    self.memory = memory
    self.cpuid = cpuid
  }

  /// Executes one instruction on `vcpu`'s state, on its thread. False: it cannot be done.
  package func execute(_ vcpu: any VCPU, _ host: any VCPUHost) -> Bool {
    let emulator = emulators.withLock { table in
      if let known = table[vcpu.id] { return Optional(known) }
      let made = InstructionEmulator(
        memory: memory, cpuid: cpuid, apicID: APICID(vcpu.id.rawValue), host: host)
      table[vcpu.id] = made
      return made
    }
    guard let emulator else { return false }
    do throws(AcceleratorError) {
      try emulator.step(vcpu)
      return true
    } catch {
      return false
    }
  }
}
