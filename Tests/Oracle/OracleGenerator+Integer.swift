/// The general-purpose instructions.
extension OracleGenerator {
  mutating func integer(_ address: UInt64) -> OracleInstruction {
    var prefixes: [UInt8] = []
    var rexW = random.chance(35)
    let narrow = !rexW && random.chance(25)
    if narrow { prefixes.append(0x66) }
    let isMemory = random.chance(45)
    if isMemory, random.chance(6) { prefixes.append(0x67) }
    if isMemory, random.chance(4) { prefixes.append(random.pick([0x2E, 0x36, 0x3E, 0x26, 0x65])) }
    let reg = register()
    let sub = UInt8(random.below(8))
    let wide = rexW ? 4 : narrow ? 2 : 4
    let forceREX = random.chance(20)
    var lock = false

    func make(
      _ opcode: [UInt8], _ reg: UInt8, memory: Bool, _ immediate: Int = 0, name: String,
      undefined: UInt64 = 0, generator: inout OracleGenerator
    ) -> OracleInstruction {
      var all = prefixes
      if lock { all.insert(0xF0, at: 0) }
      let tail = immediate == 0 ? [] : generator.bytes(immediate)
      return OracleInstruction(
        bytes: generator.assemble(
          prefixes: all, opcode: opcode, reg: reg, operandIsMemory: memory, rexW: rexW,
          forceREX: forceREX, immediate: tail, address: address), undefinedFlags: undefined,
        name: name)
    }
    func plain(_ code: [UInt8], name: String, undefined: UInt64 = 0) -> OracleInstruction {
      var all = prefixes
      let rex: UInt8 = (rexW ? 8 : 0) | (reg >= 8 ? 1 : 0)
      if rex != 0 { all.append(0x40 | rex) }
      return OracleInstruction(bytes: all + code, undefinedFlags: undefined, name: name)
    }

    switch random.below(46) {
    case 0...5:
      let operation = UInt8(random.below(8))
      let form = UInt8(random.below(4))
      lock = isMemory && form < 2 && random.chance(30)
      // AF is undefined after AND, OR, XOR.
      let logic = operation == 1 || operation == 4 || operation == 6
      return make(
        [operation << 3 | form], reg, memory: isMemory, name: "alu", undefined: logic ? Self.af : 0,
        generator: &self)
    case 6:
      let operation = UInt8(random.below(8))
      let logic = operation == 1 || operation == 4 || operation == 6
      let byte = random.chance(40)
      return plain(
        [operation << 3 | (byte ? 4 : 5)] + bytes(byte ? 1 : wide), name: "alu eax,imm",
        undefined: logic ? Self.af : 0)
    case 7...9:
      let opcode = random.pick([0x80, 0x81, 0x83] as [UInt8])
      lock = isMemory && random.chance(30)
      let logic = sub == 1 || sub == 4 || sub == 6
      return make(
        [opcode], sub, memory: isMemory, opcode == 0x81 ? wide : 1, name: "alu imm",
        undefined: logic ? Self.af : 0, generator: &self)
    case 10: return plain([0x50 + (reg & 7)], name: "push")
    case 11: return plain([0x58 + (reg & 7)], name: "pop")
    case 12: return make([0x63], reg, memory: isMemory, name: "movsxd", generator: &self)
    case 13:
      return plain(random.chance(50) ? [0x6A] + bytes(1) : [0x68] + bytes(wide), name: "push imm")
    case 14:
      let short = random.chance(50)
      return make(
        [short ? 0x6B : 0x69], reg, memory: isMemory, short ? 1 : wide, name: "imul",
        undefined: Self.sf | Self.zf | Self.af | Self.pf, generator: &self)
    case 15:
      return make(
        [random.pick([0x84, 0x85])], reg, memory: isMemory, name: "test", undefined: Self.af,
        generator: &self)
    case 16:
      lock = isMemory && random.chance(30)
      return make(
        [random.pick([0x86, 0x87])], reg, memory: isMemory, name: "xchg", generator: &self)
    case 17, 18:
      return make(
        [random.pick([0x88, 0x89, 0x8A, 0x8B])], reg, memory: isMemory, name: "mov",
        generator: &self)
    case 19: return make([0x8D], reg, memory: true, name: "lea", generator: &self)
    case 20: return make([0x8F], 0, memory: isMemory, name: "pop rm", generator: &self)
    case 21: return plain([0x90 + (reg & 7)], name: "xchg eax")
    case 22:
      return plain(
        [random.pick([0x98, 0x99, 0x9E, 0x9F, 0xF5, 0xF8, 0xF9, 0xFC, 0xFD])], name: "simple")
    case 23:
      let opcode = random.pick(
        [0xA4, 0xA5, 0xA6, 0xA7, 0xAA, 0xAB, 0xAC, 0xAD, 0xAE, 0xAF] as [UInt8])
      if random.chance(50) { prefixes.append(random.pick([0xF2, 0xF3])) }
      if random.chance(8) { prefixes.append(0x67) }
      return plain([opcode], name: "string")
    case 24:
      let byte = random.chance(50)
      return plain(
        [byte ? 0xA8 : 0xA9] + bytes(byte ? 1 : wide), name: "test eax", undefined: Self.af)
    case 25:
      if random.chance(50) { return plain([0xB0 + (reg & 7)] + bytes(1), name: "mov imm8") }
      return plain([0xB8 + (reg & 7)] + bytes(rexW ? 8 : wide), name: "mov imm")
    case 26...28:
      let opcode = random.pick([0xC0, 0xC1, 0xD0, 0xD1, 0xD2, 0xD3] as [UInt8])
      let hasImmediate = opcode < 0xD0
      // OF for counts other than 1; AF after shifts; CF when the count exceeds the operand. The host decides, so do we:
      // both sides use the same processor. Only the manuals' undefined bits are not compared.
      let undefined: UInt64 = sub >= 4 ? Self.of | Self.af | Self.cf : Self.of | Self.cf
      return make(
        [opcode], sub, memory: isMemory, hasImmediate ? 1 : 0, name: "shift", undefined: undefined,
        generator: &self)
    case 29:
      let byte = random.chance(50)
      return make(
        [byte ? 0xC6 : 0xC7], 0, memory: isMemory, byte ? 1 : wide, name: "mov rm,imm",
        generator: &self)
    case 30:
      if random.chance(50) { return plain([0xC9], name: "leave") }
      return plain(
        [0xC8, UInt8(random.below(64)), 0, UInt8(random.below(4))], name: "enter")
    case 31: return plain([0xD7], name: "xlat")
    case 32...34:
      let opcode = random.pick([0xF6, 0xF7] as [UInt8])
      if sub < 2 {
        return make(
          [opcode], sub, memory: isMemory, opcode == 0xF6 ? 1 : wide, name: "test imm",
          undefined: Self.af, generator: &self)
      }
      lock = isMemory && sub < 4 && random.chance(30)
      let multiply = Self.sf | Self.zf | Self.af | Self.pf
      let undefined = sub < 4 ? 0 : sub < 6 ? multiply : Self.all
      return make(
        [opcode], sub, memory: isMemory, name: "group 3", undefined: undefined, generator: &self)
    case 35:
      let opcode = random.pick([0xFE, 0xFF] as [UInt8])
      lock = isMemory && random.chance(30)
      let which: UInt8 = opcode == 0xFF && !lock && random.chance(30) ? 6 : UInt8(random.below(2))
      return make([opcode], which, memory: isMemory, name: "inc dec push", generator: &self)
    case 36:
      return make(
        [0x0F, 0x40 + (random.byte() & 15)], reg, memory: isMemory, name: "cmov", generator: &self)
    case 37:
      return make(
        [0x0F, 0x90 + (random.byte() & 15)], reg, memory: isMemory, name: "setcc", generator: &self)
    case 38:
      if random.chance(50) {
        let opcode = random.pick([0xA3, 0xAB, 0xB3, 0xBB] as [UInt8])
        lock = isMemory && opcode != 0xA3 && random.chance(30)
        return make(
          [0x0F, opcode], reg, memory: isMemory && reg & 7 == 6, name: "bt",
          undefined: Self.of | Self.sf | Self.af | Self.pf, generator: &self)
      }
      let which = 4 + UInt8(random.below(4))
      lock = isMemory && which > 4 && random.chance(30)
      return make(
        [0x0F, 0xBA], which, memory: isMemory, 1, name: "bt imm",
        undefined: Self.of | Self.sf | Self.af | Self.pf, generator: &self)
    case 39:
      let opcode = random.pick([0xA4, 0xA5, 0xAC, 0xAD] as [UInt8])
      // With 16 bits and a count above 16 everything is undefined, the result too.
      if narrow { prefixes.removeAll { $0 == 0x66 } }
      return make(
        [0x0F, opcode], reg, memory: isMemory, opcode & 1 == 0 ? 1 : 0, name: "shld",
        undefined: Self.of | Self.af | Self.cf, generator: &self)
    case 40:
      switch random.below(4) {
      case 0:
        return make(
          [0x0F, 0xAF], reg, memory: isMemory, name: "imul",
          undefined: Self.sf | Self.zf | Self.af | Self.pf, generator: &self)
      case 1:
        lock = isMemory && random.chance(40)
        return make(
          [0x0F, random.pick([0xB0, 0xB1])], reg, memory: isMemory, name: "cmpxchg",
          generator: &self)
      case 2:
        lock = isMemory && random.chance(40)
        return make(
          [0x0F, random.pick([0xC0, 0xC1])], reg, memory: isMemory, name: "xadd", generator: &self)
      default:
        lock = random.chance(40)
        return make([0x0F, 0xC7], 1, memory: true, name: "cmpxchg8b", generator: &self)
      }
    case 41:
      return make(
        [0x0F, random.pick([0xB6, 0xB7, 0xBE, 0xBF])], reg, memory: isMemory, name: "movx",
        generator: &self)
    case 42:
      let opcode = random.pick([0xB8, 0xBC, 0xBD] as [UInt8])
      if opcode == 0xB8 || random.chance(50) { prefixes.append(0xF3) }
      let undefined = opcode == 0xB8 ? 0 : Self.of | Self.sf | Self.af | Self.pf | Self.cf
      return make(
        [0x0F, opcode], reg, memory: isMemory, name: "bit scan", undefined: undefined,
        generator: &self)
    case 43:
      switch random.below(5) {
      case 0: return plain([0x0F, 0xC8 + (reg & 7)], name: "bswap")
      case 1: return make([0x0F, 0xC3], reg, memory: true, name: "movnti", generator: &self)
      case 2:
        prefixes.removeAll { $0 == 0x66 }
        prefixes.append(random.pick([0x66, 0xF3]))
        return make([0x0F, 0x38, 0xF6], reg, memory: isMemory, name: "adx", generator: &self)
      case 3:
        return make(
          [0x0F, 0x38, random.pick([0xF0, 0xF1])], reg, memory: true, name: "movbe",
          generator: &self)
      default:
        prefixes.append(0xF2)
        return make(
          [0x0F, 0x38, random.pick([0xF0, 0xF1])], reg, memory: isMemory, name: "crc32",
          generator: &self)
      }
    case 44:
      if random.chance(50) { return bmi(address, reg, isMemory) }
      // A jump over one instruction: both ways end at the same place.
      rexW = false
      prefixes = []
      let skipped: [UInt8] = [0xFE, 0xC0 + (random.byte() & 3)]
      let jump: UInt8
      switch random.below(3) {
      case 0: jump = 0xE0 + (random.byte() & 3)
      case 1: jump = 0xEB
      default: jump = 0x70 + (random.byte() & 15)
      }
      return OracleInstruction(bytes: [jump, 2] + skipped, name: "jump")
    default:
      switch random.below(6) {
      case 0: return plain([0x9C], name: "pushf")
      case 1: return plain([0x0F, 0x0B], name: "ud2")
      case 2:
        return make(
          [0x0F, 0x18 + (random.byte() & 7)], reg, memory: true, name: "nop", generator: &self)
      case 3: return plain([0x0F, random.pick([0x04, 0x0A, 0x0C, 0x24, 0x3F])], name: "undefined")
      case 4:
        return plain(
          [random.pick([0x06, 0x0E, 0x16, 0x1E, 0x27, 0x37, 0x60, 0x61, 0xD6])],
          name: "not in 64-bit mode")
      default: return plain([0x0F, 0xAE, random.pick([0xE8, 0xF0, 0xF8])], name: "fence")
      }
    }
  }

  /// BMI1 and BMI2, VEX-encoded.
  private mutating func bmi(_ address: UInt64, _ reg: UInt8, _ isMemory: Bool) -> OracleInstruction
  {
    let choices: [(map: UInt8, opcode: UInt8, prefix: UInt8, undefined: UInt64)] = [
      (2, 0xF2, 0, Self.af | Self.pf), (2, 0xF3, 0, Self.af | Self.pf),
      (2, 0xF5, 0, Self.af | Self.pf), (2, 0xF5, 2, 0), (2, 0xF5, 3, 0), (2, 0xF6, 3, 0),
      (2, 0xF7, 0, Self.af | Self.pf | Self.sf), (2, 0xF7, 1, 0), (2, 0xF7, 2, 0), (2, 0xF7, 3, 0),
      (3, 0xF0, 3, 0),
    ]
    let choice = random.pick(choices)
    var number = reg
    if choice.opcode == 0xF3, choice.map == 2 { number = UInt8(random.below(8)) }
    var vvvv = UInt8(random.below(16))
    if choice.map == 3, random.chance(90) { vvvv = 0 }
    let isLong = random.chance(3)
    return OracleInstruction(
      bytes: vex(
        map: choice.map, opcode: choice.opcode, prefix: choice.prefix, wide: random.chance(50),
        long: isLong, vvvv: vvvv, reg: number, isMemory: isMemory,
        immediate: choice.map == 3 ? [random.byte()] : [], address: address),
      undefinedFlags: choice.undefined, name: "bmi")
  }

  mutating func vex(
    map: UInt8, opcode: UInt8, prefix: UInt8, wide: Bool, long: Bool, vvvv: UInt8, reg: UInt8,
    isMemory: Bool, immediate: [UInt8], address: UInt64
  ) -> [UInt8] {
    var operand: Operand
    if isMemory {
      operand = memory(reg: reg)
    } else {
      let other = register()
      operand = Operand(modrm: 0xC0 | (reg & 7) << 3 | other & 7)
      operand.rexB = isCareful ? other >= 8 : random.chance(40)
    }
    let last = (~vvvv & 15) << 3 | (long ? 4 : 0) | prefix
    var head: [UInt8]
    if map == 1, !wide, !operand.rexB, !operand.rexX, random.chance(70) {
      head = [0xC5, (reg < 8 ? 0x80 : 0) | last]
    } else {
      let inverted: UInt8 =
        (reg < 8 ? 0x80 : 0) | (operand.rexX ? 0 : 0x40) | (operand.rexB ? 0 : 0x20)
      head = [0xC4, inverted | map, (wide ? 0x80 : 0) | last]
    }
    head.append(opcode)
    return complete(head, operand, immediate, address)
  }
}
