package import CPU
package import CX86

/// Executes x87, MMX, SSE and AVX instructions of the guest by letting the host execute them on the guest's registers.
///
/// `prepare` is called once when an instruction is decoded, `check` before its memory operand is touched, `execute` with the
/// operand's host address. What the host finds wrong with an encoding (SIGILL) is #UD for the guest too.
package enum VectorEngine {
  /// What `X86Instruction.vectorEntry` holds.
  struct Entry {
    var bits: UInt32

    enum Kind: UInt32 {
      /// Legacy SSE, VEX, MMX, x87 through a stub.
      case sse, vex, mmx, x87
      /// Own code of this engine.
      case fwait, zeroUpper, zeroAll, loadMXCSR, storeMXCSR, fxsave, fxrstor, xsave, xsaveopt,
        xsavec, xrstor
      case gather, maskedLoad, maskedStore, maskMove
    }

    init(_ kind: Kind, feature: UInt32, flags: UInt32 = 0) {
      bits = kind.rawValue | feature << 8 | flags
    }
    init(bits: UInt32) { self.bits = bits }

    /// x87 instruction that does not look at pending exceptions.
    static let noWait: UInt32 = 1 << 16
    /// SSE instruction that also touches the MMX registers.
    static let usesMMX: UInt32 = 1 << 17
    static let needsAVX2: UInt32 = 1 << 18
    static let usesVEX: UInt32 = 1 << 19
    /// ModRM.reg, ModRM.rm name general registers.
    static let generalReg: UInt32 = 1 << 20
    static let generalRM: UInt32 = 1 << 21
    /// ModRM.reg is part of the opcode.
    static let extendsOpcode: UInt32 = 1 << 22
    static let storesRM: UInt32 = 1 << 23
    static let writesFlags: UInt32 = 1 << 24
    static let explicitLengths: UInt32 = 1 << 25
    static let resultECX: UInt32 = 1 << 26

    @inline(__always) var kind: Kind { Kind(rawValue: bits & 0xFF) ?? .sse }
    @inline(__always) var feature: UInt32 { bits >> 8 & 0x3F }
    @inline(__always) func has(_ flag: UInt32) -> Bool { bits & flag != 0 }
  }

  private static let undefined: UInt8 = 6
  private static let notAvailable: UInt8 = 7

  /// The bits of `X86State.features` that this engine looks at, from what the guest's CPUID says.
  package static func features(of table: CPUIDTable) -> UInt64 {
    let set = FeatureSet(table: table)
    let names: [(String, UInt32)] = [
      ("fpu", GuestFeature.fpu), ("mmx", GuestFeature.mmx), ("sse", GuestFeature.sse),
      ("sse2", GuestFeature.sse2), ("pni", GuestFeature.sse3), ("ssse3", GuestFeature.ssse3),
      ("sse4.1", GuestFeature.sse41), ("sse4.2", GuestFeature.sse42), ("aes", GuestFeature.aes),
      ("pclmulqdq", GuestFeature.pclmul), ("sha-ni", GuestFeature.sha), ("avx", GuestFeature.avx),
      ("avx2", GuestFeature.avx2), ("fma", GuestFeature.fma), ("f16c", GuestFeature.f16c),
      ("fxsr", GuestFeature.fxsr), ("xsave", GuestFeature.xsave),
      ("xsaveopt", GuestFeature.xsaveopt), ("xsavec", GuestFeature.xsavec),
    ]
    var bits: UInt64 = 0
    for (name, bit) in names where set[name] { bits |= 1 << UInt64(bit) }
    return bits
  }

  // MARK: - At decode

  /// Completes a decoded instruction whose handler is the vector engine's. False: it is #UD.
  package static func prepare(_ p: UnsafeMutablePointer<X86Instruction>) -> Bool {
    // SAFETY: the decoder's exclusive memory.
    unsafe prepare(&p.pointee)
  }

  private static func prepare(_ i: inout X86Instruction) -> Bool {
    i.memoryAccess = UInt8(X86_ACCESS_NONE)
    i.memorySize = 0
    i.memoryAlignment = 0
    i.vectorPointer = 0
    if i.map == 0 {
      if i.opcode == 0x9B {
        i.vectorEntry = Entry(.fwait, feature: GuestFeature.fpu).bits
        return true
      }
      return prepareX87(&i)
    }
    if let isDone = prepareOwn(&i) { return isDone }
    let vex = i.prefixes & UInt8(X86_PREFIX_VEX) != 0
    if vex, i.codeSize != 8 {
      // The fourth bit of a register number does not exist outside 64-bit mode.
      i.vexV &= 7
    }
    guard
      let form = VectorTable.shared.form(vex: vex, map: i.map, opcode: i.opcode, prefix: i.pp)
    else { return false }
    // Wide AES and carry-less multiplication are features that we do not offer.
    if vex, i.vexL != 0, form.feature == GuestFeature.aes || form.feature == GuestFeature.pclmul {
      return false
    }
    let memory = i.hasModRM != 0 && i.modrm < 0xC0
    if memory ? form[.registerOnly] : form[.memoryOnly] { return false }
    let wide = isWide(i, form)
    if i.codeSize != 8, form[.fourthRegister] { i.immediate &= ~0x80 }
    let length: UInt16 = vex && i.vexL != 0 ? 32 : 16
    if memory {
      i.memorySize = form.bytes(vectorLength: length, wide: wide)
      i.memoryAccess = UInt8(form[.store] ? X86_ACCESS_WRITE : X86_ACCESS_READ)
      let aligned = vex ? form[.alignedVEX] : form[.aligned]
      i.memoryAlignment = aligned ? UInt8(truncatingIfNeeded: i.memorySize) : 0
    }
    let isMMX = form.usesMMX || i.map == 1 && i.opcode == 0x77
    var flags: UInt32 = 0
    let kind: Entry.Kind
    if vex {
      kind = .vex
      flags |= Entry.usesVEX
      if form[.wideIsAVX2], i.vexL != 0 { flags |= Entry.needsAVX2 }
      // Broadcasts from a register came with AVX2.
      if i.map == 2, i.opcode == 0x18 || i.opcode == 0x19, !memory { flags |= Entry.needsAVX2 }
    } else if isMMX {
      // Conversions between MMX and XMM registers follow the rules of SSE.
      kind = form.reg == .vector || form.rm == .vector ? .sse : .mmx
      flags |= Entry.usesMMX
    } else {
      kind = .sse
    }
    if form.reg == .general { flags |= Entry.generalReg }
    if form.rm == .general { flags |= Entry.generalRM }
    if form[.shiftGroup] { flags |= Entry.extendsOpcode }
    if form[.store] { flags |= Entry.storesRM }
    if form[.writesFlags] { flags |= Entry.writesFlags }
    if form[.explicitLengths] { flags |= Entry.explicitLengths }
    if form[.resultECX] { flags |= Entry.resultECX }
    i.vectorEntry = Entry(kind, feature: form.feature, flags: flags).bits
    let encoding = EncodingClass(
      i, vex: vex, wide: wide, memory: memory, isGroup: form[.shiftGroup])
    return StubArena.shared.executes(encoding) { stubCode(i) }
  }

  // MARK: - Before the memory operand

  /// Whether the instruction may be executed now: 0, or 6 (#UD), 7 (#NM), 16 (#MF).
  package static func check(
    _ s: UnsafeMutablePointer<X86State>, _ i: UnsafePointer<X86Instruction>
  ) -> UInt8 {
    // SAFETY: the vCPU's state and a decoded instruction, for this call.
    let entry = unsafe Entry(bits: i.pointee.vectorEntry)
    let cr0 = unsafe s.pointee.cr0
    let cr4 = unsafe s.pointee.cr4
    let features = unsafe s.pointee.features
    if features >> UInt64(entry.feature) & 1 == 0 { return undefined }
    if entry.has(Entry.usesVEX) {
      guard cr4 & CR4.osxsave != 0, unsafe s.pointee.xcr0 & 6 == 6, cr0 & CR0.pe != 0,
        unsafe s.pointee.eflags & EFLAGS.vm == 0, features >> UInt64(GuestFeature.avx) & 1 != 0
      else { return undefined }
      if entry.has(Entry.needsAVX2), features >> UInt64(GuestFeature.avx2) & 1 == 0 {
        return undefined
      }
      return cr0 & CR0.ts != 0 ? notAvailable : 0
    }
    switch entry.kind {
    case .sse, .loadMXCSR, .storeMXCSR, .maskMove:
      let isMMX = entry.has(Entry.usesMMX)
      if cr0 & CR0.em != 0 { return undefined }
      if entry.feature != GuestFeature.mmx, !isMMX || entry.kind == .sse, cr4 & CR4.osfxsr == 0 {
        return undefined
      }
      if cr0 & CR0.ts != 0 { return notAvailable }
      return isMMX ? unsafe pending(s) : 0
    case .mmx:
      if cr0 & CR0.em != 0 { return undefined }
      if cr0 & CR0.ts != 0 { return notAvailable }
      return unsafe pending(s)
    case .x87:
      if cr0 & (CR0.em | CR0.ts) != 0 { return notAvailable }
      return entry.has(Entry.noWait) ? 0 : unsafe pending(s)
    case .fwait:
      if cr0 & (CR0.mp | CR0.ts) == CR0.mp | CR0.ts { return notAvailable }
      return unsafe pending(s)
    case .fxsave, .fxrstor:
      return cr0 & (CR0.em | CR0.ts) != 0 ? notAvailable : 0
    case .xsave, .xsaveopt, .xsavec, .xrstor:
      if cr4 & CR4.osxsave == 0 { return undefined }
      return cr0 & CR0.ts != 0 ? notAvailable : 0
    default: return 0
    }
  }

  /// #MF if an unmasked x87 exception waits and CR0.NE is set. With NE clear the FERR# pin would tell an external controller,
  /// which no guest of ours relies on; the instruction goes on.
  private static func pending(_ s: UnsafeMutablePointer<X86State>) -> UInt8 {
    // SAFETY: the state's XSAVE image.
    let status = unsafe x86_xsave(s).load(fromByteOffset: 2, as: UInt16.self)
    guard status & 0x80 != 0 else { return 0 }
    return unsafe s.pointee.cr0 & CR0.ne != 0 ? 16 : 0
  }

  // MARK: - Execution

  /// Executes the instruction after `check`. 0, or 6 (#UD), 13 (#GP), 19 (#XM); nothing is written then.
  package static func execute(
    _ s: UnsafeMutablePointer<X86State>, _ i: UnsafePointer<X86Instruction>,
    _ memory: UnsafeMutableRawPointer?
  ) -> UInt8 {
    // SAFETY: the vCPU's state, a decoded instruction, and its operand of `memorySize` bytes, for this call.
    let entry = unsafe Entry(bits: i.pointee.vectorEntry)
    let result: UInt8
    switch entry.kind {
    case .sse where entry.has(Entry.usesMMX):
      result = unsafe runX87(s, i, memory)
      // The host enters MMX mode before it finds the exception, unless CVTPI2PS (2A) reads memory.
      if result == 19, unsafe i.pointee.modrm >= 0xC0 || i.pointee.opcode != 0x2A {
        unsafe enterMMX(x86_xsave(s))
      }
    case .sse, .vex: result = unsafe run(s, i, memory)
    case .mmx: result = unsafe runX87(s, i, memory)
    case .x87: result = unsafe executeX87(s, i, memory)
    case .zeroUpper:
      unsafe (x86_xsave(s) + 576).initializeMemory(
        as: UInt8.self, repeating: 0, count: i.pointee.codeSize == 8 ? 256 : 128)
      result = 0
    case .zeroAll:
      let count = unsafe i.pointee.codeSize == 8 ? 256 : 128
      unsafe (x86_xsave(s) + 160).initializeMemory(as: UInt8.self, repeating: 0, count: count)
      unsafe (x86_xsave(s) + 576).initializeMemory(as: UInt8.self, repeating: 0, count: count)
      result = 0
    case .loadMXCSR:
      guard let value = unsafe memory?.loadUnaligned(as: UInt32.self) else { return 13 }
      if value & ~0xFFFF != 0 { return 13 }
      unsafe x86_xsave(s).storeBytes(of: value, toByteOffset: 24, as: UInt32.self)
      result = 0
    case .storeMXCSR:
      let value = unsafe x86_xsave(s).load(fromByteOffset: 24, as: UInt32.self)
      unsafe memory?.storeBytes(of: value, as: UInt32.self)
      result = 0
    case .fwait: result = 0
    default: result = undefined
    }
    if result == 19, unsafe s.pointee.cr4 & CR4.osxmmexcpt == 0 { return undefined }
    return result
  }

  /// Runs the stub, which is made when the instruction is executed for the first time: translated code needs none.
  @inline(__always) static func run(
    _ s: UnsafeMutablePointer<X86State>, _ i: UnsafePointer<X86Instruction>,
    _ memory: UnsafeMutableRawPointer?
  ) -> UInt8 {
    let stub = unsafe i.pointee.vectorPointer
    if stub != 0 { return unsafe x86_native_run(s, stub, memory) }
    return unsafe runFirst(s, i, memory)
  }

  /// Makes the stub, in the common slot when the arena has no room for it.
  @inline(never) private static func runFirst(
    _ s: UnsafeMutablePointer<X86State>, _ i: UnsafePointer<X86Instruction>,
    _ memory: UnsafeMutableRawPointer?
  ) -> UInt8 {
    let key = unsafe stubKey(i.pointee)
    let stub = StubArena.shared.stub(key) { unsafe stubCode(i.pointee) }
    if stub != 0 {
      // SAFETY: decoded instructions belong to the vCPU that executes them.
      unsafe UnsafeMutablePointer(mutating: i).pointee.vectorPointer = stub
      return unsafe x86_native_run(s, stub, memory)
    }
    let code = unsafe stubCode(i.pointee)
    return StubArena.shared.runUncached(code) { unsafe x86_native_run(s, $0, memory) }
  }

  private static func stubKey(_ i: X86Instruction) -> StubKey {
    if i.map == 0 { return x87Key(i) }
    let vex = i.prefixes & UInt8(X86_PREFIX_VEX) != 0
    let form = VectorTable.shared.form(vex: vex, map: i.map, opcode: i.opcode, prefix: i.pp)
    return StubKey(i, vex: vex, prefix: i.pp, wide: isWide(i, form ?? VectorForm(bits: 0)))
  }

  /// REX.W and VEX.W mean nothing for general registers outside 64-bit mode.
  @inline(__always) private static func isWide(
    _ i: borrowing X86Instruction, _ form: VectorForm
  ) -> Bool {
    if i.codeSize != 8, form.reg == .general || form.rm == .general { return false }
    return i.vexW != 0
  }

  static func stubCode(_ i: X86Instruction) -> [UInt8] {
    if i.map == 0 {
      let narrow = isNarrowEnvironment(i)
      return StubEmitter.x87(opcode: i.opcode, modrm: i.modrm, narrow: narrow)
    }
    let vex = i.prefixes & UInt8(X86_PREFIX_VEX) != 0
    let form = VectorTable.shared.form(vex: vex, map: i.map, opcode: i.opcode, prefix: i.pp)
    return StubEmitter.vector(stubKey(i), form ?? VectorForm(bits: 0))
  }
}
