import COracle

/// x87, MMX, SSE and AVX instructions.
extension OracleGenerator {
  mutating func x87(_ address: UInt64) -> OracleInstruction {
    if random.chance(3) { return OracleInstruction(bytes: [0x9B], name: "fwait") }
    let opcode = 0xD8 + UInt8(random.below(8))
    let isMemory = random.chance(45)
    var prefixes: [UInt8] = []
    if random.chance(6) { prefixes.append(0x66) }
    return OracleInstruction(
      bytes: assemble(
        prefixes: prefixes, opcode: [opcode], reg: UInt8(random.below(8)),
        operandIsMemory: isMemory, rexW: random.chance(5), address: address), name: "x87")
  }

  private static func opcodes(_ ranges: [ClosedRange<UInt8>]) -> [UInt8] {
    ranges.flatMap { Array($0) }
  }
  private static let map1 = opcodes([
    0x10...0x17, 0x28...0x2F, 0x50...0x77, 0x7C...0x7F, 0xC2...0xC2, 0xC4...0xC6, 0xD0...0xFE,
    0xAE...0xAE,
  ])
  private static let map2 = opcodes([
    0x00...0x0B, 0x10...0x10, 0x14...0x15, 0x17...0x17, 0x1C...0x1E, 0x20...0x25, 0x28...0x2B,
    0x30...0x35, 0x37...0x41, 0xC8...0xCD, 0xDB...0xDF,
  ])
  private static let map3 = opcodes([
    0x08...0x0F, 0x14...0x17, 0x20...0x22, 0x40...0x42, 0x44...0x44, 0x60...0x63, 0xCC...0xCC,
    0xDF...0xDF,
  ])

  mutating func sse(_ address: UInt64) -> OracleInstruction {
    let prefix = random.pick([[], [0x66], [0xF3], [0xF2]] as [[UInt8]])
    var opcode: [UInt8]
    var immediate: [UInt8] = []
    var reg = UInt8(random.below(16))
    var isMemory = random.chance(50)
    switch random.below(6) {
    case 0...3:
      let byte = random.pick(Self.map1)
      opcode = [0x0F, byte]
      switch byte {
      case 0x70, 0xC2, 0xC4, 0xC5, 0xC6: immediate = [random.byte()]
      case 0x71...0x73:
        immediate = [random.byte() & 0x3F]
        isMemory = false
      case 0x2B where prefix == [0xF2] || prefix == [0xF3]:
        // SSE4a, which is not offered.
        opcode = [0x0F, 0x28]
      case 0x77: return OracleInstruction(bytes: prefix + opcode, name: "emms")
      case 0xAE:
        // LDMXCSR, STMXCSR, FXSAVE, FXRSTOR; the XSAVE family depends on the host's set of components.
        reg = random.pick([0, 1, 2, 3])
        if reg < 2 { return saveArea(reg, address) }
        isMemory = true
      default: break
      }
    case 4:
      opcode = [0x0F, 0x38, random.pick(Self.map2)]
    default:
      opcode = [0x0F, 0x3A, random.pick(Self.map3)]
      immediate = [random.byte()]
    }
    return OracleInstruction(
      bytes: assemble(
        prefixes: prefix, opcode: opcode, reg: reg, operandIsMemory: isMemory,
        rexW: random.chance(25), immediate: immediate, address: address),
      name: opcode == [0x0F, 0xF7] ? "maskmov" : "sse")
  }

  /// FXSAVE or FXRSTOR at an absolute address that is mostly aligned.
  private mutating func saveArea(_ reg: UInt8, _ address: UInt64) -> OracleInstruction {
    var target = dataAddress()
    if random.chance(90) { target &= ~15 }
    let tail = (0..<4).map { UInt8(truncatingIfNeeded: target >> UInt64($0 * 8)) }
    let rex: [UInt8] = random.chance(50) ? [0x48] : []
    let start = Int(target) - Int(ORACLE_DATA) + 28
    return OracleInstruction(
      bytes: rex + [0x0F, 0xAE, reg << 3 | 4, 0x25] + tail, ignoredMemory: start..<(start + 4),
      name: "fxsave")
  }

  private static let vexMap1 = opcodes([
    0x10...0x17, 0x28...0x29, 0x2A...0x2F, 0x50...0x77, 0x7C...0x7F, 0xC2...0xC2, 0xC4...0xC6,
    0xD0...0xFE, 0xAE...0xAE,
  ])
  private static let vexMap2 = opcodes([
    0x00...0x0F, 0x13...0x13, 0x16...0x1A, 0x1C...0x1E, 0x20...0x25, 0x28...0x41, 0x45...0x47,
    0x58...0x5A, 0x78...0x79, 0x8C...0x8C, 0x8E...0x8E, 0x90...0x93, 0x96...0x9F, 0xA6...0xAF,
    0xB6...0xBF, 0xDB...0xDF,
  ])
  private static let vexMap3 = opcodes([
    0x00...0x02, 0x04...0x06, 0x08...0x0F, 0x14...0x19, 0x1D...0x1D, 0x20...0x22, 0x38...0x39,
    0x40...0x42, 0x44...0x44, 0x46...0x46, 0x4A...0x4C, 0x60...0x63, 0xDF...0xDF,
  ])

  mutating func avx(_ address: UInt64) -> OracleInstruction {
    var map: UInt8
    var opcode: UInt8
    var immediate: [UInt8] = []
    var prefix: UInt8 = random.chance(70) ? 1 : UInt8(random.below(4))
    var isMemory = random.chance(50)
    var reg = UInt8(random.below(16))
    var isLong = random.chance(50)
    switch random.below(4) {
    case 0, 1:
      map = 1
      opcode = random.pick(Self.vexMap1)
      prefix = UInt8(random.below(4))
      switch opcode {
      case 0x70...0x73, 0xC2, 0xC4, 0xC5, 0xC6: immediate = [random.byte()]
      case 0x77:
        if prefix != 0 { prefix = 0 }
        let l: UInt8 = isLong ? 4 : 0
        return OracleInstruction(bytes: [0xC5, 0xF8 | l, 0x77], name: "vzero")
      case 0xAE:
        reg = random.pick([2, 3])
        isMemory = true
      default: break
      }
    case 2:
      map = 2
      opcode = random.pick(Self.vexMap2)
      // VAES and wide carry-less multiplication are features of their own, which are not offered.
      if opcode >= 0xDC { isLong = false }
      if opcode >= 0x90, opcode <= 0x93 { return gather(address, opcode, isLong) }
    default:
      map = 3
      opcode = random.pick(Self.vexMap3)
      immediate = [random.byte()]
      if opcode == 0x44 { isLong = false }
    }
    let vvvv = random.chance(30) ? 0 : UInt8(random.below(16))
    return OracleInstruction(
      bytes: vex(
        map: map, opcode: opcode, prefix: prefix, wide: random.chance(30), long: isLong, vvvv: vvvv,
        reg: reg, isMemory: isMemory, immediate: immediate, address: address),
      name: opcode == 0xF7 && map == 1 ? "maskmov" : "avx")
  }

  /// A gather whose base is in the middle of the data; indexes are whatever the vector register holds, so most fault, and some
  /// masks are clear.
  private mutating func gather(
    _ address: UInt64, _ opcode: UInt8, _ isLong: Bool
  ) -> OracleInstruction {
    let base = random.pick([3, 6, 7] as [UInt8])
    let index = UInt8(random.below(16))
    let reg = UInt8(random.below(16))
    let vvvv = UInt8(random.below(16))
    let first: UInt8 = (reg < 8 ? 0x80 : 0) | (index < 8 ? 0x40 : 0) | 0x20 | 2
    let wide: UInt8 = random.chance(50) ? 0x80 : 0
    let second = wide | (~vvvv & 15) << 3 | (isLong ? 4 : 0) | 1
    let scale = UInt8(random.below(4)) << 6
    return OracleInstruction(
      bytes: [
        0xC4, first, second, opcode, (reg & 7) << 3 | 4, scale | (index & 7) << 3 | base,
      ], name: "gather")
  }
}
