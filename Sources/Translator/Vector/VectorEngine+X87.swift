import CX86

// x87: opcodes D8 to DF (Intel SDM vol. 1, chapter 8). The host executes them between FXRSTOR and FXSAVE of the guest's image.

extension VectorEngine {
  /// Bytes and direction of a memory form: by opcode - D8, then ModRM.reg. Negative: the instruction writes. 0: undefined.
  private static let operandBytes: [Int8] = [
    4, 4, 4, 4, 4, 4, 4, 4,  // D8
    4, 0, -4, -4, 28, 2, -28, -2,  // D9: FLDENV 4, FNSTENV 6
    4, 4, 4, 4, 4, 4, 4, 4,  // DA
    4, -4, -4, -4, 0, 10, 0, -10,  // DB
    8, 8, 8, 8, 8, 8, 8, 8,  // DC
    8, -8, -8, -8, 108, 0, -108, -2,  // DD: FRSTOR 4, FNSAVE 6
    2, 2, 2, 2, 2, 2, 2, 2,  // DE
    2, -2, -2, -2, 10, 8, -10, -8,  // DF
  ]

  /// Whether a memory form stores or loads an environment, whose format depends on operand size and mode.
  static func isEnvironment(_ i: X86Instruction) -> Bool {
    let sub = i.modrm >> 3 & 7
    return i.modrm < 0xC0 && (i.opcode == 0xD9 || i.opcode == 0xDD) && (sub == 4 || sub == 6)
  }
  static func isNarrowEnvironment(_ i: X86Instruction) -> Bool {
    isEnvironment(i) && i.operandSize == 2
  }

  static func prepareX87(_ i: inout X86Instruction) -> Bool {
    guard i.opcode >= 0xD8, i.opcode <= 0xDF else { return false }
    var flags: UInt32 = 0
    let sub = i.modrm >> 3 & 7
    if i.modrm < 0xC0 {
      let bytes = operandBytes[Int(i.opcode - 0xD8) * 8 + Int(sub)]
      if bytes == 0 { return false }
      var size = UInt16(bytes.magnitude)
      if isNarrowEnvironment(i) { size -= 14 }
      i.memorySize = size
      // A store that an unmasked exception suppresses leaves memory as it is: hence the operand is read, too.
      let access = bytes < 0 ? X86_ACCESS_READWRITE : X86_ACCESS_READ
      i.memoryAccess = UInt8(access)
      switch (i.opcode, sub) {
      case (0xD9, 6), (0xD9, 7), (0xDD, 6), (0xDD, 7): flags |= Entry.noWait
      default: break
      }
    } else {
      switch (i.opcode, i.modrm) {
      case (0xDB, 0xE0...0xE4), (0xDF, 0xE0): flags |= Entry.noWait
      default: break
      }
    }
    i.vectorEntry = Entry(.x87, feature: GuestFeature.fpu, flags: flags).bits
    let encoding = EncodingClass(x87: i.opcode, modrm: i.modrm)
    return StubArena.shared.executes(encoding) { stubCode(i) }
  }

  static func x87Key(_ i: X86Instruction) -> StubKey {
    var key = StubKey(i, vex: false, prefix: isNarrowEnvironment(i) ? 1 : 0, wide: false)
    key.value = key.value & ~(0xF << 20) | UInt64(i.modrm) << 40 | 1 << 63
    return key
  }

  /// FOP, FIP and FDP with their selectors: where the last x87 instruction that can raise an exception stood.
  ///
  /// The image has no room for the selectors: they are in `X86State.vectorScratch`.
  struct Pointers {
    var opcode: UInt16 = 0
    var instruction: UInt64 = 0
    var data: UInt64 = 0
    var codeSelector: UInt16 = 0
    var dataSelector: UInt16 = 0

    init() {}

    init(_ s: UnsafeMutablePointer<X86State>) {
      // SAFETY: the state and its XSAVE image.
      let image = unsafe x86_xsave(s)
      opcode = unsafe image.load(fromByteOffset: 6, as: UInt16.self)
      instruction = unsafe image.load(fromByteOffset: 8, as: UInt64.self)
      data = unsafe image.load(fromByteOffset: 16, as: UInt64.self)
      let selectors = unsafe s.pointee.vectorScratch.0
      codeSelector = UInt16(truncatingIfNeeded: selectors)
      dataSelector = UInt16(truncatingIfNeeded: selectors >> 16)
    }

    func store(_ s: UnsafeMutablePointer<X86State>) {
      // SAFETY: the state and its XSAVE image.
      let image = unsafe x86_xsave(s)
      unsafe image.storeBytes(of: opcode & 0x7FF, toByteOffset: 6, as: UInt16.self)
      unsafe image.storeBytes(of: instruction, toByteOffset: 8, as: UInt64.self)
      unsafe image.storeBytes(of: data, toByteOffset: 16, as: UInt64.self)
      unsafe s.pointee.vectorScratch.0 = UInt64(codeSelector) | UInt64(dataSelector) << 16
    }
  }

  private static func selector(_ s: UnsafeMutablePointer<X86State>, _ number: UInt8) -> UInt16 {
    // SAFETY: eight segment registers at this offset of the state.
    unsafe (UnsafeMutableRawPointer(s) + Int(x86OffsetSegment))
      .assumingMemoryBound(to: X86Segment.self)[Int(number & 7)].selector
  }

  static func executeX87(
    _ s: UnsafeMutablePointer<X86State>, _ i: UnsafePointer<X86Instruction>,
    _ memory: UnsafeMutableRawPointer?
  ) -> UInt8 {
    // SAFETY: as for `execute`.
    var pointers = unsafe Pointers(s)
    if unsafe isEnvironment(i.pointee), let memory = unsafe memory {
      let isReal = unsafe s.pointee.cr0 & CR0.pe == 0 || s.pointee.eflags & EFLAGS.vm != 0
      let format = unsafe EnvironmentFormat(
        isNarrow: i.pointee.operandSize == 2, isReal: isReal, memory: memory)
      if unsafe i.pointee.modrm >> 3 & 7 == 6 {
        let result = unsafe runX87(s, i, memory)
        if result != 0 { return result }
        format.store(pointers)
        // FNSAVE initialises.
        if unsafe i.pointee.opcode == 0xDD { unsafe Pointers().store(s) }
        return 0
      }
      let loaded = format.load()
      let result = unsafe runX87(s, i, memory)
      if result == 0 { unsafe loaded.store(s) }
      return result
    }
    let result = unsafe runX87(s, i, memory)
    if result != 0 { return result }
    switch unsafe (i.pointee.opcode, i.pointee.modrm) {
    case (0xDB, 0xE3): pointers = Pointers()
    case (0xDB, 0xE0...0xE4), (0xDF, 0xE0): return 0
    case (0xD9, 0x00...0xBF) where unsafe i.pointee.modrm & 0x28 == 0x28: return 0  // FLDCW, FNSTCW
    case (0xDD, 0x00...0xBF) where unsafe i.pointee.modrm & 0x38 == 0x38: return 0  // FNSTSW
    default:
      pointers.instruction = unsafe s.pointee.rip &- UInt64(i.pointee.length)
      if unsafe i.pointee.codeSize != 8 { pointers.instruction &= 0xFFFF_FFFF }
      pointers.opcode = unsafe UInt16(i.pointee.opcode & 7) << 8 | UInt16(i.pointee.modrm)
      pointers.codeSelector = unsafe selector(s, 1)
      if unsafe i.pointee.modrm < 0xC0 {
        pointers.data = unsafe operandOffset(s, i)
        pointers.dataSelector = unsafe selector(s, i.pointee.segment)
      }
    }
    unsafe pointers.store(s)
    return 0
  }

  /// Runs a stub that goes through FXRSTOR and FXSAVE. The image keeps its pointers: processors differ in when they save them.
  static func runX87(
    _ s: UnsafeMutablePointer<X86State>, _ i: UnsafePointer<X86Instruction>,
    _ memory: UnsafeMutableRawPointer?
  ) -> UInt8 {
    // SAFETY: as for `execute`; the image is 4096 bytes.
    let image = unsafe x86_xsave(s)
    let pointers = unsafe Pointers(s)
    let control = unsafe image.load(as: UInt16.self)
    let status = unsafe image.load(fromByteOffset: 2, as: UInt16.self)
    let entry = unsafe Entry(bits: i.pointee.vectorEntry)
    let isIgnoring = status & 0x80 != 0 && !entry.has(Entry.noWait)
    if isIgnoring {
      // CR0.NE is clear (see `pending`): the host must not trap on what the guest ignores.
      unsafe image.storeBytes(of: control | 0x3F, as: UInt16.self)
    }
    let result = unsafe run(s, i, memory)
    if isIgnoring {
      let now = unsafe image.load(as: UInt16.self)
      if now == control | 0x3F { unsafe image.storeBytes(of: control, as: UInt16.self) }
    }
    unsafe pointers.store(s)
    return result
  }

  /// Offset of the memory operand in its segment.
  static func operandOffset(
    _ s: UnsafeMutablePointer<X86State>, _ i: UnsafePointer<X86Instruction>
  ) -> UInt64 {
    // SAFETY: register numbers are 0 to 17 by construction; 16 and 17 are the zero and RIP slots behind the sixteen.
    unsafe UnsafeMutableRawPointer(s).withMemoryRebound(to: UInt64.self, capacity: 18) { r in
      let instruction = unsafe i.pointee
      let scaled = unsafe r[Int(instruction.index)] &<< UInt64(instruction.scale)
      let displacement = UInt64(bitPattern: Int64(instruction.displacement))
      return unsafe (r[Int(instruction.base)] &+ scaled &+ displacement) & instruction.addressMask
    }
  }

  /// The pointers' part of the operand of FLDENV, FNSTENV, FRSTOR, FNSAVE, by operand size and mode (SDM vol. 1, figures 8-9
  /// to 8-12).
  @safe private struct EnvironmentFormat {
    let isNarrow: Bool
    let isReal: Bool
    // SAFETY: the operand, at least 14 or 28 bytes, for the instruction.
    let memory: UnsafeMutableRawPointer

    private func field(_ number: Int) -> UInt32 {
      unsafe isNarrow
        ? UInt32(memory.loadUnaligned(fromByteOffset: number * 2, as: UInt16.self))
        : memory.loadUnaligned(fromByteOffset: number * 4, as: UInt32.self)
    }

    private func setField(_ number: Int, _ value: UInt32) {
      if isNarrow {
        unsafe memory.storeBytes(
          of: UInt16(truncatingIfNeeded: value), toByteOffset: number * 2, as: UInt16.self)
      } else {
        unsafe memory.storeBytes(of: value, toByteOffset: number * 4, as: UInt32.self)
      }
    }

    func store(_ pointers: Pointers) {
      let instruction = UInt32(truncatingIfNeeded: pointers.instruction)
      let data = UInt32(truncatingIfNeeded: pointers.data)
      let opcode = UInt32(pointers.opcode & 0x7FF)
      if isReal {
        // Linear addresses, cut in two.
        let high: UInt32 = isNarrow ? 0xF000 : 0x0FFF_F000
        setField(3, instruction & 0xFFFF)
        setField(4, instruction >> 4 & high | opcode)
        setField(5, data & 0xFFFF)
        setField(6, data >> 4 & high)
      } else {
        setField(3, instruction)
        setField(4, UInt32(pointers.codeSelector) | (isNarrow ? 0 : opcode << 16))
        setField(5, data)
        setField(6, UInt32(pointers.dataSelector) | (isNarrow ? 0 : 0xFFFF_0000))
      }
    }

    func load() -> Pointers {
      var pointers = Pointers()
      if isReal {
        let high: UInt32 = isNarrow ? 0xF000 : 0x0FFF_F000
        pointers.instruction = UInt64(field(3) & 0xFFFF | (field(4) & high) << 4)
        pointers.data = UInt64(field(5) & 0xFFFF | (field(6) & high) << 4)
        pointers.opcode = UInt16(truncatingIfNeeded: field(4) & 0x7FF)
      } else {
        pointers.instruction = UInt64(field(3))
        pointers.data = UInt64(field(5))
        pointers.opcode = isNarrow ? 0 : UInt16(truncatingIfNeeded: field(4) >> 16 & 0x7FF)
        pointers.codeSelector = UInt16(truncatingIfNeeded: field(4))
        pointers.dataSelector = UInt16(truncatingIfNeeded: field(6))
      }
      return pointers
    }
  }
}
