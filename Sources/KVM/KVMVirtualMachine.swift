import CKVM
package import CPU
package import DeviceModel
import Host
package import Shm
import Synchronization

/// Executes one instruction that KVM cannot, on a vCPU's state, through `readState` and `writeState`; false when it cannot either.
package typealias InstructionFallback = @Sendable (any VCPU, any VCPUHost) -> Bool

/// A machine of accelerator `kvm`: memory slots, model-specific register filter, vCPUs. Interrupt controllers are never the kernel's.
package final class KVMVirtualMachine: VirtualMachine {
  private let system: SystemFile
  private let file: VMFile
  private let statisticsSource = StatisticsSource()
  let emulateOne: InstructionFallback?
  let memory: GuestMemory
  let gate = MemoryGate()

  private let cpuid: CPUIDTable
  private let mmapSize: Int
  private let msrIndices: [UInt32]
  private let mceCapabilities: UInt64?

  /// Registers can travel in the run area.
  let sharesRegisters: Bool
  let hasXCRs: Bool
  /// State components that this host's XSAVE has: bits as in XCR0; at least x87 and SSE.
  let stateComponents: UInt64
  let hasExceptionPayloads: Bool
  /// Accesses to the machine's own registers (x2APIC, TSC deadline, IA32_APIC_BASE) come to us.
  package let routesMSRs: Bool

  private struct Members {
    var slots = SlotTable()
    var logsDirtyPages = false
    /// Set when the kernel refused a slot: vCPUs cannot be made any more.
    var refusal: SystemError?
  }
  private let members = Mutex(Members())
  private let vcpus = Mutex<[Unowned]>([])
  /// The first vCPU's, which the others take over.
  private let firstTSCOffset = Mutex<UInt64?>(nil)
  private let tscKilohertz = Atomic<UInt64>(0)
  private let pages = Mutex<CoherentMapping?>(nil)
  private let adjustsClock: Bool

  /// A vCPU removes itself in its `deinit`, before the reference could dangle.
  private struct Unowned: Sendable {
    let id: ObjectIdentifier
    weak let vcpu: KVMVCPU?
  }

  /// The kernel's counters about the machine; nil when it has none.
  package var counters: [AcceleratorStatistic]? {
    statisticsSource.counters(of: file.file.rawValue)
  }

  init(
    system: consuming SystemFile, memory: GuestMemory, cpuid: CPUIDTable,
    emulateOne: InstructionFallback?
  ) throws(SystemError) {
    mmapSize = try system.getVCPUMmapSize()
    let known = Set(try system.getMSRIndexList())
    // Ranges that are not in the list on older kernels, though they can be read; a refusal drops them later.
    msrIndices = ModelSpecificRegister.all.map { $0.index }.filter {
      known.contains($0) || (0x200...0x2FF).contains($0)
    }
    mceCapabilities = try? system.getMCECapSupported()
    let offered = CPUIDTable(try system.getSupportedCPUID()).entry(0xD, 0)
    stateComponents = UInt64(offered.eax) | UInt64(offered.edx) << 32 | 3
    file = try system.createVM()
    self.system = system
    self.cpuid = cpuid
    self.emulateOne = emulateOne
    self.memory = memory

    let shared = UInt64(file.checkExtension(KVM_CAP_SYNC_REGS))
    let wanted = UInt64(KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS)
    sharesRegisters = shared & wanted == wanted
    hasXCRs = file.checkExtension(KVM_CAP_XCRS) != 0
    hasExceptionPayloads = KVMVirtualMachine.enable(file, KVM_CAP_EXCEPTION_PAYLOAD, 1)
    _ = KVMVirtualMachine.enable(file, KVM_CAP_EXIT_ON_EMULATION_FAILURE, 1)
    routesMSRs = KVMVirtualMachine.routeMSRs(file)
    adjustsClock = file.checkExtension(KVM_CAP_ADJUST_CLOCK) & Int(KVM_CLOCK_REALTIME) != 0

    // Below the largest firmware (16 MiB under 4 GiB), where no board has anything. Only some Intel processors use them.
    try? file.setIdentityMapAddress(0xFEFF_C000)
    try? file.setTSSAddress(0xFEFF_D000)

    memory.observeSlots { [weak self] slots in self?.follow(slots) }
  }

  deinit { pages.withLock { $0 }?.stop() }

  /// Memory that goes from node to node by the page is opened to the guest by `mapping`. Before there are vCPUs.
  package func attach(_ mapping: CoherentMapping) { pages.withLock { $0 = mapping } }

  /// How memory of several nodes is opened to the guest; nil for any other memory.
  var mapping: CoherentMapping? { pages.withLock { $0 } }

  private static func enable(_ file: borrowing VMFile, _ capability: Int32, _ value: UInt64) -> Bool
  {
    file.checkExtension(capability) != 0 && (try? file.enableCap(capability, value)) != nil
  }

  /// Has the kernel ask us about registers that are the machine's or that it does not know. x2APIC registers cannot be filtered, but
  /// without a local APIC in the kernel they are invalid to it, which ends here as well.
  private static func routeMSRs(_ file: borrowing VMFile) -> Bool {
    let reasons =
      KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_FILTER
    guard enable(file, KVM_CAP_X86_USER_SPACE_MSR, UInt64(reasons)),
      file.checkExtension(KVM_CAP_X86_MSR_FILTER) != 0
    else { return false }
    let apic = [ModelSpecificRegister.apicBase, ModelSpecificRegister.tscDeadline].map {
      VMFile.MSRRange(base: $0, count: 1, reads: true, writes: true)
    }
    // So that our copy of the offset stays right.
    let time = [ModelSpecificRegister.tsc, ModelSpecificRegister.tscAdjust].map {
      VMFile.MSRRange(base: $0, count: 1, reads: false, writes: true)
    }
    if (try? file.setMSRFilter(apic + time)) != nil { return true }
    return (try? file.setMSRFilter(apic)) != nil
  }

  // MARK: - vCPUs

  package func makeVCPU(
    id: VCPUID, apicID: APICID, host: any VCPUHost
  ) throws(AcceleratorError) -> any VCPU {
    if let refusal = members.withLock({ $0.refusal }) { throw AcceleratorError(refusal) }
    let vcpu = try AcceleratorError.wrapping { () throws(SystemError) -> KVMVCPU in
      let vcpuFile = try file.createVCPU(id: apicID.rawValue, mmapSize: mmapSize)
      try vcpuFile.setCPUID(entries(for: apicID))
      if let supported = mceCapabilities, offersMachineChecks {
        // Ten banks and, where KVM has it, IA32_MCG_CTL (bit 8).
        try? vcpuFile.setupMCE(10 | (supported & 0x100))
      }
      alignTSC(vcpuFile)
      return KVMVCPU(
        id: id, apicID: apicID, vm: self, host: host, file: vcpuFile, msrIndices: msrIndices)
    }
    vcpu.learnTSCOffset()
    vcpus.withLock { $0.append(Unowned(id: ObjectIdentifier(vcpu), vcpu: vcpu)) }
    try vcpu.writeState(
      CPUState.reset(signature: cpuid.entries.first { $0.leaf == 1 }?.eax ?? 0))
    return vcpu
  }

  func remove(_ vcpu: KVMVCPU) {
    let id = ObjectIdentifier(vcpu)
    vcpus.withLock { $0.removeAll { $0.id == id } }
  }

  private var offersMachineChecks: Bool {
    // CPUID.1:EDX bits 7 (MCE) and 14 (MCA).
    cpuid.entries.contains { $0.leaf == 1 && $0.edx & 0x4080 == 0x4080 }
  }

  /// The table as one vCPU sees it, without what this host cannot route to us: x2APIC (21) and TSC deadline (24) need the exits.
  private func entries(for apicID: APICID) -> [CPUIDTable.Entry] {
    cpuid.entries(apicID: apicID.rawValue).map { entry in
      var entry = entry
      if entry.leaf == 1, !routesMSRs { entry.ecx &= ~(1 << 21 | 1 << 24) }
      return entry
    }
  }

  /// All vCPUs' counters tell the same time.
  private func alignTSC(_ vcpu: borrowing VCPUFile) {
    let first = firstTSCOffset.withLock { $0 }
    if let first {
      try? vcpu.setTSCOffset(first)
    } else if let offset = try? vcpu.getTSCOffset() {
      firstTSCOffset.withLock { $0 = offset }
    }
    if let kilohertz = try? vcpu.getTSCKilohertz() {
      tscKilohertz.store(UInt64(max(0, kilohertz)), ordering: .relaxed)
    }
  }

  package var tscFrequency: UInt64 { tscKilohertz.load(ordering: .relaxed) &* 1000 }

  package var counterOffset: UInt64? {
    get { firstTSCOffset.withLock { $0 } }
    set {
      guard let newValue else { return }
      let change = firstTSCOffset.withLock { offset -> UInt64 in
        guard let old = offset else { return 0 }
        offset = newValue
        return newValue &- old
      }
      guard change != 0 else { return }
      // What the guest has written to a vCPU's counter stays as the difference to the others.
      for vcpu in vcpus.withLock({ $0.compactMap { $0.vcpu } }) { vcpu.moveOffset(by: change) }
    }
  }

  package var counter: UInt64? {
    firstTSCOffset.withLock { $0 }.map { KVMVCPU.hostTSC &+ $0 }
  }

  package func setClock(_ nanoseconds: () -> Int64) {
    var data = kvm_clock_data()
    if adjustsClock {
      // The kernel adds what passes until it gets there.
      data.flags = UInt32(KVM_CLOCK_REALTIME)
      data.realtime = UInt64(max(HostClock.realtime, 0))
    }
    data.clock = UInt64(max(nanoseconds(), 0))
    // A kernel without it has no such clock.
    try? file.setClock(data)
  }

  /// KVM has no code cache to tell of.
  package var statistics: String? { nil }

  // MARK: - Memory

  /// Makes KVM's slots those of the machine's memory.
  private func follow(_ slots: [MemorySlot]) {
    members.withLock { state in
      let wanted = slots.map { slot in
        // SAFETY: the block lives as long as the machine's memory, which outlives its vCPUs.
        let base = unsafe UInt(bitPattern: slot.block.guestBase)
        return SlotTable.Slot(
          guest: slot.guest.rawValue, size: slot.size, host: base &+ UInt(slot.offset),
          isReadOnly: slot.isReadOnly, logsDirtyPages: state.logsDirtyPages && !slot.isReadOnly)
      }
      apply(state.slots.update(wanted), &state)
    }
  }

  private func apply(_ changes: [SlotTable.Change], _ state: inout Members) {
    let deletes = changes.contains { if case .delete = $0 { true } else { false } }
    if deletes {
      let refusal = gate.withAllOutside(evict: evictAll) { request(changes) }
      state.refusal = refusal ?? state.refusal
    } else {
      state.refusal = request(changes) ?? state.refusal
    }
  }

  /// Kicks whoever is in the guest; answers whether there was one.
  private func evictAll() -> Bool {
    let all = vcpus.withLock { $0.compactMap { $0.vcpu } }
    return all.reduce(false) { $1.evict() || $0 }
  }

  private func request(_ changes: [SlotTable.Change]) -> SystemError? {
    do throws(SystemError) {
      for change in changes {
        var region = kvm_userspace_memory_region()
        switch change {
        case .delete(let number):
          region.slot = number
        case .add(let number, let slot), .setFlags(let number, let slot):
          region.slot = number
          region.guest_phys_addr = slot.guest
          region.memory_size = slot.size
          region.userspace_addr = UInt64(slot.host)
          if slot.isReadOnly { region.flags |= UInt32(KVM_MEM_READONLY) }
          if slot.logsDirtyPages { region.flags |= UInt32(KVM_MEM_LOG_DIRTY_PAGES) }
        }
        try file.setUserMemoryRegion(region)
      }
      return nil
    } catch {
      return error
    }
  }

  /// Begins or ends recording which pages of RAM vCPUs write. Devices' writes are not in it. Throws `AcceleratorError.failed`.
  package func setDirtyLogging(_ on: Bool) throws(AcceleratorError) {
    let refusal = members.withLock { state -> SystemError? in
      state.logsDirtyPages = on
      let wanted = state.slots.occupied.map { _, slot in
        var slot = slot
        slot.logsDirtyPages = on && !slot.isReadOnly
        return slot
      }
      let changes = state.slots.update(wanted)
      return request(changes)
    }
    if let refusal { throw AcceleratorError(refusal) }
  }

  /// Calls `body` with each page written since the last call or `setDirtyLogging`. Throws `AcceleratorError.failed`.
  package func takeDirtyPages(_ body: (GuestAddress) -> Void) throws(AcceleratorError) {
    let slots = members.withLock { $0.slots.occupied.filter { $0.slot.logsDirtyPages } }
    do throws(SystemError) {
      for (number, slot) in slots {
        let pages = slot.size / GuestAddress.pageSize
        var bitmap = [UInt64](repeating: 0, count: Int((pages + 63) / 64))
        try file.getDirtyLog(slot: number, into: &bitmap)
        for (index, word) in bitmap.enumerated() where word != 0 {
          for bit in 0..<64 where word >> UInt64(bit) & 1 != 0 {
            body(GuestAddress(slot.guest &+ UInt64(index * 64 + bit) &* GuestAddress.pageSize))
          }
        }
      }
    } catch {
      throw AcceleratorError(error)
    }
  }
}
