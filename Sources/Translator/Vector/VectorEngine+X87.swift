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
    var key = StubKey(i, vex: false, prefix: isNarrowEnvironment(i) ? 1 : 0, wide: false)
    key.value = key.value & ~(0xF << 20) | UInt64(i.modrm) << 40 | 1 << 63
    let opcode = i.opcode
    let modrm = i.modrm
    let narrow = isNarrowEnvironment(i)
    i.vectorPointer = StubArena.shared.stub(key) {
      StubEmitter.x87(opcode: opcode, modrm: modrm, narrow: narrow)
    }
    return true
  }

  static func executeX87(
    _ s: UnsafeMutablePointer<X86State>, _ i: UnsafePointer<X86Instruction>,
    _ memory: UnsafeMutableRawPointer?
  ) -> UInt8 {
    // SAFETY: as for `execute`.
    let isReal = unsafe s.pointee.cr0 & CR0.pe == 0 || s.pointee.eflags & EFLAGS.vm != 0
    if isReal, unsafe isEnvironment(i.pointee), let memory = unsafe memory {
      return unsafe realModeEnvironment(s, i, memory)
    }
    return unsafe runX87(s, i, memory, updatesPointers: true)
  }

  /// Runs a stub that goes through FXRSTOR and FXSAVE, and puts the guest's addresses in place of the host's.
  static func runX87(
    _ s: UnsafeMutablePointer<X86State>, _ i: UnsafePointer<X86Instruction>,
    _ memory: UnsafeMutableRawPointer?, updatesPointers: Bool
  ) -> UInt8 {
    // SAFETY: as for `execute`; the image is 4096 bytes.
    let image = unsafe x86_xsave(s)
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
    if result != 0 || !updatesPointers { return result }
    // The host wrote the stub's address where it updated the pointers at all.
    let pointer = unsafe image.load(fromByteOffset: 8, as: UInt64.self)
    if pointer &- StubArena.shared.executable < UInt64(16 << 20) {
      let next = unsafe s.pointee.rip
      var instruction = next &- UInt64(unsafe i.pointee.length)
      if unsafe i.pointee.codeSize != 8 { instruction &= 0xFFFF_FFFF }
      unsafe image.storeBytes(of: instruction, toByteOffset: 8, as: UInt64.self)
      let code = unsafe UInt16(i.pointee.opcode & 7) << 8 | UInt16(i.pointee.modrm)
      let old = unsafe image.load(fromByteOffset: 6, as: UInt16.self)
      if old != 0 { unsafe image.storeBytes(of: code, toByteOffset: 6, as: UInt16.self) }
    }
    if let memory = unsafe memory,
      unsafe image.load(fromByteOffset: 16, as: UInt64.self) == UInt64(UInt(bitPattern: memory))
    {
      unsafe image.storeBytes(of: operandOffset(s, i), toByteOffset: 16, as: UInt64.self)
    }
    return 0
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

  /// FLDENV, FNSTENV, FRSTOR, FNSAVE in real and virtual-8086 mode: pointers are linear addresses and the opcode is stored
  /// between them (SDM vol. 1, figures 8-10 and 8-12).
  private static func realModeEnvironment(
    _ s: UnsafeMutablePointer<X86State>, _ i: UnsafePointer<X86Instruction>,
    _ memory: UnsafeMutableRawPointer
  ) -> UInt8 {
    // SAFETY: as for `execute`.
    let image = unsafe x86_xsave(s)
    let narrow = unsafe i.pointee.operandSize == 2
    let isStore = unsafe i.pointee.modrm >> 3 & 7 == 6
    func field(_ number: Int) -> UInt32 {
      unsafe narrow
        ? UInt32(memory.loadUnaligned(fromByteOffset: number * 2, as: UInt16.self))
        : memory.loadUnaligned(fromByteOffset: number * 4, as: UInt32.self)
    }
    func setField(_ number: Int, _ value: UInt32) {
      if narrow {
        unsafe memory.storeBytes(
          of: UInt16(truncatingIfNeeded: value), toByteOffset: number * 2, as: UInt16.self)
      } else {
        unsafe memory.storeBytes(of: value, toByteOffset: number * 4, as: UInt32.self)
      }
    }
    let pointer = unsafe UInt32(truncatingIfNeeded: image.load(fromByteOffset: 8, as: UInt64.self))
    let data = unsafe UInt32(truncatingIfNeeded: image.load(fromByteOffset: 16, as: UInt64.self))
    let opcode = unsafe UInt32(image.load(fromByteOffset: 6, as: UInt16.self)) & 0x7FF
    let loaded = (field(3), field(4), field(5), field(6))
    let result = unsafe runX87(s, i, memory, updatesPointers: false)
    if result != 0 { return result }
    if isStore {
      let upper: UInt32 = narrow ? 0 : 0xFFFF_0000
      if narrow {
        setField(3, pointer & 0xFFFF)
        setField(4, pointer >> 4 & 0xF000 | opcode)
        setField(5, data & 0xFFFF)
        setField(6, data >> 4 & 0xF000)
      } else {
        setField(3, upper | pointer & 0xFFFF)
        setField(4, pointer >> 4 & 0x0FFF_F000 | opcode)
        setField(5, upper | data & 0xFFFF)
        setField(6, data >> 4 & 0x0FFF_F000)
      }
    } else {
      let high: UInt32 = narrow ? 0xF000 : 0x0FFF_F000
      let newPointer = loaded.0 & 0xFFFF | (loaded.1 & high) << 4
      let newData = loaded.2 & 0xFFFF | (loaded.3 & high) << 4
      unsafe image.storeBytes(of: UInt64(newPointer), toByteOffset: 8, as: UInt64.self)
      unsafe image.storeBytes(of: UInt64(newData), toByteOffset: 16, as: UInt64.self)
      unsafe image.storeBytes(
        of: UInt16(truncatingIfNeeded: loaded.1 & 0x7FF), toByteOffset: 6, as: UInt16.self)
    }
    return 0
  }
}
