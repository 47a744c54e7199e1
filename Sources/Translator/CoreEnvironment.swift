import CPU
import CX86
import DeviceModel
import Glibc
import Shm
import Synchronization

/// What a core's slow paths need besides its registers: memory, the machine, the block cache, rare state.
///
/// Belongs to the vCPU's thread, but for the state's mailbox.
@safe final class CoreEnvironment {
  let memory: GuestMemory
  let host: any VCPUHost
  /// Nil for an `InstructionEmulator`.
  weak var machine: TCGVirtualMachine?
  private let vcpuCount: VCPUCount?
  /// The page that was acquired and not yet used; all ones: none.
  var unsettled = UInt64.max
  /// RIP (the next instruction's) when a device was last accessed.
  var deviceInstruction = UInt64.max
  /// More than 0: what is under way must come to its end.
  var uninterruptible = 0
  /// The fault that is thrown is none: the instruction is to be executed again.
  var isRestart = false
  /// The machine check that is thrown cannot be delivered: the processor shuts down.
  var isFatalCheck = false
  /// Nil: no other vCPU sees this memory while an instruction is emulated.
  let splitLock: SplitLock?
  let blocks: BlockCache
  let state: StateMemory
  var cpuid: CPUIDTable
  let apicID: APICID
  /// Limits and forced modes of the translator. Only the vCPU's own thread changes it, between blocks.
  var tuning: TranslatorTuning
  /// `thread=single`: PAUSE gives the turn away.
  var endsTurnsAtPause = false
  /// The vCPU's index, for messages.
  var index: UInt32 = 0
  var msrs = MSRFile()

  /// How often the dispatcher came by in a forced mode (`TranslatorTuning.flushEvery`, `requestEvery`).
  var forcedSteps: UInt64 = 0
  /// The address for CR2 of the page fault that is pending.
  var faultAddress: UInt64 = 0
  /// RIP of the instruction under way, for software interrupts that fault.
  var instructionStart: UInt64 = 0
  /// The pending fault belongs to the task just switched to: RIP is already right.
  var faultIsElsewhere = false
  /// Delivery of an exception ended in a triple fault.
  var isShutdown = false
  /// DR7 has data breakpoints enabled.
  var watchesData = false
  /// DR7 has instruction breakpoints enabled.
  var watchesCode = false

  /// Set from outside, delivered before the next instruction.
  var pendingException: PendingException?
  /// The TSC as last given out by `readState`: coming back unchanged it is no request to set it.
  var exportedTSC: UInt64?

  /// Components that XSETBV may enable.
  let supportedXCR0: UInt64
  /// A block of one instruction that is in no table.
  let scratch: UnsafeMutablePointer<Block>
  let fetchBuffer: UnsafeMutablePointer<UInt8>
  /// The memory slots as `x86_tlb_fill` reads them.
  let slots: UnsafeMutablePointer<X86MemorySlot>

  /// The block cache is to be emptied at the next chance between blocks.
  var resetIsDue = false
  /// How often the thread was outside in the middle of an instruction.
  var timesOutside: UInt64 = 0

  init(
    memory: GuestMemory, host: any VCPUHost, machine: TCGVirtualMachine?, blocks: BlockCache,
    state: StateMemory, cpuid: CPUIDTable, apicID: APICID,
    tuning: TranslatorTuning = .interpreter
  ) {
    self.memory = memory
    self.host = host
    self.machine = machine
    vcpuCount = machine?.count
    splitLock = machine?.splitLock
    self.blocks = blocks
    self.state = state
    self.cpuid = cpuid
    self.apicID = apicID
    self.tuning = tuning
    let leaf = cpuid.lookup(leaf: 0xD, subleaf: 0, apicID: 0)
    let xsaveLeaf = cpuid.lookup(leaf: 1, subleaf: 0, apicID: 0)
    let components = UInt64(leaf.eax) | UInt64(leaf.edx) << 32
    supportedXCR0 = xsaveLeaf.ecx & 1 << 26 != 0 ? components & 7 | 1 : 1
    // SAFETY: both are freed in deinit; the instructions are one and the end mark.
    let instructions = unsafe UnsafeMutablePointer<X86Instruction>.allocate(capacity: 2)
    unsafe instructions.initialize(repeating: X86Instruction(), count: 2)
    unsafe scratch = UnsafeMutablePointer<Block>.allocate(capacity: 1)
    unsafe scratch.initialize(
      to: Block(
        instructions: instructions, physical: 0, length: 0, count: 1, codeSize: 0, hashNext: nil,
        pageNext: nil))
    unsafe fetchBuffer = UnsafeMutablePointer<UInt8>.allocate(capacity: 32)
    unsafe fetchBuffer.initialize(repeating: 0, count: 32)
    unsafe slots = UnsafeMutablePointer<X86MemorySlot>.allocate(capacity: GuestMemory.capacity)
    unsafe slots.initialize(repeating: X86MemorySlot(), count: GuestMemory.capacity)
    unsafe state.pointer.pointee.slots = slots
    unsafe state.pointer.pointee.tlbLimit = tuning.tlbLimit
    unsafe state.pointer.pointee.jumpTable = UInt64(UInt(bitPattern: blocks.jumps))
  }

  deinit {
    unsafe scratch.pointee.instructions.deallocate()
    unsafe scratch.deallocate()
    unsafe fetchBuffer.deallocate()
    unsafe slots.deallocate()
  }

  var core: Core { unsafe Core(state.pointer, self) }

  // MARK: - Events for the core, set by its own thread

  private func event(_ bit: Int32) -> Bool {
    unsafe state.pointer.pointee.events & UInt32(bit) != 0
  }
  private func setEvent(_ bit: Int32, _ value: Bool) {
    let old = unsafe state.pointer.pointee.events
    unsafe state.pointer.pointee.events = value ? old | UInt32(bit) : old & ~UInt32(bit)
  }

  /// A debug exception is due after the instruction.
  var hasPendingTrap: Bool {
    get { event(X86_EVENT_TRAP) }
    set { setEvent(X86_EVENT_TRAP, newValue) }
  }
  /// A REP instruction stopped before its end.
  var isInsideREP: Bool {
    get { event(X86_EVENT_REP) }
    set { setEvent(X86_EVENT_REP, newValue) }
  }
  var pendingNMI: Bool {
    get { event(X86_EVENT_NMI) }
    set { setEvent(X86_EVENT_NMI, newValue) }
  }
  var wantsWindow: Bool {
    get { event(X86_EVENT_WINDOW) }
    set { setEvent(X86_EVENT_WINDOW, newValue) }
  }
  var pendingVector: UInt8? {
    get { event(X86_EVENT_VECTOR) ? unsafe state.pointer.pointee.eventVector : nil }
    set {
      unsafe state.pointer.pointee.eventVector = newValue ?? 0
      setEvent(X86_EVENT_VECTOR, newValue != nil)
    }
  }

  // MARK: - Devices

  func readDevice(_ address: UInt64, _ width: Int) -> UInt64 {
    deviceInstruction = core.rip
    let value = outside { host.readMemory(GuestAddress(address), width: width) }
    return width == 8 ? value : value & ((1 &<< UInt64(width &* 8)) &- 1)
  }

  func writeDevice(_ address: UInt64, _ width: Int, _ value: UInt64) {
    deviceInstruction = core.rip
    let masked = width == 8 ? value : value & ((1 &<< UInt64(width &* 8)) &- 1)
    outside { host.writeMemory(GuestAddress(address), width: width, masked) }
  }

  /// Counts a PAUSE. True every now and then, when there are other vCPUs.
  func notePause() -> Bool {
    pauses &+= 1
    return pauses & 63 == 0 && !isAlone
  }
  private var pauses: UInt32 = 0

  /// PAUSE where other nodes want pages: whom this vCPU waits for may need its page, or its host processor.
  @inline(never) func pauseOutside() {
    pauses &+= 1
    leave()
    if pauses & 15 == 0 { sched_yield() }
    enter(isBetweenBlocks: false)
    timesOutside &+= 1
  }

  /// Whether other nodes have rights to this memory.
  var isShared: Bool { memory.isShared }

  /// Whether no other vCPU sees this memory.
  var isAlone: Bool { vcpuCount?.isOne ?? true }

  // MARK: - Code pages

  /// The vCPU stored to a page that holds decoded code, at up to a page of bytes.
  func codeWasWritten(_ physical: UInt64, flags: UInt64, length: UInt64 = 64) {
    if isAlone {
      if blocks.invalidate(physical, length: length, wholePage: false) {
        clearCodeFlag(flags)
      }
      return
    }
    let isEmpty = blocks.invalidate(physical, length: length, wholePage: false)
    // Others lose the whole page; the flag stays while this vCPU still has code there, or another is about to have some. They hear of it
    // before it is cleared, so that whoever finds it clear has the request before him (x86_tlb_refill), and again afterwards: what one
    // of them decodes in between goes with the second.
    machine?.invalidate(page: physical & ~0xFFF, except: self)
    if isEmpty, machine?.isMarking(physical) != true {
      clearCodeFlag(flags)
      machine?.invalidate(page: physical & ~0xFFF, except: self)
    }
  }

  private func clearCodeFlag(_ flags: UInt64) {
    guard let p = unsafe UnsafeMutablePointer<Atomic<UInt8>>(bitPattern: UInt(flags)) else {
      return
    }
    // SAFETY: the flag byte of a RAM block, which outlives the machine.
    unsafe p.pointee.bitwiseAnd(~PageFlags.code.rawValue, ordering: .sequentiallyConsistent)
  }

  // MARK: - Debug registers

  /// Whether a page holds a watched address, so that accesses there must not take the fast path.
  func isWatched(page: UInt64) -> Bool {
    if !watchesData { return false }
    let core = self.core
    for n in 0..<4 where core.dr7 &>> UInt64(n * 2) & 3 != 0 {
      let address = core.debugAddress(n)
      if address & ~0xFFF == page || (address &+ 7) & ~0xFFF == page { return true }
    }
    return false
  }
}
