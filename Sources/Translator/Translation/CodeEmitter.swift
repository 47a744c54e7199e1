import CX86

/// A register of the host's by its number in encodings.
enum HostRegister {
  static let rax: UInt8 = 0
  static let rcx: UInt8 = 1
  static let rsp: UInt8 = 4
  /// Guest RSP while translated code runs.
  static let guestStack: UInt8 = 9
  /// Scratch: an address, later the offset in its page.
  static let address: UInt8 = 10
  /// Scratch: a TLB entry's offset, later the page's host address.
  static let entry: UInt8 = 11
}

/// A memory operand of host code.
struct HostMemory {
  static let noIndex: UInt8 = 0xFF
  var base: UInt8
  var index: UInt8 = HostMemory.noIndex
  var scale: UInt8 = 0
  var displacement: Int32 = 0

  /// A field of X86State.
  @inline(__always) static func state(_ offset: Int) -> HostMemory {
    HostMemory(base: HostRegister.rsp, displacement: Int32(truncatingIfNeeded: offset))
  }
  /// The place of a guest register in X86State.
  @inline(__always) static func guest(_ register: UInt8) -> HostMemory {
    state(Int(register) &* 8)
  }
}

/// The second operand of an instruction.
enum HostOperand {
  case register(UInt8)
  case memory(HostMemory)
}

/// Writes host instructions, through the writable mapping of the code cache (Intel SDM vol. 2, chapter 2).
///
/// It does not look for the end: the caller has made sure that a whole block fits.
@safe struct CodeEmitter {
  // SAFETY (whole file): `p` stays inside the room that TranslationCache reserved for the block.
  var p: UnsafeMutablePointer<UInt8>

  @inline(__always) mutating func byte(_ value: UInt8) {
    unsafe p.pointee = value
    unsafe p += 1
  }
  @inline(__always) mutating func bytes(_ a: UInt8, _ b: UInt8) {
    unsafe UnsafeMutableRawPointer(p).storeBytes(of: UInt16(a) | UInt16(b) &<< 8, as: UInt16.self)
    unsafe p += 2
  }
  @inline(__always) mutating func bytes(_ a: UInt8, _ b: UInt8, _ c: UInt8) {
    bytes(a, b)
    byte(c)
  }
  @inline(__always) mutating func word(_ value: UInt32) {
    unsafe UnsafeMutableRawPointer(p).storeBytes(of: value, as: UInt32.self)
    unsafe p += 4
  }
  @inline(__always) mutating func word(_ value: Int32) { word(UInt32(bitPattern: value)) }
  @inline(__always) mutating func quad(_ value: UInt64) {
    unsafe UnsafeMutableRawPointer(p).storeBytes(of: value, as: UInt64.self)
    unsafe p += 8
  }

  // MARK: - Encoding

  /// ModRM, SIB and displacement.
  @inline(__always) mutating func modRM(_ reg: UInt8, _ m: HostMemory) {
    let r = (reg & 7) &<< 3
    let d = m.displacement
    let mod: UInt8 =
      d == 0 && m.base & 7 != 5 ? 0 : d == Int32(Int8(truncatingIfNeeded: d)) ? 0x40 : 0x80
    if m.index != HostMemory.noIndex {
      bytes(mod | r | 4, m.scale &<< 6 | (m.index & 7) &<< 3 | m.base & 7)
    } else if m.base & 7 == 4 {
      bytes(mod | r | 4, 0x24)
    } else {
      byte(mod | r | m.base & 7)
    }
    if mod == 0x40 { byte(UInt8(truncatingIfNeeded: d)) } else if mod == 0x80 { word(d) }
  }

  /// REX bits R, X and B.
  @inline(__always) static func rex(_ reg: UInt8, _ m: HostMemory) -> UInt8 {
    let x: UInt8 = m.index != HostMemory.noIndex && m.index >= 8 ? 2 : 0
    return (reg >= 8 ? 4 : 0) | x | (m.base >= 8 ? 1 : 0)
  }

  /// A one-byte opcode with 64-bit operands.
  @inline(__always) mutating func wide(_ opcode: UInt8, _ reg: UInt8, _ m: HostMemory) {
    bytes(0x48 | CodeEmitter.rex(reg, m), opcode)
    modRM(reg, m)
  }
  /// A one-byte opcode with 32-bit operands.
  @inline(__always) mutating func narrow(_ opcode: UInt8, _ reg: UInt8, _ m: HostMemory) {
    let rex = CodeEmitter.rex(reg, m)
    if rex != 0 { byte(0x40 | rex) }
    byte(opcode)
    modRM(reg, m)
  }
  @inline(__always) mutating func wide(_ opcode: UInt8, _ reg: UInt8, register rm: UInt8) {
    bytes(0x48 | (reg >= 8 ? 4 : 0) | (rm >= 8 ? 1 : 0), opcode, 0xC0 | (reg & 7) &<< 3 | rm & 7)
  }

  // MARK: - Moves

  @inline(__always) mutating func load(_ reg: UInt8, _ m: HostMemory) { wide(0x8B, reg, m) }
  @inline(__always) mutating func store(_ reg: UInt8, _ m: HostMemory) { wide(0x89, reg, m) }
  @inline(__always) mutating func lea(_ reg: UInt8, _ m: HostMemory) { wide(0x8D, reg, m) }
  @inline(__always) mutating func move(_ to: UInt8, _ from: UInt8) {
    wide(0x8B, to, register: from)
  }

  /// A constant, in the shortest form. Leaves the flags alone.
  mutating func constant(_ reg: UInt8, _ value: UInt64) {
    let b: UInt8 = reg >= 8 ? 1 : 0
    if value <= 0xFFFF_FFFF {
      if b != 0 { byte(0x41) }
      byte(0xB8 | reg & 7)
      word(UInt32(truncatingIfNeeded: value))
    } else if CodeEmitter.fits(value) {
      bytes(0x48 | b, 0xC7, 0xC0 | reg & 7)
      word(UInt32(truncatingIfNeeded: value))
    } else {
      bytes(0x48 | b, 0xB8 | reg & 7)
      quad(value)
    }
  }

  /// Whether a value is the sign extension of its low 32 bits.
  @inline(__always) static func fits(_ value: UInt64) -> Bool {
    Int64(bitPattern: value) == Int64(Int32(truncatingIfNeeded: Int64(bitPattern: value)))
  }

  /// `op m, imm32` of group 1 with 64-bit operands; `operation` 7 is CMP.
  @inline(__always) mutating func immediate(_ operation: UInt8, _ m: HostMemory, _ value: UInt64) {
    wide(0x81, operation, m)
    word(UInt32(truncatingIfNeeded: value))
  }

  // MARK: - Jumps

  /// A jump or conditional jump (condition 0 to 15) whose 32-bit displacement is filled in later. Returns the displacement's place.
  @inline(__always) mutating func jump(condition: UInt8) -> UnsafeMutablePointer<UInt8> {
    bytes(0x0F, 0x80 | condition)
    word(UInt32(0))
    return unsafe p - 4
  }
  @inline(__always) mutating func jump() -> UnsafeMutablePointer<UInt8> {
    byte(0xE9)
    word(UInt32(0))
    return unsafe p - 4
  }
  /// A jump to code of the same mapping.
  @inline(__always) mutating func jump(to target: UnsafeMutablePointer<UInt8>) {
    let site = unsafe jump()
    unsafe CodeEmitter.patch(site, target)
  }
  /// `jmp *field` or `call *field`.
  @inline(__always) mutating func jump(through m: HostMemory) {
    byte(0xFF)
    modRM(4, m)
  }
  @inline(__always) mutating func call(through m: HostMemory) {
    byte(0xFF)
    modRM(2, m)
  }
  /// Makes the jump whose displacement lies at `site` go to `target`; one aligned-or-not store of four bytes, seen by this thread only.
  @inline(__always) static func patch(
    _ site: UnsafeMutablePointer<UInt8>, _ target: UnsafeMutablePointer<UInt8>
  ) {
    let distance = unsafe target - (site + 4)
    unsafe UnsafeMutableRawPointer(site).storeBytes(
      of: Int32(truncatingIfNeeded: distance), as: Int32.self)
  }
}

extension CodeEmitter {
  /// The guest's instruction again, with other registers and memory operand: `reg` and `vvvv` are host numbers.
  ///
  /// Prefixes for address size and segment go; operand size, LOCK, the mandatory prefix and the immediate stay.
  /// LOCK stays with one vCPU too: it is the barrier between a driver and the threads of its device, which read the same rings.
  mutating func instruction(_ i: Insn, reg: UInt8, _ rm: HostOperand, vvvv: UInt8) {
    let prefixes = i.prefixes
    var extension_: UInt8 = reg >= 8 ? 4 : 0
    switch rm {
    case .register(let number): extension_ |= number >= 8 ? 1 : 0
    case .memory(let m): extension_ |= CodeEmitter.rex(0, m)
    }
    if prefixes & UInt8(X86_PREFIX_VEX) != 0 {
      bytes(0xC4, (~extension_ & 7) &<< 5 | i.map)
      let l = unsafe i.p.pointee.vexL
      let w = unsafe i.p.pointee.vexW
      byte(w &<< 7 | (~vvvv & 15) &<< 3 | l &<< 2 | i.pp)
    } else {
      if prefixes & UInt8(X86_PREFIX_LOCK) != 0 { byte(0xF0) }
      if prefixes & UInt8(X86_PREFIX_66) != 0 { byte(0x66) }
      if prefixes & UInt8(X86_PREFIX_F2) != 0 { byte(0xF2) }
      if prefixes & UInt8(X86_PREFIX_F3) != 0 { byte(0xF3) }
      let old = i.rex
      if old != 0 || extension_ != 0 { byte(0x40 | old & 8 | extension_) }
      switch i.map {
      case 1: byte(0x0F)
      case 2: bytes(0x0F, 0x38)
      case 3: bytes(0x0F, 0x3A)
      default: break
      }
    }
    byte(i.opcode)
    switch rm {
    case .register(let number): byte(0xC0 | (reg & 7) &<< 3 | number & 7)
    case .memory(let m): modRM(reg, m)
    }
    immediate(of: i)
  }

  /// The bytes of the immediate, as they stand at the end of the instruction.
  @inline(__always) mutating func immediate(of i: Insn) {
    let size = unsafe Int(i.p.pointee.immediateSize)
    if size == 0 { return }
    let from = Int(i.length) &- size
    for k in 0..<size { byte(i.byte(from &+ k)) }
  }

  /// The guest's instruction as it is.
  @inline(__always) mutating func verbatim(_ i: Insn) {
    for k in 0..<Int(i.length) { byte(i.byte(k)) }
  }
}

extension Insn {
  /// Byte `k` of the instruction.
  @inline(__always) func byte(_ k: Int) -> UInt8 {
    // SAFETY: masked to the array, which lies inside the structure.
    unsafe UnsafeRawPointer(p).load(
      fromByteOffset: Int(x86OffsetBytes) &+ (k & 15), as: UInt8.self)
  }
}
