import CX86

/// What a stub is made for: everything that its code depends on, in one word, so that equal instructions share a stub.
struct StubKey: Hashable, Sendable {
  var value: UInt64

  init(_ i: X86Instruction, vex: Bool, prefix: UInt8, wide: Bool) {
    let memory = i.modrm < 0xC0
    var word = UInt64(i.map) | UInt64(i.opcode) << 2 | UInt64(prefix) << 10
    word |= (vex ? 1 : 0) << 12 | (wide ? 1 : 0) << 13 | UInt64(vex ? i.vexL & 1 : 0) << 14
    word |= UInt64(vex ? i.vexV & 15 : 0) << 15 | (memory ? 1 : 0) << 19
    word |= UInt64(i.reg & 15) << 20 | UInt64(memory ? 0 : i.rm & 15) << 24
    word |= UInt64(i.modrm >> 3 & 7) << 28
    word |= UInt64(i.immediateSize != 0 ? i.immediate & 0xFF : 0) << 32
    value = word
  }

  var map: UInt8 { UInt8(truncatingIfNeeded: value & 3) }
  var opcode: UInt8 { UInt8(truncatingIfNeeded: value >> 2) }
  var prefix: UInt8 { UInt8(truncatingIfNeeded: value >> 10 & 3) }
  var isVEX: Bool { value >> 12 & 1 != 0 }
  var isWide: Bool { value >> 13 & 1 != 0 }
  var isLong: Bool { value >> 14 & 1 != 0 }
  var vvvv: UInt8 { UInt8(truncatingIfNeeded: value >> 15 & 15) }
  var hasMemory: Bool { value >> 19 & 1 != 0 }
  var reg: UInt8 { UInt8(truncatingIfNeeded: value >> 20 & 15) }
  var rm: UInt8 { UInt8(truncatingIfNeeded: value >> 24 & 15) }
  var extension_: UInt8 { UInt8(truncatingIfNeeded: value >> 28 & 7) }
  var immediate: UInt8 { UInt8(truncatingIfNeeded: value >> 32) }
}

/// Writes the code that loads the named registers from the guest's image, executes the instruction, and stores what it changed.
///
/// On entry RDI is the state, RSI the memory operand. General registers that the instruction names become RBX (ModRM.reg)
/// and RCX (ModRM.rm); vector and MMX registers keep their numbers. AL returns 0.
struct StubEmitter {
  private(set) var code: [UInt8] = []

  static let xsave = UInt32(x86OffsetXSAVE)
  private static let guestMXCSR = xsave + 24
  private static let hostMXCSR = UInt32(x86OffsetNative) + 8
  private static let flags = UInt32(x86OffsetFlags)

  static func vector(_ key: StubKey, _ form: VectorForm) -> [UInt8] {
    var emitter = StubEmitter()
    emitter.code.reserveCapacity(160)
    if form.usesMMX || key.map == 1 && key.opcode == 0x77 {
      emitter.mmx(key, form)
    } else {
      emitter.vector(key, form)
    }
    emitter.finish()
    return emitter.code
  }

  /// x87: opcodes D8 to DF. `narrow`: with a 66 prefix, for the 16-bit environment formats.
  static func x87(opcode: UInt8, modrm: UInt8, narrow: Bool) -> [UInt8] {
    var emitter = StubEmitter()
    emitter.fxrstor()
    let isRegister = modrm >= 0xC0
    // FCMOVcc reads the flags, FCOMI and its kin write them.
    let moves = isRegister && (opcode == 0xDA || opcode == 0xDB) && modrm < 0xE0
    let compares = isRegister && (opcode == 0xDB || opcode == 0xDF) && modrm >= 0xE8 && modrm < 0xF8
    if moves || compares { emitter.loadFlags() }
    if narrow { emitter.code.append(0x66) }
    emitter.code.append(opcode)
    emitter.code.append(isRegister ? modrm : modrm & 0x38 | 6)
    if compares { emitter.storeFlags() }
    // FNSTSW AX.
    if opcode == 0xDF, modrm == 0xE0 { emitter.code += [0x66, 0x89, 0x07] }
    emitter.fxsave()
    emitter.finish()
    return emitter.code
  }

  // MARK: - Shapes

  private mutating func mmx(_ key: StubKey, _ form: VectorForm) {
    fxrstor()
    loadGeneral(key, form)
    instruction(key, form)
    storeGeneral(key, form)
    fxsave()
  }

  private mutating func vector(_ key: StubKey, _ form: VectorForm) {
    var registers: [UInt8] = []
    func add(_ n: UInt8) { if !registers.contains(n) { registers.append(n) } }
    if form.reg == .vector { add(key.reg) }
    if form.rm == .vector, !key.hasMemory { add(key.rm) }
    if key.isVEX { add(key.vvvv) }
    if form[.fourthRegister] { add(key.immediate >> 4) }
    if form[.implicitXMM0] || form[.resultXMM0] { add(0) }
    for n in registers {
      moveXMM(0x10, n)
      if key.isVEX, key.isLong { moveHigh(0x18, n) }
    }
    loadGeneral(key, form)
    if form[.explicitLengths] {
      moveGeneral(0x8B, host: 0, guest: 0)
      moveGeneral(0x8B, host: 2, guest: 2)
    }
    if form[.floating] { mxcsr(2, Self.guestMXCSR) }
    instruction(key, form)
    if form[.floating] {
      mxcsr(3, Self.guestMXCSR)
      mxcsr(2, Self.hostMXCSR)
    }
    if form[.writesFlags] { storeFlags() }
    if form[.resultECX] { moveGeneral(0x89, host: 1, guest: 1) }
    storeGeneral(key, form)
    if let destination = destination(key, form) {
      moveXMM(0x11, destination)
      if key.isVEX {
        if key.isLong { moveHigh(0x19, destination) } else { zeroHigh(destination) }
      }
    }
    if key.isVEX { code += [0xC5, 0xF8, 0x77] }  // VZEROUPPER
  }

  /// The vector register that the instruction writes.
  private func destination(_ key: StubKey, _ form: VectorForm) -> UInt8? {
    if form[.resultXMM0] { return 0 }
    if form[.resultECX] { return nil }
    if form[.shiftGroup] { return key.isVEX ? key.vvvv : key.rm }
    if form[.store] { return form.rm == .vector && !key.hasMemory ? key.rm : nil }
    // Comparisons into flags write no register.
    if form[.writesFlags] { return nil }
    return form.reg == .vector ? key.reg : nil
  }

  // MARK: - The instruction itself

  private mutating func instruction(_ key: StubKey, _ form: VectorForm) {
    var reg = key.reg
    if form.reg == .none { reg = key.extension_ }
    if form.reg == .general { reg = 3 }
    if form.reg == .mmx { reg &= 7 }
    var rm = key.rm
    if form.rm == .general { rm = 1 }
    if form.rm == .mmx { rm &= 7 }
    if key.hasMemory { rm = 6 }
    if key.isVEX {
      code.append(0xC4)
      code.append((reg < 8 ? 0x80 : 0) | 0x40 | (rm < 8 ? 0x20 : 0) | key.map)
      let w: UInt8 = key.isWide ? 0x80 : 0
      code.append(w | (~key.vvvv & 15) << 3 | (key.isLong ? 4 : 0) | key.prefix)
    } else {
      switch key.prefix {
      case 1: code.append(0x66)
      case 2: code.append(0xF3)
      case 3: code.append(0xF2)
      default: break
      }
      let rex: UInt8 = 0x40 | (key.isWide ? 8 : 0) | (reg >= 8 ? 4 : 0) | (rm >= 8 ? 1 : 0)
      if rex != 0x40 { code.append(rex) }
      code.append(0x0F)
      if key.map == 2 { code.append(0x38) }
      if key.map == 3 { code.append(0x3A) }
    }
    code.append(key.opcode)
    if form.reg == .none, form.rm == .none { return }  // EMMS
    code.append((key.hasMemory ? 0 : 0xC0) | (reg & 7) << 3 | (rm & 7))
    if form[.immediate] { code.append(key.immediate) }
  }

  private mutating func loadGeneral(_ key: StubKey, _ form: VectorForm) {
    if form.reg == .general { moveGeneral(0x8B, host: 3, guest: key.reg) }
    if form.rm == .general, !key.hasMemory { moveGeneral(0x8B, host: 1, guest: key.rm) }
  }

  private mutating func storeGeneral(_ key: StubKey, _ form: VectorForm) {
    if form.reg == .general, !form[.store] { moveGeneral(0x89, host: 3, guest: key.reg) }
    if form.rm == .general, form[.store], !key.hasMemory {
      moveGeneral(0x89, host: 1, guest: key.rm)
    }
  }

  // MARK: - Pieces

  private mutating func word(_ value: UInt32) {
    for shift in stride(from: UInt32(0), to: 32, by: 8) {
      code.append(UInt8(truncatingIfNeeded: value >> shift))
    }
  }

  /// An operand at [RDI + offset].
  private mutating func state(_ reg: UInt8, _ offset: UInt32) {
    code.append(0x87 | (reg & 7) << 3)
    word(offset)
  }

  /// MOVUPS from (10) or to (11) the image.
  private mutating func moveXMM(_ opcode: UInt8, _ n: UInt8) {
    if n >= 8 { code.append(0x44) }
    code += [0x0F, opcode]
    state(n, Self.xsave + 160 + UInt32(n) * 16)
  }

  /// VINSERTF128 (18) from or VEXTRACTF128 (19) to the image's upper half.
  private mutating func moveHigh(_ opcode: UInt8, _ n: UInt8) {
    let source = opcode == 0x18 ? n : 0
    code += [0xC4, (n < 8 ? 0x80 : 0) | 0x63, (~source & 15) << 3 | 5, opcode]
    state(n, Self.xsave + 576 + UInt32(n) * 16)
    code.append(1)
  }

  private mutating func zeroHigh(_ n: UInt8) {
    for half: UInt32 in 0..<2 {
      code += [0x48, 0xC7]
      state(0, Self.xsave + 576 + UInt32(n) * 16 + half * 8)
      word(0)
    }
  }

  /// MOV from (8B) or to (89) the image, 64 bits.
  private mutating func moveGeneral(_ opcode: UInt8, host: UInt8, guest: UInt8) {
    code += [0x48, opcode]
    state(host, UInt32(guest) * 8)
  }

  /// LDMXCSR (2) or STMXCSR (3).
  private mutating func mxcsr(_ operation: UInt8, _ offset: UInt32) {
    code += [0x0F, 0xAE]
    state(operation, offset)
  }

  private mutating func fxrstor() {
    code += [0x48, 0x0F, 0xAE]
    state(1, Self.xsave)
  }

  private mutating func fxsave() {
    code += [0x48, 0x0F, 0xAE]
    state(0, Self.xsave)
    code += [0xDB, 0xE3]  // FNINIT
    mxcsr(2, Self.hostMXCSR)
  }

  /// MOVZX EAX,flags; ADD AL,127 (OF); SAHF.
  private mutating func loadFlags() {
    code += [0x0F, 0xB7]
    state(0, Self.flags)
    code += [0x04, 0x7F, 0x9E]
  }

  /// LAHF; SETO AL; MOV flags,AX.
  private mutating func storeFlags() {
    code += [0x9F, 0x0F, 0x90, 0xC0, 0x66, 0x89]
    state(0, Self.flags)
  }

  private mutating func finish() { code += [0x31, 0xC0, 0xC3] }
}
