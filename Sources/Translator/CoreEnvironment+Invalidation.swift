import CX86
import Glibc
import Shm
import Synchronization

/// What another vCPU, a device or another node wants a vCPU to forget (`X86_FORGET_*`), with the guest-physical page.
enum Invalidation {
  /// The page's decoded code is wrong.
  case code(UInt64)
  /// The page may not be written without notice any more: it became code elsewhere, or another node has the right.
  case writes(UInt64)
  /// The page may not be used at all any more.
  case page(UInt64)
  /// The slots changed, or it is too much to list.
  case everything

  /// Puts it into a vCPU's mailbox; the number of the request. Any thread; where the mailbox is shared, any process.
  @discardableResult
  func post(to mailbox: UnsafeMutablePointer<X86Mailbox>) -> UInt64 {
    // SAFETY: the mailbox is mapped as long as its owner lives; all its fields are atomic.
    switch self {
    case .code(let page): unsafe x86_mailbox_post(mailbox, UInt32(X86_FORGET_CODE), page)
    case .writes(let page): unsafe x86_mailbox_post(mailbox, UInt32(X86_FORGET_WRITES), page)
    case .page(let page): unsafe x86_mailbox_post(mailbox, UInt32(X86_FORGET_PAGE), page)
    case .everything: unsafe x86_mailbox_post(mailbox, UInt32(X86_FORGET_ALL), 0)
    }
  }

  /// The same of a page so many bytes further on.
  func advanced(by bytes: UInt64) -> Invalidation {
    switch self {
    case .code(let page): .code(page &+ bytes)
    case .writes(let page): .writes(page &+ bytes)
    case .page(let page): .page(page &+ bytes)
    case .everything: .everything
    }
  }

  /// Whether the vCPU of the mailbox can no longer use what was invalidated by the request.
  static func isTaken(_ number: UInt64, _ mailbox: UnsafeMutablePointer<X86Mailbox>) -> Bool {
    unsafe x86_is_executing(mailbox) == 0 || x86_mailbox_taken(mailbox) >= number
  }
}

/// Invalidations, and when the vCPU is not executing.
///
/// The vCPU executes (`X86State.isExecuting`) while its thread may use host addresses from its TLBs, or decoded code. Outside (halted,
/// waiting for a device, a page, another vCPU) nobody has to wait for it: it takes what was asked meanwhile before it executes again.
extension CoreEnvironment {
  // SAFETY (all of it): the state lives as long as this object; what other threads touch there is atomic.

  // MARK: - Inside and outside

  /// The thread is going to execute.
  func enter(isBetweenBlocks: Bool) {
    unsafe x86_enter(state.pointer)
    if unsafe x86_request(state.pointer) & UInt32(X86_REQUEST_INVALIDATE) != 0 {
      takeInvalidations(isBetweenBlocks: isBetweenBlocks)
    }
  }

  func leave() { unsafe x86_leave(state.pointer) }

  /// Does something that may wait for other threads, in the middle of an instruction. TLB entries and blocks may be gone afterwards: a
  /// host address from before must not be used.
  func outside<R>(_ body: () -> R) -> R {
    if unsafe x86_is_executing(state.mailbox) == 0 { return body() }
    leave()
    let result = body()
    enter(isBetweenBlocks: false)
    timesOutside &+= 1
    return result
  }

  /// Gets a right to a page that another node has. May block; look at the page's flags again, and `settle` when they allow the access.
  ///
  /// Throws when the page is lost with its node: a machine check. Throws also to abandon the instruction, which is executed again later,
  /// when the cluster is frozen and the vCPU is to leave (`requestExit`).
  func acquire(_ physical: UInt64, _ right: PageRight) throws(GuestFault) {
    settle()
    while true {
      switch outside({ memory.acquire(GuestAddress(physical), right) }) {
      case .granted:
        unsettled = physical
        return
      case .lost:
        throw core.machineCheck(physical)
      case .frozen:
        // What a device has been told, or a part of the processor's state that is already changed, cannot be done again.
        if uninterruptible == 0 && core.rip != deviceInstruction,
          unsafe x86_request(state.pointer) & UInt32(X86_REQUEST_EXIT) != 0
        {
          isRestart = true
          throw GuestFault()
        }
        outside { _ = usleep(200) }
      }
    }
  }

  /// The access for which a page was acquired is going to be made without another wait: a revocation that comes now waits for it.
  @inline(__always) func settle() {
    if unsettled != UInt64.max { settleNow() }
  }

  @inline(never) private func settleNow() {
    memory.settle(GuestAddress(unsettled))
    unsettled = UInt64.max
  }

  /// Whether the fault that was thrown only abandons the instruction; forgets it.
  func takeRestart() -> Bool {
    let result = isRestart
    isRestart = false
    return result
  }

  /// Another node may want the same pages as this vCPU, and neither gets them all: lets some time pass, different for each.
  func pauseForOthers(_ attempt: UInt32) {
    let spread = UInt32(truncatingIfNeeded: x86_tsc()) &>> 4 & 63
    outside { _ = usleep(min(attempt, 20) &* (spread &+ 1)) }
  }

  // MARK: - Requests

  /// Asks the vCPU's thread, from any other.
  func request(_ invalidation: Invalidation) { unsafe invalidation.post(to: state.mailbox) }

  /// Does what others asked for. Own thread.
  ///
  /// In the middle of an instruction the memory of blocks stays as it is: those that are wrong end at their next instruction, and if
  /// everything goes, the one under way may go on to its end.
  func takeInvalidations(isBetweenBlocks: Bool = true) {
    let mailbox = unsafe state.mailbox
    unsafe x86_request_clear(state.pointer, UInt32(X86_REQUEST_INVALIDATE))
    let asked = unsafe x86_mailbox_asked(mailbox)
    var number = unsafe x86_mailbox_taken(mailbox)
    // Older ones were overwritten.
    var everything = asked &- number > UInt64(X86_MAILBOX_ENTRIES)
    while !everything && number < asked {
      everything = !take(entry(number))
      number &+= 1
    }
    if everything {
      copySlots()
      if let limit = machine?.blockLimit { tuning.maximumInstructions = limit }
      core.flushTLB(includingGlobal: true)
      resetIsDue = true
    }
    if resetIsDue {
      if isBetweenBlocks {
        resetIsDue = false
        blocks.reset()
      } else {
        unsafe x86_request_set(state.pointer, UInt32(X86_REQUEST_INVALIDATE))
      }
    }
    unsafe x86_mailbox_take(mailbox, asked)
  }

  /// The request of that number, which somebody has announced and may still be about to write. All ones: it was overwritten, or whoever
  /// announced it is gone.
  private func entry(_ number: UInt64) -> UInt64 {
    let found = unsafe x86_mailbox_entry(state.mailbox, number)
    if found != UInt64.max { return found }
    for round in 0..<2000 {
      if round < 200 { x86_pause() } else { sched_yield() }
      let later = unsafe x86_mailbox_entry(state.mailbox, number)
      if later != UInt64.max { return later }
    }
    return UInt64.max
  }

  /// Does one request. False: everything is to go.
  private func take(_ entry: UInt64) -> Bool {
    let page = entry &<< 12 & 0xF_FFFF_FFFF_F000
    switch entry &>> 40 {
    case UInt64(X86_FORGET_CODE):
      _ = blocks.invalidate(page, length: 4096, wholePage: true)
    case UInt64(X86_FORGET_WRITES):
      core.dropWriteTags(physical: page)
    case UInt64(X86_FORGET_PAGE):
      _ = blocks.invalidate(page, length: 4096, wholePage: true)
      core.dropTags(physical: page)
    default: return false
    }
    return true
  }

  /// Takes the memory's present slots over for `x86_tlb_fill`. Own thread; the TLB must be emptied behind it.
  func copySlots() {
    let current = memory.slots.sorted { $0.size > $1.size }.prefix(GuestMemory.capacity)
    for (index, slot) in current.enumerated() {
      let page = Int(slot.offset / GuestAddress.pageSize)
      // SAFETY: `index` is below the capacity; the memory keeps every block that it ever had.
      unsafe slots[index] = X86MemorySlot(
        start: slot.guest.rawValue, end: slot.end,
        host: UInt64(UInt(bitPattern: slot.block.base)) &+ slot.offset,
        flags: UInt64(UInt(bitPattern: slot.block.pageFlags + page)),
        readOnly: slot.isReadOnly ? 1 : 0)
    }
    unsafe state.pointer.pointee.slotCount = UInt32(truncatingIfNeeded: current.count)
  }

  // MARK: - Code pages

  /// Code is about to be decoded from a page: from now on stores there are noticed, by all vCPUs. Between blocks; waits for the others.
  /// False: the page was lost meanwhile, look it up again.
  func markCode(_ page: Core.CodePage) -> Bool {
    guard page.flags != 0 else { return true }
    let flag = PageFlags.code.rawValue
    let lost = PageFlags.noRead.rawValue
    let known = unsafe x86_flags_load(page.flags)
    // A flag that is set means that the others have lost their write tags, unless someone is still waiting for that.
    if known & flag != 0, machine?.isMarking(page.physical) != true { return known & lost == 0 }
    guard let machine else {
      _ = unsafe x86_flags_or(page.flags, flag)
      core.dropWriteTags(physical: page.physical)
      return true
    }
    machine.marking(page.physical) {
      // Who stored there before it heard of this may have cleared the flag again; who has heard leaves it while this goes on.
      repeat {
        _ = unsafe x86_flags_or(page.flags, flag)
        core.dropWriteTags(physical: page.physical)
        machine.synchronize(except: self, .writes(page.physical))
      } while unsafe x86_flags_load(page.flags) & flag == 0
    }
    return unsafe x86_flags_load(page.flags) & lost == 0
  }

  /// `markCode` for an instruction that lies in two pages: true when both are marked, with no wait behind that.
  func markCode(_ first: Core.CodePage, _ second: Core.CodePage) -> Bool {
    while true {
      let before = timesOutside
      if !markCode(first) || !markCode(second) { return false }
      // News of the first page taken in the wait for the second found nothing decoded to throw away.
      if timesOutside == before { return true }
    }
  }
}
