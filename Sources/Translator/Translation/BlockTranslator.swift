import CX86

/// What is still to be written behind a block's body: code that is seldom executed.
@safe struct PendingStub {
  enum Kind: UInt8 {
    /// A TLB miss: R10 and R11 tell the address.
    case slowRead, slowWrite
    /// A TLB miss of a group that will be written, at an instruction that reads.
    case slowGroup
    /// The site at offset `linear` of X86State holds another page.
    case siteRead, siteWrite, siteGroup
    /// A TLB miss at the constant address `linear`.
    case slowLinearRead, slowLinearWrite
    case loadVectors, loadX87
    /// Leave for a lookup of `linear`, flags in memory.
    case lookup
    /// Leave for a lookup of R10, flags in memory.
    case lookupIndirect
    /// An exit to `linear` that can be linked, flags in the host's register or in memory.
    case exitHost, exitMemory
    /// The interpreter executes the instruction at `linear`; flags are in memory.
    case interpret
  }
  var kind: Kind
  /// Of X86LinkSite.
  var linkKind: UInt8
  /// Of the instruction, for the side table.
  var guest: UInt16
  var sideFlags: UInt16
  /// The displacement of the jump that comes here.
  var site: UnsafeMutablePointer<UInt8>
  /// Where to try again.
  var retry: UnsafeMutablePointer<UInt8>
  var linear: UInt64
}

/// Translates one block: guest bytes at one linear address of one page into host code.
///
/// Layout: entry for indirect jumps, entry from other pages, entry that looks at the request word, plain entry, body, stubs. Registers
/// and conventions are described in README.md.
@safe struct BlockTranslator {
  // SAFETY (whole file and its extensions): `out` stays within TranslationCache.largestBlock, which `hasRoom` guaranteed; arrays of the
  // cache have places for maximumInstructions and maximumStubs, both checked.
  let core: Core
  let cache: TranslationCache
  var out: CodeEmitter
  let start: UnsafeMutablePointer<UInt8>
  /// Guest address of the block.
  let linear: UInt64
  let physical: UInt64
  let access: UInt8
  /// Offsets of the class's TLB and tables in X86State.
  let tlb: Int
  let tokens: Int
  let jumps: Int
  let hasBMI2: Bool
  let exactFlags: Bool
  /// Instructions that guest and host have alike.
  private let features: UInt64

  var count = 0
  var stubCount = 0
  var sideCount = 0
  let sides: UnsafeMutablePointer<SideEntry>

  /// Whether the arithmetic flags are right in the host's register, in X86State.flags; both or, when nothing needs them, neither.
  var flagsInHost = false
  var flagsInMemory = false
  var groupCount = 0
  var nextSymbol: UInt32 = 0
  /// Some check covers more than its instruction's operand.
  var hasGroups = false
  /// Host code of the current instruction changes something before its access.
  var avoidsSites = false
  var vectorsChecked = false
  var x87Checked = false
  var followsSTI = false

  /// Index, guest address, bytes from the block's start, and end address of the instruction under way.
  var current = 0
  var here: UInt64 = 0
  var offset: UInt16 = 0
  var next: UInt64 = 0

  private init(
    _ core: Core, _ cache: TranslationCache, linear: UInt64, physical: UInt64, access: UInt8
  ) {
    self.core = core
    self.cache = cache
    unsafe out = CodeEmitter(p: cache.nextCode)
    unsafe start = cache.nextCode
    self.linear = linear
    self.physical = physical
    self.access = access
    tlb = Int(X86_TLB_OFFSET) &+ Int(access) &* Int(X86_TLB_ENTRIES) &* 32
    tokens = Int(X86_TOKEN_OFFSET) &+ Int(access) &* Int(X86_TOKENS) &* 4
    jumps = Int(X86_JUMP_OFFSET) &+ Int(access) &* Int(X86_JUMPS) &* 8
    hasBMI2 = HostFeatures.hasBMI2
    exactFlags = core.environment.tuning.exactFlags
    features = InstructionFacts.nativeFeatures(guest: core.coreFeatures)
    unsafe sides = cache.nextSide
  }

  /// The page into which the block's only instruction reaches.
  private var second: Core.CodePage?
  private var secondToken: UInt32 = 0

  /// Translates the block at `linear`, whose page is `page`. Nil when the interpreter has to execute its first instruction, because the
  /// second page that it lies in faults or is no RAM.
  static func translate(
    _ core: Core, _ cache: TranslationCache, linear: UInt64, page: Core.CodePage, access: UInt8,
    isGlobal: Bool
  ) -> UnsafeMutablePointer<TranslatedBlock>? {
    let physical = page.physical | linear & Core.pageMask
    var translator = BlockTranslator(
      core, cache, linear: linear, physical: physical, access: access)
    guard let host = unsafe UnsafePointer<UInt8>(bitPattern: UInt(page.host)) else { return nil }
    unsafe translator.decode(host)
    if translator.count == 0 && !translator.decodeAcross(page) { return nil }
    return unsafe translator.emit(isGlobal: isGlobal)
  }

  // MARK: - Decoding and liveness

  private mutating func decode(_ host: UnsafePointer<UInt8>) {
    let limit = max(
      1, min(Int(core.environment.tuning.maximumInstructions), TranslationCache.maximumInstructions)
    )
    var at = Int(linear & Core.pageMask)
    while count < limit && at < 4096 {
      let p = unsafe cache.decoded + count
      if unsafe Decoder.decode(host + at, available: 4096 - at, codeSize: 8, into: p) == .truncated
      {
        return
      }
      at += unsafe Int(p.pointee.length)
      let f = unsafe addDecoded(p)
      switch f.kind {
      case .plain, .stack: continue
      case .control:
        // Only a conditional jump lets the block go on.
        let handler = unsafe p.pointee.handler
        if handler < Operation.jo.rawValue || handler > Operation.jg.rawValue { return }
      case .string, .special:
        if unsafe !BlockTranslator.staysInside(Insn(p)) { return }
      }
    }
  }

  /// Completes the instruction decoded at the end of the list.
  @discardableResult @inline(__always) private mutating func addDecoded(
    _ p: UnsafeMutablePointer<X86Instruction>
  ) -> InstructionFacts {
    if unsafe p.pointee.handler == Operation.vector.rawValue, unsafe !VectorEngine.prepare(p) {
      unsafe p.pointee.handler = Operation.undefined.rawValue
    }
    let f = unsafe InstructionFacts.of(
      p, features: features, vectorFeatures: core.s.pointee.features)
    unsafe cache.facts[count] = f
    count += 1
    return f
  }

  /// Decodes one instruction that ends in the next page.
  private mutating func decodeAcross(_ first: Core.CodePage) -> Bool {
    let environment = core.environment
    let nextPage = (linear | Core.pageMask) &+ 1
    guard let page = core.secondPage(nextPage), page.host != 0 else { return false }
    if !environment.markCode(first, page) { return false }
    // SAFETY: 16 bytes of a buffer of 32; both pages are host memory of 4096 bytes.
    guard let low = unsafe UnsafeRawPointer(bitPattern: UInt(first.host)),
      let high = unsafe UnsafeRawPointer(bitPattern: UInt(page.host))
    else { return false }
    let inFirst = Int(4096 &- (linear & Core.pageMask))
    if inFirst >= Decoder.maximumLength { return false }
    let buffer = unsafe environment.fetchBuffer
    unsafe UnsafeMutableRawPointer(buffer).copyMemory(
      from: low + Int(linear & Core.pageMask), byteCount: inFirst)
    unsafe UnsafeMutableRawPointer(buffer + inFirst).copyMemory(
      from: high, byteCount: Decoder.maximumLength - inFirst)
    let p = unsafe cache.decoded
    if unsafe Decoder.decode(buffer, available: Decoder.maximumLength, codeSize: 8, into: p)
      == .truncated
    {
      return false
    }
    if unsafe Int(p.pointee.length) <= inFirst { return false }
    unsafe addDecoded(p)
    second = page
    secondToken = cache.token(
      nextPage, page.physical, access: access, isGlobal: core.isGlobalCode(nextPage))
    return true
  }

  /// Looks whether the second page is still the one that was translated.
  private mutating func checkSecondPage() {
    releaseFlags()
    let slot = Int(((linear | Core.pageMask) &+ 1) &>> 12) & (Int(X86_TOKENS) - 1)
    out.narrow(0x81, 7, .state(tokens &+ slot &* 4))
    out.word(secondToken)
    unsafe branch(.lookup, condition: 5, linear: linear)
  }

  /// Which flags must be right before each instruction.
  private func computeLiveness() {
    var live = InstructionFacts.allFlags
    var k = count
    unsafe cache.live[k] = live
    while k > 0 {
      k &-= 1
      let f = unsafe cache.facts[k]
      switch f.kind {
      case .plain, .stack:
        live = live & ~f.flagsWritten | f.flagsRead
      default:
        if unsafe !keepsFlags(Insn(cache.decoded + k)) { live = InstructionFacts.allFlags }
      }
      if exactFlags { live = InstructionFacts.allFlags }
      unsafe cache.live[k] = live
    }
  }

  // MARK: - Emission

  private mutating func emit(isGlobal: Bool) -> UnsafeMutablePointer<TranslatedBlock> {
    computeLiveness()
    planGroups()
    let liveIn = unsafe cache.live[0]
    let token = cache.token(linear, physical, access: access, isGlobal: isGlobal)
    let pageSlot = Int(linear &>> 12) & (Int(X86_TOKENS) - 1)

    // Entry for indirect jumps.
    let indirect = reached
    if CodeEmitter.fits(linear) {
      out.bytes(0x49, 0x81, 0xFA)
      out.word(UInt32(truncatingIfNeeded: linear))
    } else {
      out.constant(HostRegister.entry, linear)
      out.wide(0x3B, HostRegister.address, register: HostRegister.entry)
    }
    unsafe branch(.lookupIndirect, condition: 5)
    // From another page.
    let pageMemory = reached
    out.narrow(0x81, 7, .state(tokens &+ pageSlot &* 4))
    out.word(token)
    unsafe branch(.lookup, condition: 5, linear: linear)
    // The request word.
    let checkedMemory = reached
    out.narrow(0x81, 7, .state(Int(x86OffsetRequest)))
    out.word(UInt32(0))
    unsafe branch(.lookup, condition: 5, linear: linear)
    let plainMemory = reached
    if liveIn != 0 {
      restoreFlags()
      flagsInHost = true
    }
    let plainHost = reached

    var k = 0
    var address = linear
    var isOpen = true
    while k < count && stubCount &+ 16 < TranslationCache.maximumStubs {
      current = k
      here = address
      offset = UInt16(truncatingIfNeeded: address &- linear)
      next = unsafe address &+ UInt64(cache.decoded[k].length)
      noteSide()
      if second != nil { checkSecondPage() }
      let isShadowed = followsSTI
      isOpen = unsafe instruction(Insn(cache.decoded + k), cache.facts[k])
      if isShadowed { followsSTI = false }
      if !isOpen { break }
      address = next
      k &+= 1
    }
    if isOpen { exit(to: address) }
    let length = UInt32(truncatingIfNeeded: next &- linear)

    // Entries for flags that are in the host's register, where that makes a difference.
    var checkedHost = checkedMemory
    var pageHost = pageMemory
    if liveIn != 0 {
      checkedHost = reached
      saveFlags()
      unsafe out.jump(to: start + Int(checkedMemory))
      pageHost = reached
      saveFlags()
      unsafe out.jump(to: start + Int(pageMemory))
    }
    let miss = emitStubs()
    return unsafe cache.add(
      TranslatedBlock(
        linear: linear, physical: physical, host: start, hostBytes: reached,
        length: length, token: token, access: access, liveIn: liveIn,
        hasGroups: hasGroups, instructions: UInt16(truncatingIfNeeded: k), indirect: indirect,
        pageHost: pageHost,
        pageMemory: pageMemory, checkedHost: checkedHost, checkedMemory: checkedMemory,
        plainHost: plainHost, plainMemory: plainMemory, miss: miss, sides: sides,
        sideCount: UInt32(truncatingIfNeeded: sideCount), incoming: 0,
        crossPhysical: second?.physical ?? UInt64.max, crossToken: secondToken, hashNext: nil,
        pageNext: nil, crossNext: nil))
  }

  /// Offset of the place reached.
  private var reached: UInt32 { unsafe UInt32(truncatingIfNeeded: out.p - start) }

  /// One instruction; false when nothing can follow it.
  private mutating func instruction(_ i: Insn, _ f: InstructionFacts) -> Bool {
    switch f.kind {
    case .plain: return plain(i, f)
    case .stack: return stack(i, f)
    case .control: return control(i, f)
    case .string, .special: return special(i, f)
    }
  }

  /// From here on host code belongs to the current instruction.
  mutating func noteSide() {
    var flags: UInt16 = flagsInHost ? SideEntry.flagsInHost : 0
    if followsSTI { flags |= SideEntry.afterSTI }
    unsafe sides[sideCount] = SideEntry(host: reached, guest: offset, flags: flags)
    sideCount &+= 1
  }

  // MARK: - Flags

  /// Flags that must be right before and after the current instruction.
  var liveBefore: UInt8 { unsafe cache.live[current] }
  var liveAfter: UInt8 { unsafe cache.live[current &+ 1] }

  /// The host's flags to X86State.flags.
  mutating func saveFlags() {
    out.store(HostRegister.rax, .state(Int(x86OffsetSavedRAX)))
    out.byte(0x9F)  // lahf
    out.bytes(0x0F, 0x90, 0xC0)  // seto al
    out.byte(0x66)
    out.narrow(0x89, HostRegister.rax, .state(Int(x86OffsetFlags)))
    out.load(HostRegister.rax, .state(Int(x86OffsetSavedRAX)))
  }

  /// X86State.flags to the host's.
  mutating func restoreFlags() {
    out.store(HostRegister.rax, .state(Int(x86OffsetSavedRAX)))
    out.bytes(0x0F, 0xB7)  // movzx eax, word
    out.modRM(HostRegister.rax, .state(Int(x86OffsetFlags)))
    out.bytes(0x04, 0x7F)  // add al, 0x7F: OF from bit 0
    out.byte(0x9E)  // sahf
    out.load(HostRegister.rax, .state(Int(x86OffsetSavedRAX)))
  }

  /// Code that follows destroys the host's flags, before the current instruction has had its effect.
  mutating func releaseFlags() {
    if liveBefore != 0 && flagsInHost && !flagsInMemory {
      saveFlags()
      flagsInMemory = true
    }
    flagsInHost = false
  }

  /// The host's flags must be the guest's.
  mutating func requireFlags() {
    if flagsInHost { return }
    if flagsInMemory { restoreFlags() }
    flagsInHost = true
  }

  /// Flags must be in memory, because control leaves without knowing who needs them.
  mutating func flagsToMemory() {
    if flagsInMemory { return }
    if flagsInHost { saveFlags() }
    flagsInMemory = true
  }

  // MARK: - Jumps out of the body

  @inline(__always) mutating func pend(
    _ kind: PendingStub.Kind, site: UnsafeMutablePointer<UInt8>,
    retry: UnsafeMutablePointer<UInt8>, linear: UInt64 = 0, link: UInt8 = 0
  ) {
    if stubCount >= TranslationCache.maximumStubs { return }
    unsafe cache.stubs[stubCount] = PendingStub(
      kind: kind, linkKind: link, guest: offset,
      sideFlags: followsSTI ? SideEntry.afterSTI : 0, site: site, retry: retry, linear: linear)
    stubCount &+= 1
  }

  /// A conditional jump to a stub.
  mutating func branch(_ kind: PendingStub.Kind, condition: UInt8, linear: UInt64 = 0) {
    let site = unsafe out.jump(condition: condition)
    unsafe pend(kind, site: site, retry: out.p, linear: linear)
  }

  /// What X86LinkSite says of a jump to `target`.
  func linkKind(_ target: UInt64) -> UInt8 {
    let same: UInt8 = target & ~Core.pageMask == linear & ~Core.pageMask ? 2 : 0
    return same | (flagsInHost ? 1 : 0) | (target <= here ? 4 : 0)
  }

  /// Leaves for `target`, to be linked.
  mutating func exit(to target: UInt64) {
    let kind = linkKind(target)
    let site = unsafe out.jump()
    unsafe pend(
      flagsInHost ? .exitHost : .exitMemory, site: site, retry: out.p, linear: target, link: kind)
  }

  /// Leaves so that the interpreter executes the current instruction.
  mutating func leaveToInterpreter() {
    out.constant(HostRegister.address, here)
    out.constant(HostRegister.entry, UInt64(x86ExitInterpret))
    out.jump(
      through: .state(Int(flagsInHost && !flagsInMemory ? x86OffsetExitHost : x86OffsetExitMemory)))
  }

  // MARK: - Stubs

  /// Writes the stubs. Returns the offset of the one for a lookup of R10.
  private mutating func emitStubs() -> UInt32 {
    var miss: UInt32 = 0
    for k in 0..<stubCount {
      let stub = unsafe cache.stubs[k]
      unsafe CodeEmitter.patch(stub.site, out.p)
      switch stub.kind {
      case .slowRead: unsafe slow(stub, Int(x86OffsetSlowRead))
      case .slowWrite: unsafe slow(stub, Int(x86OffsetSlowWrite))
      case .siteRead: unsafe site(stub, Int(x86OffsetSiteRead))
      case .siteWrite: unsafe site(stub, Int(x86OffsetSiteWrite))
      case .siteGroup: unsafe site(stub, Int(x86OffsetSiteGroup))
      case .slowGroup: unsafe slow(stub, Int(x86OffsetSlowGroup))
      case .slowLinearRead:
        out.constant(HostRegister.address, stub.linear)
        unsafe slow(stub, Int(x86OffsetSlowLinearRead))
      case .slowLinearWrite:
        out.constant(HostRegister.address, stub.linear)
        unsafe slow(stub, Int(x86OffsetSlowLinearWrite))
      case .loadVectors: unsafe slow(stub, Int(x86OffsetLoadVectors))
      case .loadX87: unsafe slow(stub, Int(x86OffsetLoadX87))
      case .lookupIndirect:
        miss = reached
        out.constant(HostRegister.entry, UInt64(x86ExitLookup))
        out.jump(through: .state(Int(x86OffsetExitMemory)))
      case .interpret:
        out.constant(HostRegister.address, stub.linear)
        out.constant(HostRegister.entry, UInt64(x86ExitInterpret))
        out.jump(through: .state(Int(x86OffsetExitMemory)))
      case .lookup:
        out.constant(HostRegister.address, stub.linear)
        out.constant(HostRegister.entry, UInt64(x86ExitLookup))
        out.jump(through: .state(Int(x86OffsetExitMemory)))
      case .exitHost, .exitMemory:
        out.constant(HostRegister.address, stub.linear)
        // lea r11, [rip + distance to the metadata behind the jump]
        out.bytes(0x4C, 0x8D, 0x1D)
        let distance = unsafe out.p
        out.word(UInt32(0))
        let field = stub.kind == .exitHost ? x86OffsetExitHost : x86OffsetExitMemory
        out.jump(through: .state(Int(field)))
        unsafe CodeEmitter.patch(distance, out.p)
        let site = unsafe stub.site - out.p
        out.word(Int32(truncatingIfNeeded: site))
        out.word(UInt32(stub.linkKind))
      }
    }
    return miss
  }

  private mutating func site(_ stub: PendingStub, _ routine: Int) {
    out.lea(HostRegister.entry, .state(Int(truncatingIfNeeded: stub.linear)))
    unsafe slow(stub, routine)
  }

  /// Calls a routine that makes things right or leaves; then tries again.
  private mutating func slow(_ stub: PendingStub, _ routine: Int) {
    unsafe sides[sideCount] = SideEntry(
      host: reached, guest: stub.guest, flags: stub.sideFlags)
    sideCount &+= 1
    out.call(through: .state(routine))
    unsafe out.jump(to: stub.retry)
  }
}

/// What the translator uses of the host's instruction set.
enum HostFeatures {
  static let hasBMI2 = x86_host_cpuid(7, 0).ebx >> 8 & 1 != 0
  /// Whether translated code can run at all: LAHF and SAHF in 64-bit mode.
  static let isSuitable = x86_host_cpuid(0x8000_0001, 0).ecx & 1 != 0
  /// XSAVE and XRSTOR, enabled.
  static let hasXSAVE = x86_host_cpuid(1, 0).ecx >> 27 & 1 != 0
}
