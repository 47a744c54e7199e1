import COracle

/// A small fast generator of random numbers with a printable seed (xorshift64*).
package struct OracleRandom: Sendable {
  private var state: UInt64
  package init(seed: UInt64) { state = seed | 1 }

  package mutating func next() -> UInt64 {
    state ^= state >> 12
    state ^= state << 25
    state ^= state >> 27
    return state &* 0x2545_F491_4F6C_DD1D
  }
  package mutating func below(_ limit: Int) -> Int { Int(next() >> 33) % max(1, limit) }
  package mutating func chance(_ percent: Int) -> Bool { below(100) < percent }
  package mutating func byte() -> UInt8 { UInt8(truncatingIfNeeded: next() >> 40) }
  package mutating func pick<T>(_ values: [T]) -> T { values[below(values.count)] }
}

/// One generated instruction.
package struct OracleInstruction: Sendable {
  package var bytes: [UInt8]
  /// RFLAGS bits that the manuals leave undefined after it.
  package var undefinedFlags: UInt64 = 0
  /// Bytes of the data pages that need not agree: MXCSR_MASK, in which the guest's processor may differ.
  var ignoredMemory: Range<Int>?
  package var name = ""
  /// FNSTENV and FNSAVE: D9 /6 and DD /6 with a memory operand.
  var storesEnvironment: Bool {
    for (n, byte) in bytes.enumerated() where byte == 0xD9 || byte == 0xDD {
      return n + 1 < bytes.count && bytes[n + 1] < 0xC0 && bytes[n + 1] >> 3 & 7 == 6
    }
    return false
  }
  /// Where its bytes have a displacement relative to RIP.
  var displacementOffset: Int?
}

/// What to generate.
package enum OracleSet: String, CaseIterable, Sendable {
  case integer, x87, sse, avx
}

/// Random non-privileged instructions of 64-bit mode, with operands that mostly hit the data pages.
package struct OracleGenerator: Sendable {
  package var random: OracleRandom

  static let cf: UInt64 = 1
  static let pf: UInt64 = 4
  static let af: UInt64 = 0x10
  static let zf: UInt64 = 0x40
  static let sf: UInt64 = 0x80
  static let of: UInt64 = 0x800
  static let all: UInt64 = 0x8D5

  /// Registers that hold addresses of the data pages: RBX RBP RSI RDI R12 R13 (and RSP).
  var pointers: [UInt8] = [3, 5, 6, 7, 12, 13]
  /// The register of small values that serves as index.
  var index: UInt8 = 14
  /// Long sequences: destinations are seldom the pointers, addresses seldom wild.
  var isCareful = false
  /// Addresses and displacements are multiples of 16.
  var isAligned = false
  /// No operand on top of the stack, where a return address may be.
  var avoidsStack = false
  /// Other pages that addresses may lie in.
  var extraPages: [UInt64] = []
  /// Where the operand made last has a displacement relative to RIP.
  var lastDisplacement: Int?

  package init(seed: UInt64) { random = OracleRandom(seed: seed) }

  /// The register that an instruction names besides its memory operand.
  mutating func register() -> UInt8 {
    let any = UInt8(random.below(16))
    if !isCareful || random.chance(4) { return any }
    for step in UInt8(0)..<16 {
      let candidate = (any + step) & 15
      if candidate != 4, candidate != index, !pointers.contains(candidate) { return candidate }
    }
    return any
  }

  // MARK: - State before

  mutating func value() -> UInt64 {
    switch random.below(10) {
    case 0: return 0
    case 1: return random.next() & 0xFF
    case 2: return UInt64.max
    case 3: return 1 << UInt64(random.below(64))
    case 4: return random.next() & 0xFFFF_FFFF
    case 5: return 0x7FFF_FFFF_FFFF_FFFF &+ UInt64(random.below(3))
    case 6: return 0x7FFF_FFFF &+ UInt64(random.below(3))
    case 7: return UInt64(random.below(64))
    default: return random.next()
    }
  }

  mutating func dataAddress() -> UInt64 {
    let address = anyDataAddress()
    return isAligned && random.chance(95) ? address & ~31 : address
  }

  private mutating func anyDataAddress() -> UInt64 {
    if !extraPages.isEmpty, random.chance(25) {
      return random.pick(extraPages) + UInt64(random.below(4096))
    }
    if isCareful, random.chance(70) {
      let start = random.chance(20) ? 4096 - 40 + random.below(48) : 512 + random.below(11000)
      return UInt64(ORACLE_DATA) + UInt64(start)
    }
    let writable = UInt64(ORACLE_DATA_BYTES) - 4096
    switch random.below(16) {
    case 0: return UInt64(ORACLE_DATA) + UInt64(random.below(64))
    case 1: return UInt64(ORACLE_DATA) + writable - 32 + UInt64(random.below(64))
    case 2: return UInt64(ORACLE_DATA) + UInt64(ORACLE_DATA_BYTES) - 64 + UInt64(random.below(128))
    case 3, 4: return UInt64(ORACLE_DATA) + 4096 - 32 + UInt64(random.below(64))
    case 5...9: return UInt64(ORACLE_DATA) + 256 + UInt64(random.below(680)) * 16
    default: return UInt64(ORACLE_DATA) + 256 + UInt64(random.below(Int(writable) - 512))
    }
  }

  mutating func registers(_ set: OracleSet) -> [UInt64] {
    var list = (0..<16).map { _ in value() }
    for n in pointers { list[Int(n)] = dataAddress() }
    list[4] = UInt64(ORACLE_DATA) + 4096 + UInt64(random.below(512)) * 8
    if random.chance(70), !pointers.contains(1) { list[1] = UInt64(random.below(40)) }
    if isCareful || random.chance(40) {
      list[Int(index)] = UInt64(bitPattern: Int64(random.below(64) - 32)) & (isAligned ? ~15 : ~0)
    }
    return list
  }

  mutating func flags() -> UInt64 {
    var flags = random.next() & Self.all | 0x202
    if random.chance(25) { flags |= 0x400 }
    return flags
  }

  private mutating func float32() -> UInt32 {
    let special: [UInt32] = [
      0, 0x8000_0000, 0x3F80_0000, 0xBF80_0000, 0x7F80_0000, 0xFF80_0000, 0x7FC0_0000, 0x7F80_0001,
      0x0000_0001, 0x807F_FFFF, 0x0080_0000, 0x7F7F_FFFF, 0x4F00_0000, 0x4B00_0001,
    ]
    if random.chance(40) { return random.pick(special) }
    let random32 = UInt32(truncatingIfNeeded: random.next())
    return random.chance(50)
      ? random32 & 0x807F_FFFF | UInt32(110 + random.below(40)) << 23 : random32
  }

  private mutating func float64() -> UInt64 {
    let special: [UInt64] = [
      0, 1 << 63, 0x3FF0_0000_0000_0000, 0x7FF0_0000_0000_0000, 0xFFF8_0000_0000_0000,
      0x7FF0_0000_0000_0001, 1, 0x000F_FFFF_FFFF_FFFF, 0x7FEF_FFFF_FFFF_FFFF,
      0x41E0_0000_0000_0000, 0x43E0_0000_0000_0000,
    ]
    if random.chance(40) { return random.pick(special) }
    let value = random.next()
    return random.chance(50)
      ? value & 0x800F_FFFF_FFFF_FFFF | UInt64(1000 + random.below(60)) << 52 : value
  }

  /// An XSAVE area with random x87, SSE and AVX state.
  mutating func xsave(_ set: OracleSet) -> [UInt8] {
    var area = [UInt8](repeating: 0, count: Int(ORACLE_XSAVE_BYTES))
    func store(_ value: UInt64, _ count: Int, at offset: Int) {
      for n in 0..<count { area[offset + n] = UInt8(truncatingIfNeeded: value >> UInt64(n * 8)) }
    }
    var control: UInt64 = 0x37F
    var status: UInt64 = 0
    var tags: UInt64 = 0
    if set == .x87 || random.chance(20) {
      control = 0x40 | UInt64(random.below(16)) << 8
      if control >> 8 & 3 == 1 { control |= 0x300 }
      control |= random.chance(80) ? 0x3F : UInt64(random.below(64))
      status = UInt64(random.below(8)) << 11 | UInt64(random.below(8)) << 8
      if random.chance(20) { status |= UInt64(random.below(128)) }
      if random.chance(20) { status |= 0x4000 }
      if random.chance(5) { status |= 0 } else { status &= ~(~control & 0x3F) }
      if status & ~control & 0x3F != 0 { status |= 0x8080 }
      tags = random.chance(60) ? UInt64(random.byte()) : random.chance(50) ? 0xFF : 0
      for slot in 0..<8 {
        var exponent = UInt64(random.below(2)) << 15 | UInt64(16383 - 40 + random.below(80))
        var mantissa = 1 << 63 | random.next()
        switch random.below(12) {
        case 0: (exponent, mantissa) = (exponent & 0x8000, 0)
        case 1: (exponent, mantissa) = (exponent | 0x7FFF, 1 << 63)
        case 2: (exponent, mantissa) = (exponent | 0x7FFF, 3 << 62 | mantissa)
        case 3: (exponent, mantissa) = (exponent & 0x8000, random.next() >> 1)
        case 4: exponent = random.next() & 0xFFFF
        case 5: (exponent, mantissa) = (16383 + 10, UInt64(random.below(4096)) << 52 | 1 << 63)
        case 6: (exponent, mantissa) = (random.next() & 0xFFFF, random.next())
        default: break
        }
        store(mantissa, 8, at: 32 + slot * 16)
        store(exponent, 2, at: 40 + slot * 16)
      }
    }
    store(control, 2, at: 0)
    store(status, 2, at: 2)
    store(tags, 1, at: 4)
    var mxcsr: UInt64 = 0x1F80
    if set == .sse || set == .avx, random.chance(50) {
      mxcsr = UInt64(random.below(4)) << 13 | UInt64(random.below(2)) << 6
      mxcsr |= UInt64(random.below(2)) << 15
      mxcsr |= random.chance(70) ? 0x1F80 : UInt64(random.below(64)) << 7
      if random.chance(50) { mxcsr |= UInt64(random.below(64)) }
    }
    store(mxcsr, 4, at: 24)
    store(0xFFFF, 4, at: 28)
    for n in 0..<16 {
      let kind = random.below(4)
      for offset in stride(from: 0, to: 32, by: 8) {
        let word: UInt64
        switch kind {
        case 0: word = UInt64(float32()) | UInt64(float32()) << 32
        case 1: word = float64()
        default: word = random.next()
        }
        store(word, 8, at: (offset < 16 ? 160 : 560) + n * 16 + offset)
      }
    }
    store(7, 8, at: 512)
    return area
  }

  // MARK: - Operands

  /// ModRM, SIB and displacement of a memory operand. `ripFixup` is the position of a displacement relative to the next
  /// instruction, to be corrected when the length is known.
  struct Operand {
    var modrm: UInt8
    var tail: [UInt8] = []
    var rexB = false
    var rexX = false
    var isRIPRelative = false
  }

  private func little(_ value: Int, _ count: Int) -> [UInt8] {
    (0..<count).map { UInt8(truncatingIfNeeded: value >> ($0 * 8)) }
  }

  mutating func memory(reg: UInt8) -> Operand {
    let field = (reg & 7) << 3
    if random.chance(isCareful ? 1 : 4) {
      // Anything.
      var operand = Operand(modrm: random.byte() & 0x3F | UInt8(random.below(3)) << 6 & 0xC0)
      operand.modrm = operand.modrm & 0xC7 | field
      operand.rexB = random.chance(50)
      operand.rexX = random.chance(50)
      let rm = operand.modrm & 7
      let mod = operand.modrm >> 6
      var displacement = mod == 1 ? 1 : mod == 2 ? 4 : 0
      if rm == 4 {
        let sib = random.byte()
        operand.tail.append(sib)
        if mod == 0, sib & 7 == 5 { displacement = 4 }
      } else if mod == 0, rm == 5 {
        displacement = 4
      }
      operand.tail += (0..<displacement).map { _ in random.byte() }
      return operand
    }
    if random.chance(8) {
      let target = Int(dataAddress())
      if random.chance(50) {
        return Operand(modrm: field | 4, tail: [0x25] + little(target, 4))
      }
      return Operand(modrm: field | 5, tail: little(target, 4), isRIPRelative: true)
    }
    let base = isCareful && !avoidsStack && random.chance(8) ? 4 : random.pick(pointers)
    let low = base & 7
    var operand = Operand(modrm: field | low)
    operand.rexB = base >= 8
    if random.chance(25) || low == 4 {
      operand.modrm = field | 4
      // 4 is none.
      let useIndex = random.chance(60)
      operand.rexX = useIndex && index >= 8
      let indexBits = useIndex ? index & 7 : 4
      operand.tail.append(UInt8(random.below(4)) << 6 | indexBits << 3 | low)
    }
    let alignment = isAligned && random.chance(90) ? ~15 : ~0
    switch random.below(3) {
    case 0 where low != 5: break
    case 0, 1:
      operand.modrm |= 0x40
      operand.tail.append(UInt8(bitPattern: Int8((random.below(64) - 32) & alignment)))
    default:
      operand.modrm |= 0x80
      operand.tail += little((random.below(256) - 128) & alignment, 4)
    }
    return operand
  }

  /// Prefixes, REX, opcode, operand and immediate, put together; `registerForm` gives ModRM.rm.
  mutating func assemble(
    prefixes: [UInt8] = [], opcode: [UInt8], reg: UInt8, operandIsMemory: Bool, rexW: Bool = false,
    forceREX: Bool = false, immediate: [UInt8] = [], address: UInt64
  ) -> [UInt8] {
    var operand: Operand
    var rmHigh = false
    if operandIsMemory {
      operand = memory(reg: reg)
    } else {
      let other = register()
      rmHigh = isCareful ? other >= 8 : random.chance(40)
      operand = Operand(modrm: 0xC0 | (reg & 7) << 3 | other & 7)
      operand.rexB = rmHigh
    }
    var rex: UInt8 = rexW ? 8 : 0
    if reg >= 8 { rex |= 4 }
    if operand.rexX { rex |= 2 }
    if operand.rexB { rex |= 1 }
    var code = prefixes
    if rex != 0 || forceREX { code.append(0x40 | rex) }
    code += opcode
    return complete(code, operand, immediate, address)
  }

  mutating func complete(
    _ head: [UInt8], _ operand: Operand, _ immediate: [UInt8], _ address: UInt64
  ) -> [UInt8] {
    var operand = operand
    if operand.isRIPRelative {
      let end = Int(address) + head.count + 1 + operand.tail.count + immediate.count
      let target = operand.tail.enumerated().reduce(0) { $0 | Int($1.element) << ($1.offset * 8) }
      operand.tail = little(target - end, 4)
      lastDisplacement = head.count + 1
    }
    return head + [operand.modrm] + operand.tail + immediate
  }

  mutating func bytes(_ count: Int) -> [UInt8] {
    if count > 1, random.chance(40) {
      let small = random.below(256) - 128
      return little(small, count)
    }
    return (0..<count).map { _ in random.byte() }
  }

  /// One instruction of the set for this address.
  package mutating func instruction(_ set: OracleSet, at address: UInt64) -> OracleInstruction {
    lastDisplacement = nil
    var result =
      switch set {
      case .integer: integer(address)
      case .x87: x87(address)
      case .sse: sse(address)
      case .avx: avx(address)
      }
    result.displacementOffset = lastDisplacement
    return result
  }
}
