import CX86
import Shm
import Synchronization

/// What other threads want the vCPU to forget; `X86_REQUEST_INVALIDATE` announces it.
struct Invalidations {
  /// Pages whose decoded code is wrong.
  var code: [UInt64] = []
  /// Pages that may not be written without notice any more: they became code elsewhere, or another node has the right.
  var writes: [UInt64] = []
  /// Pages that may not be used at all any more.
  var pages: [UInt64] = []
  /// The slots changed, or it is too much to list.
  var everything = false
  /// How many requests there have been.
  var number: UInt64 = 0

  /// More than that, and everything goes.
  static let limit = 4096
}

/// Invalidations, and when the vCPU is not executing.
///
/// The vCPU executes (`X86State.isExecuting`) while its thread may use host addresses from its TLBs, or decoded code. Outside (halted,
/// waiting for a device, a page, another vCPU) nobody has to wait for it: it takes what was asked meanwhile before it executes again.
extension CoreEnvironment {
  // SAFETY (whole file): the state lives as long as this object; what other threads touch there is atomic.

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
    if unsafe x86_is_executing(state.pointer) == 0 { return body() }
    leave()
    let result = body()
    enter(isBetweenBlocks: false)
    timesOutside &+= 1
    return result
  }

  /// Gets a right to a page that another node has. May block; look at the page's flags again.
  func acquire(_ physical: UInt64, _ right: PageRight) {
    outside { memory.acquire(GuestAddress(physical), right) }
  }

  // MARK: - Requests

  /// Asks the vCPU's thread, from any other; the number of the request.
  @discardableResult
  func request(_ change: (inout Invalidations) -> Void) -> UInt64 {
    let number = invalidations.withLock { pending in
      pending.number &+= 1
      if !pending.everything { change(&pending) }
      if pending.everything
        || pending.code.count + pending.writes.count + pending.pages.count > Invalidations.limit
      {
        pending = Invalidations(everything: true, number: pending.number)
      }
      return pending.number
    }
    unsafe x86_request_set(state.pointer, UInt32(X86_REQUEST_INVALIDATE))
    return number
  }

  /// Whether the vCPU can no longer use what was invalidated by the request.
  func hasTaken(_ number: UInt64) -> Bool {
    unsafe x86_is_executing(state.pointer) == 0 || x86_invalidations_taken(state.pointer) >= number
  }

  /// Does what others asked for. Own thread.
  ///
  /// In the middle of an instruction the memory of blocks stays as it is: those that are wrong end at their next instruction, and if
  /// everything goes, the one under way may go on to its end.
  func takeInvalidations(isBetweenBlocks: Bool = true) {
    unsafe x86_request_clear(state.pointer, UInt32(X86_REQUEST_INVALIDATE))
    let work = invalidations.withLock { pending in
      let work = pending
      pending = Invalidations(number: work.number)
      return work
    }
    if work.everything {
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
    for page in work.code { _ = blocks.invalidate(page, length: 4096, wholePage: true) }
    for page in work.writes { core.dropWriteTags(physical: page) }
    for page in work.pages {
      _ = blocks.invalidate(page, length: 4096, wholePage: true)
      core.dropTags(physical: page)
    }
    unsafe x86_set_invalidations_taken(state.pointer, work.number)
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
        machine.synchronize(except: self) { $0.writes.append(page.physical) }
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
