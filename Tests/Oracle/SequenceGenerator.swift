import COracle

/// Makes sequences: straight code with loops, forward branches, calls, indirect jumps, and stores to code that follows.
struct SequenceGenerator {
  private var generator: OracleGenerator
  private let set: OracleSet
  private let kind: Sequence.Kind
  private var items: [SequenceItem] = []
  private var victims: [(due: Int, id: Int, form: Victim)] = []
  private var calls: [(item: Int, subroutine: Int)] = []

  private enum Victim: CaseIterable { case load, arithmetic, count, operation, jump, nop }

  /// Counters of the outer and inner loop, and a slot for addresses, where few operands go.
  private static let outerCounter = UInt64(ORACLE_DATA) + 128
  private static let innerCounter = UInt64(ORACLE_DATA) + 136
  private static let slot = UInt64(ORACLE_DATA) + 144

  /// Case `number` of `seed`: the same for ever.
  static func sequence(
    seed: UInt64, number: Int, kind: Sequence.Kind, set wanted: OracleSet?, hasAVX: Bool
  ) -> Sequence {
    let mixed = (seed &+ UInt64(number) &* 0x9E37_79B9_7F4A_7C15) &* 0xBF58_476D_1CE4_E5B9
    var generator = OracleGenerator(seed: mixed ^ mixed >> 31)
    for _ in 0..<4 { _ = generator.random.next() }
    var set: OracleSet
    switch generator.random.below(100) {
    case 0..<50: set = .integer
    case 50..<68: set = .sse
    case 68..<86: set = .avx
    default: set = .x87
    }
    if set == .avx, !hasAVX { set = .sse }
    var maker = SequenceGenerator(generator, wanted ?? set, kind)
    return maker.make(number)
  }

  private init(_ generator: OracleGenerator, _ set: OracleSet, _ kind: Sequence.Kind) {
    self.generator = generator
    self.set = set
    self.kind = kind
  }

  private mutating func make(_ number: Int) -> Sequence {
    chooseRegisters()
    let length = generator.random.chance(30) ? 2 + generator.random.below(6) : 2 + below(39)
    let offset: Int
    switch below(10) {
    case 0..<4: offset = 0
    case 4..<7: offset = below(4096)
    default: offset = 4096 - below(240)
    }
    let rounds = generator.random.chance(70) ? 3 + below(8) : 1
    let first = openLoop(Self.outerCounter, rounds, pinned: true)
    body(length)
    closeLoop(Self.outerCounter, first, pinned: true)
    add(SequenceItem(bytes: [0xCC], name: Sequence.endName, isPinned: true))
    subroutines()
    var sequence = Sequence(
      number: number, kind: kind, set: set, items: items, offset: offset,
      registers: generator.registers(set), flags: generator.flags(), xsave: generator.xsave(set))
    while !sequence.isSound, let last = sequence.items.lastIndex(where: { !$0.isPinned }) {
      sequence.items.remove(at: last)
    }
    return sequence
  }

  private mutating func below(_ limit: Int) -> Int { generator.random.below(limit) }

  private mutating func chooseRegisters() {
    generator.isCareful = true
    generator.isAligned = set == .sse ? generator.random.chance(85) : generator.random.chance(15)
    if kind == .machine { generator.extraPages = OracleGuest.extraPages }
    var free: [UInt8] = [0, 1, 2, 3, 5, 8, 9, 10, 11, 12, 13, 14, 15]
    var pointers: [UInt8] = generator.random.chance(85) ? [6, 7] : []
    if pointers.isEmpty { free += [6, 7] }
    for _ in 0..<4 { pointers.append(free.remove(at: below(free.count))) }
    generator.pointers = pointers
    generator.index = free.remove(at: below(free.count))
  }

  // MARK: - Building blocks

  @discardableResult
  private mutating func add(_ item: SequenceItem) -> Int {
    var item = item
    item.id = items.count
    items.append(item)
    return item.id
  }

  private func little(_ value: UInt64, _ count: Int) -> [UInt8] {
    (0..<count).map { UInt8(truncatingIfNeeded: value >> UInt64($0 * 8)) }
  }

  private mutating func openLoop(_ counter: UInt64, _ rounds: Int, pinned: Bool) -> Int {
    add(
      SequenceItem(
        bytes: [0xC7, 0x04, 0x25] + little(counter, 4) + little(UInt64(rounds), 4),
        name: "loop begin", isPinned: pinned)) + 1
  }

  private mutating func closeLoop(_ counter: UInt64, _ first: Int, pinned: Bool) {
    add(
      SequenceItem(
        bytes: [0x83, 0x2C, 0x25] + little(counter, 4) + [1], name: "loop count",
        cleansFlags: true, isPinned: pinned))
    let size = items[min(first, items.count)...].reduce(0) { $0 + $1.bytes.count }
    // Greater: a loop that was entered in its middle ends too.
    jump(0x7F, to: first, short: size < 100, pinned: pinned)
  }

  /// A conditional or (0xEB) unconditional jump.
  private mutating func jump(_ opcode: UInt8, to id: Int, short: Bool, pinned: Bool = false) {
    var bytes: [UInt8]
    if short {
      bytes = [opcode, 0]
    } else {
      bytes = opcode == 0xEB ? [0xE9, 0, 0, 0, 0] : [0x0F, opcode + 0x10, 0, 0, 0, 0]
    }
    let width = short ? 1 : 4
    add(
      SequenceItem(
        bytes: bytes, name: "jump", isPinned: pinned,
        fixups: [
          .init(
            offset: bytes.count - width, width: width, target: .item(id, addend: 0),
            end: bytes.count)
        ]))
  }

  private func fixups(_ offset: Int?, _ bytes: [UInt8], _ address: UInt64) -> [SequenceItem.Fixup] {
    guard let offset else { return [] }
    var displacement: UInt32 = 0
    for n in 0..<4 { displacement |= UInt32(bytes[offset + n]) << UInt32(n * 8) }
    let signed = UInt64(bitPattern: Int64(Int32(bitPattern: displacement)))
    let target = address &+ UInt64(bytes.count) &+ signed
    return [.init(offset: offset, width: 4, target: .address(target), end: bytes.count)]
  }

  private mutating func plain() {
    var kind = set
    if generator.random.chance(25) { kind = .integer }
    let address = UInt64(ORACLE_CODE) + 512
    while true {
      let one = generator.instruction(kind, at: address)
      if one.bytes.count > 15 { continue }
      // The mask that FXSAVE writes differs, and could be read again.
      if one.name == "fxsave" { continue }
      // Where the last x87 instruction was is not kept by translated code.
      if one.name == "x87", one.storesEnvironment { continue }
      let isRare = ["ud2", "undefined", "not in 64-bit mode", "gather"].contains(one.name)
      if isRare, generator.random.chance(85) { continue }
      add(
        SequenceItem(
          bytes: one.bytes, name: one.name, undefinedFlags: one.undefinedFlags,
          fixups: fixups(one.displacementOffset, one.bytes, address)))
      if one.undefinedFlags != 0 { clean() }
      return
    }
  }

  /// ADD, SUB or CMP: all flags are defined again.
  private mutating func clean() {
    let address = UInt64(ORACLE_CODE) + 512
    let opcode = generator.random.pick([0x00, 0x28, 0x38] as [UInt8]) + UInt8(below(4))
    generator.lastDisplacement = nil
    let reg = generator.register()
    let bytes = generator.assemble(
      opcode: [opcode], reg: reg, operandIsMemory: generator.random.chance(25),
      rexW: generator.random.chance(40), address: address)
    add(
      SequenceItem(
        bytes: bytes, name: "alu", cleansFlags: true,
        fixups: fixups(generator.lastDisplacement, bytes, address)))
  }

  /// lea r, [rip + item]
  private mutating func loadAddress(of id: Int) -> UInt8 {
    let reg = generator.register()
    let register = reg == 4 ? 0 : reg
    add(
      SequenceItem(
        bytes: [0x48 | (register >= 8 ? 4 : 0), 0x8D, (register & 7) << 3 | 5, 0, 0, 0, 0],
        name: "lea",
        fixups: [.init(offset: 3, width: 4, target: .item(id, addend: 0), end: 7)]))
    return register
  }

  // MARK: - The body

  private mutating func body(_ length: Int) {
    var inner: (first: Int, until: Int)?
    let start = items.count
    while items.count - start < length {
      emitVictims(all: false)
      if let open = inner, items.count >= open.until {
        closeLoop(Self.innerCounter, open.first, pinned: false)
        inner = nil
      }
      switch below(100) {
      case 0..<64: plain()
      case 64..<72: branch()
      case 72..<76:
        if inner == nil {
          let first = openLoop(Self.innerCounter, 1 + below(12), pinned: false)
          inner = (first, items.count + 1 + below(6))
        }
      case 76..<79: call()
      case 79..<83: indirect()
      case 83..<90: modify()
      case 90..<94: refresh()
      case 94..<96: divide()
      default: flagImage()
      }
    }
    emitVictims(all: true)
    if let open = inner { closeLoop(Self.innerCounter, open.first, pinned: false) }
  }

  private mutating func branch() {
    let target = items.count + 2 + below(6)
    let opcode: UInt8 = generator.random.chance(15) ? 0xEB : 0x70 + UInt8(below(16))
    jump(opcode, to: target, short: false)
  }

  private mutating func call() {
    let number = below(2)
    let id = add(
      SequenceItem(
        bytes: [0xE8, 0, 0, 0, 0], name: "call",
        fixups: [.init(offset: 1, width: 4, target: .item(Int.max, addend: 0), end: 5)]))
    calls.append((id, number))
  }

  private mutating func subroutines() {
    generator.avoidsStack = true
    for number in 0..<2 where calls.contains(where: { $0.subroutine == number }) {
      let first = items.count
      for one in calls where one.subroutine == number {
        items[one.item].fixups[0].target = .item(first, addend: 0)
      }
      for _ in 0..<below(4) { plain() }
      add(
        SequenceItem(
          bytes: generator.random.chance(80)
            ? [0xC3] : generator.random.chance(50) ? [0xC2, 8, 0] : [0xF3, 0xC3], name: "ret",
          isPinned: true))
    }
  }

  private mutating func indirect() {
    let way = below(5)
    // LEA is one item, the jump one or two.
    let target = items.count + (way >= 2 ? 3 : 2) + below(3)
    let register = loadAddress(of: target)
    let rex: [UInt8] = register >= 8 ? [0x41] : []
    switch way {
    case 0:
      add(SequenceItem(bytes: rex + [0xFF, 0xE0 | register & 7], name: "jmp reg"))
    case 1:
      add(SequenceItem(bytes: rex + [0xFF, 0xD0 | register & 7], name: "call reg"))
    case 2:
      add(SequenceItem(bytes: rex + [0x50 | register & 7], name: "push"))
      add(SequenceItem(bytes: [0xC3], name: "ret"))
    default:
      add(
        SequenceItem(
          bytes: [0x48 | (register >= 8 ? 4 : 0), 0x89, (register & 7) << 3 | 4, 0x25]
            + little(Self.slot, 4), name: "mov"))
      add(
        SequenceItem(
          bytes: [0xFF, way == 3 ? 0x24 : 0x14, 0x25] + little(Self.slot, 4), name: "jmp mem"))
    }
  }

  private mutating func refresh() {
    let register = generator.random.pick(generator.pointers)
    add(
      SequenceItem(
        bytes: [0x48 | (register >= 8 ? 1 : 0), 0xB8 | register & 7]
          + little(generator.dataAddress(), 8), name: "mov imm"))
  }

  private mutating func divide() {
    // xor edx, edx; or ecx, 3; div or idiv ecx
    let wide: [UInt8] = generator.random.chance(50) ? [0x48] : []
    add(
      SequenceItem(
        bytes: [0x31, 0xD2, 0x83, 0xC9, 0x03] + wide + [
          0xF7, generator.random.pick([0xF1, 0xF9]),
        ],
        name: "divide", undefinedFlags: OracleGenerator.all))
    clean()
  }

  private mutating func flagImage() {
    switch below(4) {
    case 0:
      add(SequenceItem(bytes: [0x9C], name: "pushf"))
      let register = generator.register() & 7
      add(SequenceItem(bytes: [0x58 | (register == 4 ? 0 : register)], name: "pop"))
    case 1: add(SequenceItem(bytes: [0x9F], name: "lahf"))
    case 2: add(SequenceItem(bytes: [0x9E], name: "sahf"))
    default:
      var image = generator.random.next() & OracleGenerator.all | 0x202
      if generator.random.chance(25) { image |= 0x400 }
      if generator.random.chance(6) { image |= 0x4_0000 }
      if generator.random.chance(5) { image |= 0x100 }
      add(SequenceItem(bytes: [0x68] + little(image, 4), name: "push imm"))
      add(SequenceItem(bytes: [0x9D], name: "popf"))
    }
  }

  // MARK: - Code that changes code

  private mutating func modify() {
    let form = generator.random.pick(Victim.allCases)
    let distance = generator.random.chance(50) ? 1 : 1 + below(5)
    // Not known yet: where the victim will come to lie.
    let store = items.count
    var bytes: [UInt8]
    var addend = 0
    switch form {
    case .load, .arithmetic:
      addend = 1 + below(4)
      switch below(5) {
      case 0:
        bytes = [0xC7, 0x05, 0, 0, 0, 0] + little(generator.random.next(), 4)
        addend = 1
      case 1:
        bytes = [0x66, 0xC7, 0x05, 0, 0, 0, 0] + little(generator.random.next(), 2)
        addend = 1 + below(3)
      case 2:
        let register = generator.register() & 3
        bytes = [0x88, register << 3 | 5, 0, 0, 0, 0]
      case 3: bytes = [0xF0, 0xFE, 0x05, 0, 0, 0, 0]
      default: bytes = [0xC6, 0x05, 0, 0, 0, 0, generator.random.byte()]
      }
    case .count:
      addend = 1
      let register = generator.random.pick([0, 1, 2, 3, 5, 6, 7] as [UInt8])
      bytes = [0xC6, 0x05, 0, 0, 0, 0, (generator.random.chance(50) ? 0xC0 : 0xC8) | register]
    case .operation:
      bytes = [0xC6, 0x05, 0, 0, 0, 0, generator.random.pick([0x01, 0x29, 0x39, 0x11, 0x19])]
    case .jump: bytes = [0xC6, 0x05, 0, 0, 0, 0, 0x70 + UInt8(below(16))]
    case .nop:
      bytes = [0xC6, 0x05, 0, 0, 0, 0, generator.random.pick([0x90, 0xF8, 0xF9, 0xFC, 0xCC])]
    }
    var field = 2
    if bytes[0] == 0x66 || bytes[0] == 0xF0 { field = 3 }
    add(
      SequenceItem(
        bytes: bytes, name: "store to code",
        changesFlagUse: form == .jump || [0x11, 0x19, 0xCC].contains(bytes[bytes.count - 1]),
        fixups: [
          .init(
            offset: field, width: 4, target: .item(Int.max, addend: addend), end: bytes.count)
        ]))
    victims.append((store + distance, store, form))
  }

  private mutating func emitVictims(all: Bool) {
    var rest: [(due: Int, id: Int, form: Victim)] = []
    for victim in victims {
      if !all, items.count < victim.due {
        rest.append(victim)
        continue
      }
      let register = generator.register() & 7
      let target = register == 4 ? 0 : register
      let id: Int
      switch victim.form {
      case .load:
        id = add(
          SequenceItem(bytes: [0xB8 | target] + little(generator.random.next(), 4), name: "victim"))
      case .arithmetic:
        id = add(
          SequenceItem(
            bytes: [generator.random.pick([0x05, 0x2D, 0x3D])]
              + little(generator.random.next(), 4), name: "victim"))
      case .count: id = add(SequenceItem(bytes: [0xFF, 0xC0 | target], name: "victim"))
      case .operation:
        let source = UInt8(below(8))
        id = add(SequenceItem(bytes: [0x01, 0xC0 | source << 3 | target], name: "victim"))
      case .jump:
        id = items.count
        jump(0x70 + UInt8(below(16)), to: id + 2, short: true)
        plain()
      case .nop: id = add(SequenceItem(bytes: [0x90], name: "victim"))
      }
      if case .item(_, let addend) = items[victim.id].fixups[0].target {
        // A victim may also be behind the loop's turn: earlier code is changed as well.
        items[victim.id].fixups[0].target = .item(id, addend: addend)
      }
    }
    victims = rest
  }
}
