import CX86

/// Accesses of one block whose addresses differ by constants only: checked once, for the range of all of them.
struct MemoryGroup {
  var base: UInt32
  var index: UInt32
  var scale: UInt8
  var segment: UInt8
  /// Any of them writes.
  var writes: Bool
  /// Code that leaves the host address in the group's slot has been written.
  var isEstablished: Bool
  var uses: UInt16
  /// First byte and the one behind the last, relative to the value of base and index that the group's symbols stand for.
  var minimum: Int64
  var maximum: Int64
}

/// The groups of one instruction's accesses; -1 for none.
struct AccessPlan {
  var operand: Int8 = -1
  var stack: Int8 = -1
  var operandPlace: Int64 = 0
  var stackPlace: Int64 = 0
}

/// A register's value as an unknown one plus a constant. Two registers with the same `id` differ by a constant.
struct RegisterSymbol {
  var id: UInt32
  var delta: Int64
}

/// Which accesses can share a check.
///
/// A group's check covers bytes that the block may never touch (it may be left before), so it must not raise anything: when it fails, the
/// interpreter executes the instruction, and a block in which that happens often is translated again without groups.
extension BlockTranslator {
  static let maximumGroups = 24
  /// Bytes that a group may span: a longer one would meet the end of a page too often.
  private static let widest: Int64 = 256
  private static let unknown: Int64 = 1 << 40

  mutating func planGroups() {
    for k in 0..<count { unsafe cache.plans[k] = AccessPlan() }
    groupCount = 0
    if count < 2 || cache.isUngrouped(physical) { return }
    for n in 0..<17 { unsafe cache.symbols[n] = RegisterSymbol(id: UInt32(n), delta: 0) }
    nextSymbol = 17
    for k in 0..<count {
      let i = unsafe Insn(cache.decoded + k)
      let f = unsafe cache.facts[k]
      if f.kind == .special || f.kind == .string {
        for n in UInt8(0)..<16 { forget(n) }
        continue
      }
      // The operand's address is made of the registers as they are before the instruction.
      let hasOperand =
        f.access != UInt8(X86_ACCESS_NONE) || (f.kind == .control && f.bytes != 0)
      if hasOperand && i.addressSize == 8 && i.base < 16 && f.bytes > 0 && f.bytes <= 64 {
        let base = unsafe cache.symbols[Int(i.base)]
        let index = unsafe cache.symbols[Int(min(i.index, 16))]
        let place =
          unsafe Int64(i.p.pointee.displacement) &+ base.delta
          &+ index.delta &<< Int64(i.scale)
        let write = f.access != UInt8(X86_ACCESS_READ) && f.kind != .control
        unsafe cache.plans[k].operand = join(
          base.id, index.id, i.index < 16 ? i.scale : 0, i.segment >= 4 ? i.segment : 0, place,
          Int64(f.bytes), write)
        unsafe cache.plans[k].operandPlace = place
      }
      follow(i, f, k)
    }
  }

  /// Puts an access into a group.
  private mutating func join(
    _ base: UInt32, _ index: UInt32, _ scale: UInt8, _ segment: UInt8, _ place: Int64,
    _ size: Int64, _ write: Bool
  ) -> Int8 {
    if place > BlockTranslator.unknown || place < -BlockTranslator.unknown { return -1 }
    var n = groupCount &- 1
    while n >= 0 {
      let g = unsafe cache.groups + n
      if unsafe g.pointee.base == base && g.pointee.index == index && g.pointee.scale == scale
        && g.pointee.segment == segment
      {
        let low = unsafe min(g.pointee.minimum, place)
        let high = unsafe max(g.pointee.maximum, place &+ size)
        if high &- low <= BlockTranslator.widest {
          unsafe g.pointee.minimum = low
          unsafe g.pointee.maximum = high
          unsafe g.pointee.writes = g.pointee.writes || write
          unsafe g.pointee.uses &+= 1
          return Int8(truncatingIfNeeded: n)
        }
      }
      n &-= 1
    }
    if groupCount >= BlockTranslator.maximumGroups { return -1 }
    unsafe cache.groups[groupCount] = MemoryGroup(
      base: base, index: index, scale: scale, segment: segment, writes: write,
      isEstablished: false, uses: 1, minimum: place, maximum: place &+ size)
    groupCount &+= 1
    return Int8(truncatingIfNeeded: groupCount &- 1)
  }

  private mutating func joinStack(_ k: Int, _ at: RegisterSymbol, _ offset: Int64, write: Bool) {
    let place = at.delta &+ offset
    unsafe cache.plans[k].stack = join(at.id, 16, 0, 0, place, 8, write)
    unsafe cache.plans[k].stackPlace = place
  }

  /// What the registers are after the instruction.
  private mutating func follow(_ i: Insn, _ f: InstructionFacts, _ k: Int) {
    let stack = unsafe cache.symbols[4]
    // SAFETY: the decoder writes raw values of Operation only.
    switch unsafe unsafeBitCast(i.handler, to: Operation.self) {
    case .push64R, .pushImmediate, .pushRM:
      if i.size != 8 { break }
      joinStack(k, stack, -8, write: true)
      move(4, stack, -8)
      return
    case .pop64R:
      joinStack(k, stack, 0, write: false)
      if f.rm == 4 {
        forget(4)
      } else {
        move(4, stack, 8)
        forget(f.rm)
      }
      return
    case .leaveFrame:
      if i.size != 8 { break }
      let frame = unsafe cache.symbols[5]
      joinStack(k, frame, 0, write: false)
      move(4, frame, 8)
      forget(5)
      return
    case .callRelative, .callIndirect:
      joinStack(k, stack, -8, write: true)
      return
    case .return_, .returnImmediate:
      joinStack(k, stack, 0, write: false)
      return
    default: break
    }
    if f.kind == .stack || f.kind == .control {
      for n in UInt8(0)..<16 where f.implicitWritten &>> UInt16(n) & 1 != 0 { forget(n) }
      if f.kind == .stack { forget(4) }
      if f.rmRole == .write || f.rmRole == .readWrite { forget(f.rm) }
      return
    }
    if i.map == 0 && i.size == 8 {
      switch i.opcode {
      case 0x89 where i.isRegister:
        unsafe move(f.rm, cache.symbols[Int(f.reg)], 0)
        return
      case 0x8B where i.isRegister:
        unsafe move(f.reg, cache.symbols[Int(f.rm)], 0)
        return
      case 0x81, 0x83:
        if i.isRegister && (f.reg & 7 == 0 || f.reg & 7 == 5) {
          let value = Int64(bitPattern: i.immediate)
          unsafe move(f.rm, cache.symbols[Int(f.rm)], f.reg & 7 == 0 ? value : 0 &- value)
          return
        }
      case 0xFF where i.isRegister && f.reg & 7 < 2:
        unsafe move(f.rm, cache.symbols[Int(f.rm)], f.reg & 7 == 0 ? 1 : -1)
        return
      case 0x8D where i.addressSize == 8 && i.base < 16 && i.index >= 16:
        unsafe move(f.reg, cache.symbols[Int(i.base)], Int64(i.p.pointee.displacement))
        return
      default: break
      }
    }
    if f.regRole == .write || f.regRole == .readWrite { forgetWritten(f.reg, f.regSize, i) }
    if f.rmRole == .write || f.rmRole == .readWrite { forgetWritten(f.rm, f.rmSize, i) }
    if f.vvvvRole == .write || f.vvvvRole == .readWrite { forget(f.vvvv) }
    if f.implicitWritten != 0 {
      for n in UInt8(0)..<16 where f.implicitWritten &>> UInt16(n) & 1 != 0 { forget(n) }
    }
  }

  /// A register was written; AH to BH are parts of the first four.
  private mutating func forgetWritten(_ register: UInt8, _ size: UInt8, _ i: Insn) {
    let isHigh = size == 1 && !i.hasREX && register >= 4 && register < 8
    forget(isHigh ? register &- 4 : register)
  }

  private mutating func forget(_ register: UInt8) {
    unsafe cache.symbols[Int(register & 15)] = RegisterSymbol(id: nextSymbol, delta: 0)
    nextSymbol &+= 1
  }

  private mutating func move(_ register: UInt8, _ from: RegisterSymbol, _ delta: Int64) {
    let sum = from.delta &+ delta
    if sum > BlockTranslator.unknown || sum < -BlockTranslator.unknown {
      forget(register)
      return
    }
    unsafe cache.symbols[Int(register & 15)] = RegisterSymbol(id: from.id, delta: sum)
  }

  // MARK: - Emission

  /// The operand by a group whose host address is in its slot already.
  mutating func established(_ group: Int8, _ place: Int64) -> Checked? {
    if group < 0 { return nil }
    let g = unsafe cache.groups + Int(group)
    if unsafe !g.pointee.isEstablished { return nil }
    out.load(HostRegister.address, slot(group))
    return unsafe Checked(
      memory: HostMemory(
        base: HostRegister.address,
        displacement: Int32(truncatingIfNeeded: place &- g.pointee.minimum)),
      free: HostRegister.entry)
  }

  /// How far before the access its group begins, when checking the whole group is worth it.
  func reach(_ group: Int8, _ place: Int64) -> Int64? {
    if group < 0 { return nil }
    let g = unsafe cache.groups + Int(group)
    return unsafe g.pointee.uses < 2 ? nil : place &- g.pointee.minimum
  }

  /// Checks the whole group, whose first byte's linear address is in R10, and keeps its host address for later accesses.
  mutating func establish(
    _ group: Int8, _ place: Int64, isWrite: Bool, retry: UnsafeMutablePointer<UInt8>
  ) -> Checked {
    let g = unsafe cache.groups + Int(group)
    let size = unsafe UInt16(truncatingIfNeeded: g.pointee.maximum &- g.pointee.minimum)
    let writes = unsafe g.pointee.writes
    _ = unsafe check(
      size: size, write: writes, wantsScratch: true, retry: retry,
      kind: writes ? (isWrite ? .slowWrite : .slowGroup) : .slowRead)
    out.store(HostRegister.address, slot(group))
    unsafe g.pointee.isEstablished = true
    hasGroups = true
    return unsafe Checked(
      memory: HostMemory(
        base: HostRegister.address,
        displacement: Int32(truncatingIfNeeded: place &- g.pointee.minimum)),
      free: HostRegister.entry)
  }

  private func slot(_ group: Int8) -> HostMemory {
    .state(Int(x86OffsetGroupSlots) &+ Int(group) &* 8)
  }
}
