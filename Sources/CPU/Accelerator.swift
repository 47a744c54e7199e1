package import DeviceModel
package import Shm

/// An accelerator or one of its vCPUs cannot do what was asked.
package struct AcceleratorError: Error, Equatable, Sendable {
  package enum Kind: Equatable, Sendable {
    /// The host lacks it (no /dev/kvm, probe failed); another accelerator may be tried.
    case unavailable
    /// This accelerator cannot provide what the options ask for.
    case unsupported
    /// An operation on a running guest failed.
    case failed
  }
  package let kind: Kind
  /// The sentence for the user: what failed, why, what would help.
  package let message: String

  package init(_ kind: Kind, _ message: String) {
    self.kind = kind
    self.message = message
  }
}

/// What executes guest code: `kvm` or `tcg`.
package protocol Accelerator: Sendable {
  /// `kvm` or `tcg`.
  var name: String { get }
  /// Makes an empty machine over `memory`, whose slots it follows. `cpuid` is what every vCPU reports.
  func makeVM(memory: GuestMemory, cpuid: CPUIDTable) throws(AcceleratorError) -> any VirtualMachine
  /// The same over memory that goes from node to node by the page; `vcpus` of the machine are to be here.
  func makeVM(
    memory: GuestMemory, cpuid: CPUIDTable, coherent: CoherentMemory, vcpus: Int
  ) throws(AcceleratorError) -> any VirtualMachine
}

extension Accelerator {
  /// For accelerators that ask the memory for rights at each access.
  package func makeVM(
    memory: GuestMemory, cpuid: CPUIDTable, coherent: CoherentMemory, vcpus: Int
  ) throws(AcceleratorError) -> any VirtualMachine {
    try makeVM(memory: memory, cpuid: cpuid)
  }
}

/// An accelerator's side of one machine.
package protocol VirtualMachine: AnyObject, Sendable {
  /// Makes a vCPU in the state after reset, waiting for nothing. `host` answers its device accesses.
  func makeVCPU(
    id: VCPUID, apicID: APICID, host: any VCPUHost
  ) throws(AcceleratorError) -> any VCPU
  /// Ticks of the guest's time-stamp counter in a second.
  var tscFrequency: UInt64 { get }
  /// The guest's time-stamp counter less the host's, for all vCPUs alike: what nodes of one machine share. Nil where the accelerator does
  /// not know it. Setting it is for paused vCPUs.
  var counterOffset: UInt64? { get set }
  /// The guest's time-stamp counter now, by that offset; nil without one.
  var counter: UInt64? { get }
  /// The clock that the accelerator itself shows to guests (kvmclock) is `nanoseconds()` from now on, in nanoseconds. For paused vCPUs.
  func setClock(_ nanoseconds: () -> Int64)
  /// The text of `info jit`, or nil.
  var statistics: String? { get }
  /// Counters for `query-stats`, or nil. Any thread.
  var counters: [AcceleratorStatistic]? { get }
  /// `singlestep`: guest code is executed in blocks of one instruction. Nothing that a guest sees changes. Any thread.
  var isSingleStepping: Bool { get set }
  /// What is logged, or for which addresses, has changed: blocks that are chained past the log come apart. Any thread.
  func logChanged()
  /// The node that runs these vCPUs of the machine is gone: nothing waits for them any more. Any thread.
  func abandon(_ vcpus: [VCPUID])
}

extension VirtualMachine {
  package var counterOffset: UInt64? {
    get { nil }
    set {}
  }
  package var counter: UInt64? { nil }
  /// Accelerators without a clock of their own have none to set.
  package func setClock(_ nanoseconds: () -> Int64) {}
  /// Accelerators without blocks have nothing to change.
  package var isSingleStepping: Bool {
    get { false }
    set {}
  }
  package func logChanged() {}
  /// Accelerators that share nothing with other processes wait for none.
  package func abandon(_ vcpus: [VCPUID]) {}
}

/// Why `VCPU.run` came back.
package enum VMExit: Equatable, Sendable {
  /// HLT was executed; the next instruction is due after an interrupt. Asked again before one, `run` answers the same.
  case halt
  /// `requestExit` was called, or there is reason to look at the mailbox.
  case interrupted
  /// `wantsInterruptWindow` was set and `canAcceptInterrupt` has become true.
  case interruptWindow
  /// Triple fault.
  case shutdown
  /// Single step or breakpoint set by the monitor.
  case debug
  /// The accelerator cannot go on; the vCPU keeps its state.
  case failure(String)
}

/// One virtual CPU. All members but `requestExit` and `id` belong to the thread that runs it, or to whoever has it paused.
package protocol VCPU: AnyObject, Sendable {
  var id: VCPUID { get }

  /// Executes guest code until something needs the machine. Device accesses go to the `VCPUHost` meanwhile.
  func run() -> VMExit

  /// Makes `run` return `.interrupted` soon, also the next one if none is under way. Any thread.
  func requestExit()

  /// Whether `inject` may be called now: IF set, no shadow, nothing else about to be delivered.
  var canAcceptInterrupt: Bool { get }

  /// Delivers an external interrupt before the next instruction. Only when `canAcceptInterrupt`.
  func inject(vector: UInt8)

  /// Delivers an NMI before the next instruction, or as soon as the present NMI handler has returned.
  func injectNMI()

  /// Asks `run` to return `.interruptWindow`.
  var wantsInterruptWindow: Bool { get set }

  /// The guest's time-stamp counter now. Any thread.
  var timeStampCounter: UInt64 { get }

  /// Counters for `query-stats`, or nil. Any thread.
  var counters: [AcceleratorStatistic]? { get }

  /// All registers. Throws `AcceleratorError.failed`.
  func readState() throws(AcceleratorError) -> CPUState
  /// Replaces all registers. Throws `AcceleratorError.failed`.
  func writeState(_ state: CPUState) throws(AcceleratorError)

  /// Guest-physical address behind a linear address under the present page tables, without side effects; nil when not mapped.
  func translate(linear: UInt64) -> GuestAddress?
}

/// The machine as one vCPU's accelerator sees it; called on the vCPU's thread in the midst of an instruction.
///
/// Local APIC, ports, device memory, and the registers that are not the processor core's.
package protocol VCPUHost: AnyObject, Sendable {
  /// `width` is 1, 2 or 4.
  func readPort(_ port: UInt16, width: Int) -> UInt32
  func writePort(_ port: UInt16, width: Int, _ value: UInt32)
  /// Whether several elements of a string instruction are better asked for at once.
  var takesPortStrings: Bool { get }
  /// Reads up to `count` elements from one port, in order, to the end of `values`; answers how many, at least one. With fewer than `count`
  /// the vCPU looks at what it is asked before it goes on.
  func readPorts(_ port: UInt16, width: Int, count: Int, into values: inout [UInt32]) -> Int
  /// Writes elements to one port, in order; answers how many, as `readPorts` does.
  func writePorts(_ port: UInt16, width: Int, _ values: [UInt32]) -> Int
  /// Physical memory that no RAM slot answers (or a write to ROM). `width` is 1, 2, 4 or 8.
  func readMemory(_ address: GuestAddress, width: Int) -> UInt64
  func writeMemory(_ address: GuestAddress, width: Int, _ value: UInt64)
  /// IA32_APIC_BASE (0x1B), TSC_DEADLINE (0x6E0) and x2APIC (0x800 to 0x8FF). Nil: #GP.
  func readMSR(_ index: UInt32) -> UInt64?
  /// False: #GP.
  func writeMSR(_ index: UInt32, _ value: UInt64) -> Bool
  /// The local APIC's task priority register, all eight bits. CR8 is its bits 4 to 7; a write to CR8 clears bits 0 to 3.
  var taskPriority: UInt8 { get set }
  /// The A20 gate: false clears bit 20 of every physical address.
  var isA20Enabled: Bool { get }
}

extension VCPUHost {
  /// Ports that are near are asked one element at a time.
  package var takesPortStrings: Bool { false }

  package func readPorts(
    _ port: UInt16, width: Int, count: Int, into values: inout [UInt32]
  ) -> Int {
    for _ in 0..<count { values.append(readPort(port, width: width)) }
    return count
  }

  package func writePorts(_ port: UInt16, width: Int, _ values: [UInt32]) -> Int {
    for value in values { writePort(port, width: width, value) }
    return values.count
  }
}
