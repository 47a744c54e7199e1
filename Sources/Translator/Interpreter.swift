import CX86
import Glibc

/// The outer loop: events between instructions, block lookup and decoding, single steps, delivery of faults.
extension Core {
  /// Executes until something outside is needed.
  func run() -> StopReason {
    // What the loop needs again and again is retained once: counting references costs as much as what is done with them.
    let environment = self.environment
    let blocks = environment.blocks
    var translations = blocks.translations
    unsafe x86_translated_thread(s)
    defer { unsafe x86_translated_thread(nil) }
    while true {
      // SAFETY: the own state.
      let request = unsafe x86_request(s)
      if request != 0 {
        if request & UInt32(X86_REQUEST_INVALIDATE) != 0 { environment.takeInvalidations() }
        unsafe x86_request_clear(s, UInt32(X86_REQUEST_EVENT))
        if request & UInt32(X86_REQUEST_EXIT) != 0 {
          unsafe x86_request_clear(s, UInt32(X86_REQUEST_EXIT))
          return .interrupted
        }
      }
      if unsafe s.pointee.events != 0 {
        if !deliverEvents(environment) { return .shutdown }
        if environment.wantsWindow && canAcceptInterrupt { return .window }
      }
      if activity != 0 { return .halt }

      do throws(GuestFault) {
        var flow: Flow
        if slowMode != 0 || shadow != 0 {
          flow = try step()
        } else if isTranslatable {
          if translations == nil { translations = makeTranslationCache(environment, blocks) }
          guard let cache = translations else {
            unsafe s.pointee.translated.isOff = 1
            continue
          }
          flow = try runTranslated(environment, blocks, cache)
        } else if let block = unsafe try lookup(blocks) {
          let traces = TranslationLog.traces
          if traces { logExecution() }
          flow = unsafe try executeBlocks(block, single: traces)
        } else {
          flow = try step()
        }
        if flow == .stop { return .shutdown }
        // IRET's resume flag is good for one instruction, which matters only to breakpoints and to what is pushed next.
        if eflags & EFLAGS.rf != 0 && slowMode == 0 && !environment.isInsideREP {
          eflags &= ~EFLAGS.rf
        }
      } catch {
        if !deliverFault() { return .shutdown }
      }
    }
  }

  /// Whether an external interrupt may be delivered now.
  var canAcceptInterrupt: Bool {
    eflags & EFLAGS.if != 0 && shadow == 0 && environment.pendingVector == nil
  }

  /// Traps, NMI, external interrupts, in this order. False: triple fault.
  private func deliverEvents(_ environment: CoreEnvironment) -> Bool {
    if environment.hasPendingTrap && shadow & 2 == 0 {
      environment.hasPendingTrap = false
      if pendingDebug != 0 {
        if !deliver(ExceptionVector.debug, hasCode: false, code: 0, .exception) { return false }
        environment.isInsideREP = false
      }
    }
    if shadow != 0 { return true }
    if environment.pendingNMI && nmiBlocked == 0 {
      environment.pendingNMI = false
      nmiBlocked = 1
      activity = 0
      if !deliver(ExceptionVector.nmi, hasCode: false, code: 0, .external) { return false }
      environment.isInsideREP = false
    }
    if let vector = environment.pendingVector, eflags & EFLAGS.if != 0 {
      environment.pendingVector = nil
      activity = 0
      if !deliver(vector, hasCode: false, code: 0, .external) { return false }
    }
    environment.isInsideREP = false
    return true
  }

  // MARK: - One instruction

  /// Executes exactly one instruction, with breakpoints, single-step trap, shadow and fetch limit.
  func step() throws(GuestFault) -> Flow {
    let environment = self.environment
    let linear = (rip &+ (unsafe window(Core.cs).pointee.base)) & linearMask
    if environment.watchesCode && eflags & EFLAGS.rf == 0 && shadow & 2 == 0 {
      let hits = instructionBreakpoints(linear)
      if hits != 0 {
        pendingDebug |= hits
        throw fault(ExceptionVector.debug)
      }
    }
    let block = unsafe try decodeOne(linear)
    if TranslationLog.traces { logExecution() }
    let oldShadow = shadow
    let traps = eflags & EFLAGS.tf != 0
    let clearsRF = eflags & EFLAGS.rf != 0
    var flow: Flow
    do throws(GuestFault) {
      shadow = 0
      flow = unsafe try executeBlocks(block, single: true)
    } catch {
      shadow = environment.isRestart ? oldShadow : 0
      throw error
    }
    // The instruction may have set a new shadow; STI after STI does not extend it.
    if shadow == 1 && oldShadow & 1 != 0 { shadow = 0 }
    if clearsRF && !environment.isInsideREP {
      eflags &= ~EFLAGS.rf
      updateMode()
    }
    if traps && flow != .stop {
      pendingDebug |= 1 << 14
      environment.hasPendingTrap = true
    }
    if flow == .next { flow = .reconsider }
    return flow
  }

  /// Decodes the instruction at `linear` into the scratch block.
  private func decodeOne(_ linear: UInt64) throws(GuestFault) -> UnsafeMutablePointer<Block> {
    if codeSize == 8 && !isCanonical(linear) { throw fault(ExceptionVector.generalProtection, 0) }
    let scratch = unsafe environment.scratch
    let out = unsafe scratch.pointee.instructions
    let maximum = UInt64(Decoder.maximumLength)
    let left = fetchEnd > rip ? fetchEnd &- rip : 0
    if left == 0 { throw fault(ExceptionVector.generalProtection, 0) }
    let wanted = min(maximum, left)
    let page = try resolveFetch(linear)
    let inPage = min(4096 &- (linear & Core.pageMask), wanted)
    let buffer = unsafe environment.fetchBuffer
    unsafe fetchBytes(page, linear & Core.pageMask, inPage, to: buffer)
    var have = inPage
    var result = unsafe Decoder.decode(
      buffer, available: Int(have), codeSize: codeSize, into: out)
    if result == .truncated && inPage < wanted {
      let nextLinear = (linear &+ inPage) & linearMask
      let next = try resolveFetch(nextLinear)
      unsafe fetchBytes(next, 0, wanted &- inPage, to: buffer + Int(inPage))
      have = wanted
      result = unsafe Decoder.decode(buffer, available: Int(have), codeSize: codeSize, into: out)
    }
    // What does not fit below the limit: #GP, or #SS never: fetches use CS.
    if result == .truncated { throw fault(ExceptionVector.generalProtection, 0) }
    if TranslationLog.logsGuestCode {
      let code = unsafe UnsafeRawBufferPointer(start: buffer, count: Int(out.pointee.length))
      unsafe TranslationLog.logGuestCode(code, at: linear, codeSize: codeSize)
    }
    unsafe completeVector(out)
    unsafe BlockCache.end(out + 1)
    unsafe scratch.pointee.length = UInt32(out.pointee.length)
    return unsafe scratch
  }

  private func fetchBytes(
    _ page: CodePage, _ offset: UInt64, _ count: UInt64, to buffer: UnsafeMutablePointer<UInt8>
  ) {
    // SAFETY: the buffer has room for the longest instruction; host pages are 4096 bytes.
    if let host = unsafe UnsafeRawPointer(bitPattern: UInt(page.host)) {
      unsafe UnsafeMutableRawPointer(buffer).copyMemory(
        from: host + Int(offset), byteCount: Int(count))
      return
    }
    for k in 0..<count {
      unsafe buffer[Int(k)] = UInt8(
        truncatingIfNeeded: environment.readDevice(page.physical &+ offset &+ k, 1))
    }
  }

  /// Lets the vector engine complete its instructions.
  @inline(__always) private func completeVector(_ p: UnsafeMutablePointer<X86Instruction>) {
    if unsafe p.pointee.handler == Operation.vector.rawValue {
      if unsafe !VectorEngine.prepare(p) {
        unsafe p.pointee.handler = Operation.undefined.rawValue
      }
    }
  }

  // MARK: - Blocks

  /// The block at RIP; nil when the instruction there must be executed alone.
  func lookup(_ cache: BlockCache) throws(GuestFault) -> UnsafeMutablePointer<Block>? {
    let linear = (rip &+ (unsafe window(Core.cs).pointee.base)) & linearMask
    // SAFETY: the slot is masked to the table's size.
    let entry = unsafe cache.jumps + BlockCache.jumpSlot(linear)
    let key = jumpKey
    if unsafe entry.pointee.linear == linear && entry.pointee.key == key,
      let found = unsafe entry.pointee.block, unsafe found.pointee.physical != UInt64.max
    {
      return unsafe rip &+ UInt64(found.pointee.length) > fetchEnd ? nil : found
    }
    if codeSize == 8 && !isCanonical(linear) { throw fault(ExceptionVector.generalProtection, 0) }
    let page = try resolveFetch(linear)
    if page.host == 0 { return nil }
    let physical = page.physical | linear & Core.pageMask
    var block = unsafe cache.find(physical, codeSize: codeSize)
    if unsafe block == nil { unsafe block = build(cache, page, physical) }
    guard let block = unsafe block else { return nil }
    unsafe entry.pointee = JumpEntry(linear: linear, key: jumpKey, block: block, unused: 0)
    if unsafe rip &+ UInt64(block.pointee.length) > fetchEnd { return nil }
    return unsafe block
  }

  /// The instruction at RIP as a block of its own; nil when it does not lie wholly in its page.
  func lookupAlone(_ cache: BlockCache) throws(GuestFault) -> UnsafeMutablePointer<Block>? {
    let page = try resolveFetch(rip)
    if page.host == 0 { return nil }
    let physical = page.physical | rip & Core.pageMask
    let key = codeSize | BlockCache.alone
    if let found = unsafe cache.find(physical, codeSize: key) { return unsafe found }
    return unsafe build(cache, page, physical, alone: true)
  }

  /// Decodes a new block; nil when not even one instruction lies wholly in the page.
  @inline(never) private func build(
    _ cache: BlockCache, _ page: CodePage, _ physical: UInt64, alone: Bool = false
  ) -> UnsafeMutablePointer<Block>? {
    let environment = self.environment
    if !cache.hasRoom {
      cache.reset()
      jumpGeneration &+= 1
    }
    if !environment.markCode(page) { return nil }
    guard let host = unsafe UnsafePointer<UInt8>(bitPattern: UInt(page.host)) else { return nil }
    // SAFETY: `offset` stays below 4096; the cache has room for the largest block.
    let first = unsafe cache.nextInstruction
    var offset = Int(physical & Core.pageMask)
    let start = offset
    var count = 0
    let limit =
      alone
      ? 1 : min(BlockCache.maximumInstructions, Int(environment.tuning.maximumInstructions))
    while count < limit && offset < 4096 {
      let out = unsafe first + count
      let result = unsafe Decoder.decode(
        host + offset, available: 4096 - offset, codeSize: codeSize, into: out)
      if result == .truncated { break }
      unsafe completeVector(out)
      offset += unsafe Int(out.pointee.length)
      count += 1
      if unsafe Core.endsBlock(out.pointee.handler) { break }
    }
    if count == 0 { return nil }
    if TranslationLog.logsGuestCode {
      let code = unsafe UnsafeRawBufferPointer(start: host + start, count: offset - start)
      let linear = (rip &+ (unsafe window(Core.cs).pointee.base)) & linearMask
      unsafe TranslationLog.logGuestCode(code, at: linear, codeSize: codeSize)
    }
    return unsafe cache.add(
      physical: physical, length: UInt32(truncatingIfNeeded: offset - start), count: count,
      codeSize: alone ? codeSize | BlockCache.alone : codeSize)
  }

  /// Whether no instruction of the block can follow.
  private static func endsBlock(_ handler: UInt8) -> Bool {
    // SAFETY: the decoder writes raw values of Operation only.
    switch unsafe unsafeBitCast(handler, to: Operation.self) {
    case .undefined, .overlong, .jo, .jno, .jb, .jae, .je, .jne, .jbe, .ja, .js, .jns, .jp, .jnp,
      .jl, .jge, .jle, .jg, .jumpRelative, .callRelative, .return_, .returnImmediate,
      .jumpIndirect, .callIndirect, .loop, .jcxz, .popf, .portStrings, .portIn, .portOut,
      .popSegment,
      .jumpFar, .callFar, .jumpFarIndirect, .callFarIndirect, .returnFar, .interruptReturn, .int3,
      .int, .icebp, .hlt, .wrmsr, .syscall, .sysret, .sysenter, .sysexit, .movToControl,
      .movToDebug, .movToSegment, .invpcid, .mwait:
      return true
    default: return false
    }
  }
}
