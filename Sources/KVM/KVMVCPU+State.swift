import CKVM
package import CPU
import DeviceModel
import Host
package import Shm
import Synchronization

// The registers, from and to the kernel.
//
// General registers, system registers and events travel in the run area (KVM_CAP_SYNC_REGS): written ones go in with the next KVM_RUN, and
// while they are being asked for after exits (an instruction to emulate), the kernel stores them there at each exit.

extension KVMVCPU {
  private static let all = UInt64(
    KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS)

  /// Has the kernel store the registers at each exit from now on.
  func expectRegisterReads() {
    exitsSinceRead = 0
    if vm.sharesRegisters { file.area.validRegisters = KVMVCPU.all }
  }

  /// Stops that when nobody asked for long.
  func relaxRegisterSharing() {
    exitsSinceRead &+= 1
    if exitsSinceRead > 64 { file.area.validRegisters = 0 }
  }

  /// Gives what waits in the run area to the kernel at once.
  func flushRegisters() {
    guard file.area.dirtyRegisters != 0 else { return }
    file.area.dirtyRegisters = 0
    // All three were in force once or were checked when they were written.
    try? file.setSystemRegisters(file.area.systemRegisters)
    try? file.setRegisters(file.area.registers)
    try? file.setEvents(file.area.events)
  }

  /// Makes the run area hold the registers as they are.
  private func fetchRegisters() throws(SystemError) {
    if registersInArea || file.area.dirtyRegisters != 0 { return }
    file.area.registers = try file.getRegisters()
    file.area.systemRegisters = try file.getSystemRegisters()
    file.area.events = try file.getEvents()
    registersInArea = true
  }

  package func readState() throws(AcceleratorError) -> CPUState {
    completePendingAccess()
    do throws(SystemError) {
      try fetchRegisters()
      var state = CPUState()
      state.load(file.area.registers)
      state.load(file.area.systemRegisters)
      state.load(file.area.events)
      state.cr8 = UInt64(host.taskPriority >> 4)
      state.load(try file.getDebugRegisters())
      state.xsave = try file.getXSAVE()
      if vm.hasXCRs { state.xcr0 = try file.getExtendedControl().xcrs.0.value }
      state.msrs = try readMSRs()
      tscRead = state.msrs[ModelSpecificRegister.tsc]
      state.activity = activity
      return state
    } catch {
      throw AcceleratorError(error)
    }
  }

  package func writeState(_ state: CPUState) throws(AcceleratorError) {
    // What could not be served belongs to the state that goes.
    hasUnservedMemory = false
    completePendingAccess()
    hasUnservedMemory = false
    do throws(SystemError) {
      let apicBase = host.readMSR(ModelSpecificRegister.apicBase) ?? defaultAPICBase
      file.area.systemRegisters = state.kvmSystemRegisters(apicBase: apicBase)
      file.area.registers = state.kvmRegisters
      file.area.events = state.kvmEvents(payloads: vm.hasExceptionPayloads)
      file.area.dirtyRegisters = 0
      registersInArea = true
      // At once, so that a refusal is seen here.
      try file.setSystemRegisters(file.area.systemRegisters)
      if vm.hasXCRs {
        var control = kvm_xcrs()
        control.nr_xcrs = 1
        control.xcrs.0.xcr = 0
        control.xcrs.0.value = state.xcr0
        try file.setExtendedControl(control)
      }
      try file.setXSAVE(restricted(state.xsave))
      try file.setDebugRegisters(state.kvmDebugRegisters)
      try writeMSRs(state.msrs)
      if vm.sharesRegisters {
        file.area.dirtyRegisters = UInt64(KVM_SYNC_X86_REGS | KVM_SYNC_X86_EVENTS)
      } else {
        try file.setRegisters(file.area.registers)
        try file.setEvents(file.area.events)
      }
    } catch {
      throw AcceleratorError(error)
    }
    activity = state.activity
    taskPriorityClass = host.taskPriority >> 4
    file.area.cr8 = UInt64(taskPriorityClass)
    let nothingWaits =
      state.pendingInterrupt == nil && state.pendingException == nil && !state.hasInterruptShadow
    file.area.isReadyForInterrupt = nothingWaits && state.rflags & 0x200 != 0
  }

  /// The area without components that this host does not have: KVM would refuse it, and their content can only be the initial one.
  private func restricted(_ area: [UInt8]) -> [UInt8] {
    guard area.count >= 520 else { return area }
    var area = area
    // XSTATE_BV, the first eight bytes of the header (SDM vol. 1, 13.4.2).
    for index in 0..<8 {
      area[512 + index] &= UInt8(truncatingIfNeeded: vm.stateComponents >> UInt64(8 * index))
    }
    return area
  }

  private var defaultAPICBase: UInt64 { 0xFEE0_0800 | (apicID.rawValue == 0 ? 0x100 : 0) }

  package func translate(linear: UInt64) -> GuestAddress? {
    flushRegisters()
    guard let found = try? file.translate(linear) else { return nil }
    return GuestAddress(found)
  }

  // MARK: - Model-specific registers

  /// One register; nil when the host refuses.
  func readMSR(_ index: UInt32) -> UInt64? {
    var entries = [kvm_msr_entry(index: index, reserved: 0, data: 0)]
    guard (try? file.getMSRs(&entries)) == 1 else { return nil }
    return entries[0].data
  }

  /// False when the host refuses.
  func storeMSR(_ index: UInt32, _ value: UInt64) -> Bool {
    (try? file.setMSRs([kvm_msr_entry(index: index, reserved: 0, data: value)])) == 1
  }

  /// All that this host lets us read; what it refuses is not asked for again.
  private func readMSRs() throws(SystemError) -> [UInt32: UInt64] {
    var result: [UInt32: UInt64] = [:]
    while true {
      var entries = msrIndices.map { kvm_msr_entry(index: $0, reserved: 0, data: 0) }
      let done = try file.getMSRs(&entries)
      if done >= 0, done < msrIndices.count {
        msrIndices.remove(at: done)
        continue
      }
      for entry in entries { result[entry.index] = entry.data }
      return result
    }
  }

  /// Writes the registers of a state. One that it does not name gets its reset value; one that the host refuses is left.
  private func writeMSRs(_ values: [UInt32: UInt64]) throws(SystemError) {
    var entries: [kvm_msr_entry] = []
    for register in ModelSpecificRegister.all where msrIndices.contains(register.index) {
      let given = values[register.index]
      if ModelSpecificRegister.isTime(register.index) {
        guard let given else { continue }
        // Writing the counter back would set it back by the time between.
        if register.index == ModelSpecificRegister.tsc, given == tscRead { continue }
      }
      entries.append(
        kvm_msr_entry(index: register.index, reserved: 0, data: given ?? register.reset))
    }
    var rest = entries[...]
    while !rest.isEmpty {
      let done = max(0, try file.setMSRs(Array(rest)))
      rest = rest.dropFirst(done + 1)
    }
    if values[ModelSpecificRegister.tsc] != nil { learnTSCOffset() }
  }

  /// Asks the kernel, or the counters themselves, how far the guest's clock is ahead of the host's.
  func learnTSCOffset() {
    if let offset = try? file.getTSCOffset() {
      tscOffset.store(offset, ordering: .relaxed)
    } else if let guest = readMSR(ModelSpecificRegister.tsc) {
      tscOffset.store(guest &- KVMVCPU.hostTSC, ordering: .relaxed)
    }
  }
}
