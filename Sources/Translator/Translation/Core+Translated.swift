import CX86

/// The dispatcher: finds or makes translated code for RIP, enters it, and does what it left for.
extension Core {
  /// Whether code at RIP may be translated in the modes of now.
  @inline(__always) var isTranslatable: Bool {
    // SAFETY: the own state.
    unsafe s.pointee.translated.isOff == 0 && codeSize == 8 && (cpl == 0 || cpl == 3)
      && !(cpl == 3 && cr0 & CR0.am != 0 && eflags & EFLAGS.ac != 0)
  }

  /// Executes translated code from RIP on, interpreting what is not worth translating, until the outer loop has something to look at.
  func runTranslated(
    _ environment: CoreEnvironment, _ blocks: BlockCache, _ cache: TranslationCache
  ) throws(GuestFault) -> Flow {
    let threshold = environment.tuning.threshold
    let isForced = environment.tuning.flushEvery | environment.tuning.requestEvery != 0
    /// The exit that was taken, to be linked to the next block; 0 for none.
    var exit: UInt64 = 0
    var exitGeneration = cache.generation
    var isIndirect = false
    while true {
      if isForced { force(environment, cache) }
      let linear = rip
      if !isCanonical(linear) { throw fault(ExceptionVector.generalProtection, 0) }
      let page = try resolveFetch(linear)
      if page.host == 0 { return try step() }
      let physical = page.physical | linear & Core.pageMask
      let access = UInt8(truncatingIfNeeded: accessClass)
      var found = unsafe cache.find(linear, physical, access: access)
      if let block = unsafe found, unsafe block.pointee.crosses {
        let second = try resolveFetch((linear | Core.pageMask) &+ 1)
        if unsafe block.pointee.physical == UInt64.max {
          // The second page had to come from elsewhere, and the first was lost meanwhile.
          unsafe found = nil
        } else if unsafe second.physical == block.pointee.crossPhysical {
          unsafe setToken((linear | Core.pageMask) &+ 1, access, block.pointee.crossToken)
        } else {
          unsafe cache.kill(block)
          unsafe found = nil
        }
      }
      if unsafe found == nil {
        guard let cold = unsafe try lookup(blocks) else {
          // The instruction reaches into the next page. What is met once will be met again.
          guard let across = unsafe translate(cache, linear, page, access) else {
            return try step()
          }
          unsafe setToken((linear | Core.pageMask) &+ 1, access, across.pointee.crossToken)
          continue
        }
        let heat = unsafe cold.pointee.heat &+ 1
        unsafe cold.pointee.heat = heat
        if heat >= threshold {
          unsafe found = translate(cache, linear, page, access)
        }
        if unsafe found == nil {
          cache.counters.interpreted &+= unsafe UInt64(cold.pointee.count)
          if TranslationLog.traces { logExecution() }
          let flow = unsafe try executeBlocks(cold, single: true)
          if flow != .branch { return flow }
          if mustReconsider { return .reconsider }
          exit = 0
          isIndirect = false
          continue
        }
      }
      guard let block = unsafe found else { return try step() }

      unsafe setToken(linear, access, block.pointee.token)
      let traces = TranslationLog.traces
      if exit != 0 && exitGeneration == cache.generation && !traces {
        unsafe cache.link(exit, from: linear, to: block)
      }
      let host = unsafe cache.executable(block.pointee.host)
      if isIndirect && !traces {
        let table = unsafe UnsafeMutableRawPointer(s).advanced(
          by: Int(X86_JUMP_OFFSET) + Int(access) * Int(X86_JUMPS) * 8
        ).assumingMemoryBound(to: UInt64.self)
        unsafe table[Int(linear & 0xFFFF)] = host &+ UInt64(block.pointee.indirect)
      }
      if traces { logExecution(hostCode: host) }
      cache.counters.dispatches &+= 1
      let result = unsafe x86_translated_enter(
        s, host &+ UInt64(block.pointee.plainMemory))

      switch result {
      case UInt64(x86ExitLookup):
        rip = unsafe s.pointee.translated.exitTarget
        exit = 0
        isIndirect = true
      case UInt64(x86ExitInterpret):
        rip = unsafe s.pointee.translated.exitTarget
        let flow = try interpretOne(blocks)
        if flow != .branch { return flow }
        exit = 0
        isIndirect = false
      case UInt64(x86ExitSlow), UInt64(x86ExitFault), UInt64(x86ExitSite):
        cache.counters.slowExits &+= 1
        if !locate(cache, result) { return .stop }
        let flow = try interpretOne(blocks)
        if flow != .branch { return flow }
        exit = 0
        isIndirect = false
      default:
        rip = unsafe s.pointee.translated.exitTarget
        exit = result
        exitGeneration = cache.generation
        isIndirect = false
      }
      if mustReconsider { return .reconsider }
    }
  }

  /// The forced modes: empties everything now and then, or has translated code look at an empty request.
  @inline(never) private func force(_ environment: CoreEnvironment, _ cache: TranslationCache) {
    let tuning = environment.tuning
    environment.forcedSteps &+= 1
    let step = environment.forcedSteps
    if tuning.flushEvery != 0 && step % UInt64(tuning.flushEvery) == 0 {
      flushTLB(includingGlobal: true)
      cache.reset()
    }
    let random = (step &+ tuning.seed) &* 0x9E37_79B9_7F4A_7C15 &>> 33
    if tuning.requestEvery != 0 && random % UInt64(tuning.requestEvery) == 0 {
      // SAFETY: an atomic in the own state; the outer loop clears it.
      unsafe x86_request_set(s, UInt32(X86_REQUEST_EVENT))
    }
  }

  /// Whether the outer loop has something to look at.
  @inline(__always) private var mustReconsider: Bool {
    // SAFETY: the own state.
    unsafe x86_request(s) != 0 || s.pointee.events != 0 || slowMode != 0 || shadow != 0
  }

  /// Executes the instruction at RIP by the interpreter. `.branch`: nothing else needs a look before the next one.
  private func interpretOne(_ blocks: BlockCache) throws(GuestFault) -> Flow {
    if let block = unsafe try lookupAlone(blocks) {
      return unsafe try executeBlocks(block, single: true)
    }
    return try step()
  }

  /// Sets RIP and flags to the guest instruction that translated code was left in. False cannot happen: every address at which code
  /// calls a routine or faults has its entry.
  private func locate(_ cache: TranslationCache, _ result: UInt64) -> Bool {
    let isFault = result == UInt64(x86ExitFault)
    // SAFETY: the own state; blocks live until the cache is emptied.
    let address = unsafe s.pointee.translated.exitAddress
    // What a call left is the address behind it.
    let place = isFault ? address : address &- 1
    guard let block = unsafe cache.block(containing: place),
      let side = unsafe cache.side(block, place)
    else { return false }
    rip = unsafe block.pointee.linear &+ UInt64(side.guest)
    if result == UInt64(x86ExitSite) {
      let physical = unsafe block.pointee.physical
      if physical != UInt64.max {
        cache.makePlainSite(physical &+ UInt64(side.guest))
        unsafe cache.kill(block)
      }
    } else {
      unsafe cache.noteFailure(block)
    }
    if isFault && side.flags & SideEntry.flagsInHost != 0 {
      flags = unsafe s.pointee.translated.faultFlags
    }
    if side.flags & SideEntry.afterSTI != 0 { shadow = 1 }
    return true
  }

  @inline(never) private func translate(
    _ cache: TranslationCache, _ linear: UInt64, _ page: CodePage, _ access: UInt8
  ) -> UnsafeMutablePointer<TranslatedBlock>? {
    let start = x86_tsc()
    let mode = unsafe x86_vector_mode(s)
    if unsafe s.pointee.translated.vectorMode != mode {
      cache.reset()
      unsafe s.pointee.translated.vectorMode = mode
    }
    if !cache.hasRoom { cache.reset() }
    if !environment.markCode(page) { return nil }
    let block = unsafe BlockTranslator.translate(
      self, cache, linear: linear, page: page, access: access, isGlobal: isGlobalCode(linear))
    cache.counters.nanoseconds &+= x86_tsc() &- start
    if TranslationLog.logsGuestCode || TranslationLog.logsHostCode, let block = unsafe block {
      unsafe TranslationLog.logTranslation(block, cache, page: page.host)
    }
    return unsafe block
  }

  // MARK: - Tables

  @inline(__always) private func setToken(_ linear: UInt64, _ access: UInt8, _ token: UInt32) {
    // SAFETY: the index is masked to the table's size.
    unsafe tokens(access)[Int(linear &>> 12) & (Int(X86_TOKENS) - 1)] = token
  }

  /// The page at `linear` as source of instructions; nil when fetching there faults.
  func secondPage(_ linear: UInt64) -> CodePage? {
    if !isCanonical(linear) { return nil }
    do throws(GuestFault) { return try resolveFetch(linear) } catch {
      _ = environment.takeRestart()
      return nil
    }
  }

  /// Whether the page of code at `linear`, just resolved, is a global one.
  func isGlobalCode(_ linear: UInt64) -> Bool {
    // SAFETY: the entry that `resolveFetch` found or filled.
    unsafe s.pointee.itlb[Int(linear &>> 12 & UInt64(X86_ITLB_ENTRIES - 1))].physical & 1 != 0
  }

  /// Tokens of the code pages that translated code may go to without asking, by linear page.
  private func tokens(_ access: UInt8) -> UnsafeMutablePointer<UInt32> {
    // SAFETY: inside the state's allocation.
    unsafe UnsafeMutableRawPointer(s).advanced(
      by: Int(X86_TOKEN_OFFSET) + Int(access) * Int(X86_TOKENS) * 4
    ).assumingMemoryBound(to: UInt32.self)
  }

  /// The TLB was emptied. Odd tokens are global pages'.
  func dropTokens(includingGlobal: Bool) {
    // SAFETY: the tables of all classes lie behind one another.
    let all = unsafe tokens(0)
    let count = Int(X86_TLB_CLASSES) * Int(X86_TOKENS)
    for k in 0..<count {
      let token = unsafe all[k]
      unsafe all[k] = includingGlobal || token & 1 == 0 ? 0 : token
    }
  }

  /// One page's translation was dropped.
  func dropToken(_ linear: UInt64) {
    let slot = Int(linear &>> 12) & (Int(X86_TOKENS) - 1)
    for access in UInt8(0)..<UInt8(X86_TLB_CLASSES) { unsafe tokens(access)[slot] = 0 }
  }

  /// The vCPU's translations, made when first needed; nil when the host or the user does not allow any.
  @inline(never) func makeTranslationCache(
    _ environment: CoreEnvironment, _ blocks: BlockCache
  ) -> TranslationCache? {
    guard environment.tuning.isEnabled, HostFeatures.isSuitable, StubArena.shared.isUsable,
      let cache = TranslationCache(bytes: environment.tuning.codeCacheBytes)
    else { return nil }
    // SAFETY: the own state; the cache lives as long as the environment.
    unsafe x86_translated_prepare(s)
    unsafe s.pointee.translated.codeStart = cache.executable(cache.writable)
    unsafe s.pointee.translated.codeSize = UInt64(cache.capacity)
    unsafe s.pointee.translated.vectorMode = x86_vector_mode(s)
    unsafe cache.adopt(
      jumps: UnsafeMutableRawPointer(s).advanced(by: Int(X86_JUMP_OFFSET))
        .assumingMemoryBound(to: UInt64.self))
    blocks.translations = cache
    return cache
  }
}
