package import CX86

/// What came of decoding one instruction.
package enum DecodeResult: UInt8, Sendable {
  /// The instruction is complete (perhaps as `Operation.undefined`).
  case done
  /// More bytes than given are needed.
  case truncated
}

/// Shape of an instruction: what follows its opcode, and how its operand size is found.
struct InstructionForm: OptionSet {
  let rawValue: UInt32
  init(rawValue: UInt32) { self.rawValue = rawValue }

  static let modRM = InstructionForm(rawValue: 1 << 0)
  static let imm8 = InstructionForm(rawValue: 1 << 1)
  static let imm16 = InstructionForm(rawValue: 1 << 2)
  /// 2 bytes for 16-bit operands, else 4.
  static let immZ = InstructionForm(rawValue: 1 << 3)
  /// 2, 4 or 8 bytes.
  static let immV = InstructionForm(rawValue: 1 << 4)
  /// An offset as wide as addresses.
  static let memoryOffset = InstructionForm(rawValue: 1 << 5)
  /// Offset (2 or 4 bytes), then selector.
  static let farPointer = InstructionForm(rawValue: 1 << 6)
  /// 16 bits, then 8.
  static let enter = InstructionForm(rawValue: 1 << 7)
  static let byte = InstructionForm(rawValue: 1 << 8)
  /// 64-bit operands in 64-bit mode without REX.W; 16 bits with 66.
  static let default64 = InstructionForm(rawValue: 1 << 9)
  /// 64-bit operands in 64-bit mode whatever the prefixes (near branches).
  static let force64 = InstructionForm(rawValue: 1 << 10)
  static let invalid64 = InstructionForm(rawValue: 1 << 11)
  static let undefined = InstructionForm(rawValue: 1 << 12)
  /// ModRM always names registers (moves to and from control and debug registers).
  static let registersOnly = InstructionForm(rawValue: 1 << 13)
  /// Everything that follows ModRM and its displacement.
  static let immediates = InstructionForm(rawValue: 0xFE)
  static let jump8: InstructionForm = [.imm8, .force64]
  static let jumpZ: InstructionForm = [.immZ, .force64]
}

/// Decodes x86 instructions (Intel SDM vol. 2, chapter 2 and appendix A) to plain structs, without allocation.
///
/// EVEX and XOP are not offered: they come out as undefined.
package enum Decoder {
  /// Longest instruction; longer ones raise #GP (SDM vol. 2, 2.3.11).
  package static let maximumLength = 15

  /// Decodes the instruction at `bytes`, of which `available` may be read, for a code segment of `codeSize` (2, 4 or 8).
  package static func decode(
    _ bytes: UnsafePointer<UInt8>, available: Int, codeSize: UInt8,
    into out: UnsafeMutablePointer<X86Instruction>
  ) -> DecodeResult {
    // SAFETY: `out` is the caller's exclusive memory; `Cursor` checks every read against `available`.
    var cursor = unsafe Cursor(bytes: bytes, limit: min(available, maximumLength))
    unsafe out.pointee = X86Instruction()
    unsafe out.pointee.codeSize = codeSize
    unsafe out.pointee.base = UInt8(X86_REGISTER_NONE)
    unsafe out.pointee.index = UInt8(X86_REGISTER_NONE)
    if codeSize == 8 {
      unsafe decodeParts(&cursor, codeSize: 8, &out.pointee)
    } else {
      unsafe decodeParts(&cursor, codeSize: codeSize, &out.pointee)
    }
    if cursor.isFailed {
      if available < maximumLength { return .truncated }
      unsafe out.pointee.handler = Operation.overlong.rawValue
      cursor.position = maximumLength
    }
    unsafe out.pointee.length = UInt8(truncatingIfNeeded: cursor.position)
    unsafe withUnsafeMutableBytes(of: &out.pointee.bytes) { raw in
      if available >= maximumLength {
        // All 15 at once, in two overlapping pieces.
        // SAFETY: both reads end within `available`.
        let source = unsafe UnsafeRawPointer(bytes)
        let low = unsafe source.loadUnaligned(as: UInt64.self)
        let high = unsafe source.loadUnaligned(fromByteOffset: 7, as: UInt64.self)
        unsafe raw.storeBytes(of: low, as: UInt64.self)
        unsafe raw.storeBytes(of: high, toByteOffset: 7, as: UInt64.self)
      } else {
        for index in 0..<cursor.position { unsafe raw[index] = bytes[index] }
      }
    }
    return .done
  }

  /// Reads bytes in order; past the limit it yields zeros and remembers that.
  @safe struct Cursor {
    let bytes: UnsafePointer<UInt8>
    /// At most 15: the end of what may be read, or the longest instruction.
    let limit: Int
    var position = 0
    var isFailed = false

    @inline(__always) mutating func next() -> UInt8 {
      if position >= limit {
        isFailed = true
        return 0
      }
      // SAFETY: position < limit.
      let byte = unsafe bytes[position]
      position &+= 1
      return byte
    }
    @inline(__always) private mutating func number<T: FixedWidthInteger & BitwiseCopyable>(
      _ type: T.Type
    ) -> T {
      if position &+ MemoryLayout<T>.size > limit {
        isFailed = true
        return 0
      }
      // SAFETY: position + size <= limit.
      let value = unsafe UnsafeRawPointer(bytes + position).loadUnaligned(as: T.self)
      position &+= MemoryLayout<T>.size
      return value
    }
    @inline(__always) mutating func next16() -> UInt16 { number(UInt16.self) }
    @inline(__always) mutating func next32() -> UInt32 { number(UInt32.self) }
    @inline(__always) mutating func next64() -> UInt64 { number(UInt64.self) }
    @inline(__always) func peek() -> UInt8? {
      // SAFETY: checked against `limit`.
      position < limit ? unsafe bytes[position] : nil
    }
  }

  /// Whether a byte is a prefix, REX aside: 26 2E 36 3E, 64 to 67, F0 F2, F3.
  @inline(__always) private static func isPrefix(_ byte: UInt8) -> Bool {
    byte & 0xE7 == 0x26 || byte & 0xFC == 0x64 || byte & 0xFD == 0xF0 || byte == 0xF3
  }

  /// Inlined twice, so that 64-bit mode has a copy without questions about the mode.
  @inline(__always)
  private static func decodeParts(
    _ cursor: inout Cursor, codeSize: UInt8, _ i: inout X86Instruction
  ) {
    var segment: UInt8 = 0xFF
    var prefixes: UInt8 = 0
    var rex: UInt8 = 0
    var opcode: UInt8 = 0
    let long = codeSize == 8

    // Prefixes in any order; REX counts only right before the opcode.
    while true {
      opcode = cursor.next()
      if long && opcode & 0xF0 == 0x40 {
        rex = opcode
        continue
      }
      if !isPrefix(opcode) { break }
      rex = 0
      switch opcode {
      case 0x26: if !long { segment = 0 } else { segment = segment < 4 ? 0xFF : segment }
      case 0x2E: if !long { segment = 1 } else { segment = segment < 4 ? 0xFF : segment }
      case 0x36: if !long { segment = 2 } else { segment = segment < 4 ? 0xFF : segment }
      case 0x3E: if !long { segment = 3 } else { segment = segment < 4 ? 0xFF : segment }
      case 0x64: segment = 4
      case 0x65: segment = 5
      case 0x66: prefixes |= UInt8(X86_PREFIX_66)
      case 0x67: prefixes |= UInt8(X86_PREFIX_67)
      case 0xF0: prefixes |= UInt8(X86_PREFIX_LOCK)
      case 0xF2: prefixes = prefixes & ~UInt8(X86_PREFIX_F3) | UInt8(X86_PREFIX_F2)
      default: prefixes = prefixes & ~UInt8(X86_PREFIX_F2) | UInt8(X86_PREFIX_F3)
      }
    }
    if cursor.isFailed { return }

    if segment != 0xFF { prefixes |= UInt8(X86_PREFIX_SEGMENT) }
    if rex != 0 { prefixes |= UInt8(X86_PREFIX_REX) }
    i.rex = rex
    if prefixes & UInt8(X86_PREFIX_F3) != 0 {
      i.pp = 2
    } else if prefixes & UInt8(X86_PREFIX_F2) != 0 {
      i.pp = 3
    } else if prefixes & UInt8(X86_PREFIX_66) != 0 {
      i.pp = 1
    }
    let wide = rex & 8 != 0
    i.vexW = wide ? 1 : 0

    // Address size.
    let flipAddress = prefixes & UInt8(X86_PREFIX_67) != 0
    switch codeSize {
    case 8: i.addressSize = flipAddress ? 4 : 8
    case 4: i.addressSize = flipAddress ? 2 : 4
    default: i.addressSize = flipAddress ? 4 : 2
    }
    switch i.addressSize {
    case 8: i.addressMask = UInt64.max
    case 4: i.addressMask = 0xFFFF_FFFF
    default: i.addressMask = 0xFFFF
    }

    // Opcode map, VEX.
    var map = UInt8(X86_MAP_ONE)
    var form: InstructionForm
    let isVEX =
      (opcode == 0xC4 || opcode == 0xC5)
      && (long || (cursor.peek().map { $0 >= 0xC0 } ?? false))
    if (opcode == 0xC4 || opcode == 0xC5) && !long && cursor.peek() == nil {
      _ = cursor.next()
      return
    }
    if isVEX {
      let mandatory = UInt8(X86_PREFIX_66 | X86_PREFIX_F2 | X86_PREFIX_F3 | X86_PREFIX_LOCK)
      let illegal = prefixes & mandatory != 0 || rex != 0
      decodeVEX(&cursor, two: opcode == 0xC5, long: long, &i)
      map = i.map
      prefixes |= UInt8(X86_PREFIX_VEX)
      i.opcodeOffset = UInt8(truncatingIfNeeded: cursor.position)
      opcode = cursor.next()
      form = vexForm(map: map, opcode)
      if illegal || map == 0 || map > 3 { form = .undefined }
    } else if opcode == 0x0F {
      opcode = cursor.next()
      if opcode == 0x38 {
        map = UInt8(X86_MAP_0F38)
        i.opcodeOffset = UInt8(truncatingIfNeeded: cursor.position)
        opcode = cursor.next()
        form = .modRM
      } else if opcode == 0x3A {
        map = UInt8(X86_MAP_0F3A)
        i.opcodeOffset = UInt8(truncatingIfNeeded: cursor.position)
        opcode = cursor.next()
        form = [.modRM, .imm8]
      } else {
        map = UInt8(X86_MAP_0F)
        i.opcodeOffset = UInt8(truncatingIfNeeded: cursor.position &- 1)
        form = twoByteForm(opcode)
      }
    } else {
      i.opcodeOffset = UInt8(truncatingIfNeeded: cursor.position &- 1)
      form = oneByteForm(opcode)
    }
    if cursor.isFailed { return }
    i.map = map
    i.opcode = opcode
    i.prefixes = prefixes
    if long && form.contains(.invalid64) { form = .undefined }

    // ModRM decides the shape of a few groups.
    if form.contains(.modRM) {
      let modrm = cursor.next()
      if cursor.isFailed { return }
      i.modrm = modrm
      i.hasModRM = 1
      if map == UInt8(X86_MAP_ONE), opcode >= 0x8F {
        form.formUnion(groupForm(opcode, modrm))
      }
    }

    // Operand size.
    let flipOperand = prefixes & UInt8(X86_PREFIX_66) != 0
    if form.contains(.byte) {
      i.operandSize = 1
    } else if long {
      let wideNow = i.vexW != 0
      if form.contains(.force64) {
        i.operandSize = 8
      } else if form.contains(.default64) {
        i.operandSize = flipOperand && !wideNow ? 2 : 8
      } else {
        i.operandSize = wideNow ? 8 : flipOperand ? 2 : 4
      }
    } else {
      i.operandSize = (codeSize == 4) != flipOperand ? 4 : 2
    }

    // Memory operand.
    let extended = i.rex
    i.segment = 3
    if i.hasModRM != 0 {
      i.reg = (i.modrm &>> 3 & 7) | (extended & 4) &<< 1
      i.rm = (i.modrm & 7) | (extended & 1) &<< 3
      if i.modrm < 0xC0 && !form.contains(.registersOnly) {
        if i.addressSize == 2 {
          decodeAddress16(&cursor, &i)
        } else {
          decodeAddress(&cursor, long: long, &i)
        }
      }
    } else {
      i.rm = (opcode & 7) | (extended & 1) &<< 3
    }
    if segment != 0xFF { i.segment = segment }

    // Immediates.
    if form.isDisjoint(with: .immediates) {
    } else if form.contains(.imm8) {
      i.immediate = UInt64(bitPattern: Int64(Int8(bitPattern: cursor.next())))
      i.immediateSize = 1
    } else if form.contains(.immZ) {
      if i.operandSize == 2 {
        i.immediate = UInt64(bitPattern: Int64(Int16(bitPattern: cursor.next16())))
        i.immediateSize = 2
      } else {
        i.immediate = UInt64(bitPattern: Int64(Int32(bitPattern: cursor.next32())))
        i.immediateSize = 4
      }
    } else if form.contains(.immV) {
      i.immediateSize = i.operandSize
      switch i.operandSize {
      case 8: i.immediate = cursor.next64()
      case 4: i.immediate = UInt64(cursor.next32())
      default: i.immediate = UInt64(cursor.next16())
      }
    } else if form.contains(.imm16) {
      i.immediate = UInt64(cursor.next16())
      i.immediateSize = 2
    } else if form.contains(.memoryOffset) {
      i.immediateSize = i.addressSize
      switch i.addressSize {
      case 8: i.immediate = cursor.next64()
      case 4: i.immediate = UInt64(cursor.next32())
      default: i.immediate = UInt64(cursor.next16())
      }
    } else if form.contains(.farPointer) {
      i.immediateSize = i.operandSize &+ 2
      i.immediate = i.operandSize == 2 ? UInt64(cursor.next16()) : UInt64(cursor.next32())
      i.immediate2 = cursor.next16()
    } else if form.contains(.enter) {
      i.immediate = UInt64(cursor.next16())
      i.immediate2 = UInt16(cursor.next())
      i.immediateSize = 3
    }
    if cursor.isFailed { return }
    if form.contains(.undefined) {
      i.handler = Operation.undefined.rawValue
      return
    }
    var operation = Operation.undefined
    if prefixes & UInt8(X86_PREFIX_VEX) != 0 {
      operation = vexOperation(&i)
    } else {
      switch map {
      case UInt8(X86_MAP_ONE): operation = oneByteOperation(&i)
      case UInt8(X86_MAP_0F): operation = twoByteOperation(&i)
      case UInt8(X86_MAP_0F38): operation = map38Operation(&i)
      default: operation = .vector
      }
    }
    if prefixes & UInt8(X86_PREFIX_LOCK) != 0 && !isLockable(&i) { operation = .undefined }
    i.handler = operation.rawValue
  }

  private static func decodeVEX(
    _ cursor: inout Cursor, two: Bool, long: Bool, _ i: inout X86Instruction
  ) {
    var rex: UInt8 = 0x40
    let first = cursor.next()
    var last = first
    i.map = 1
    if first & 0x80 == 0 { rex |= 4 }
    if !two {
      if first & 0x40 == 0 { rex |= 2 }
      if first & 0x20 == 0 { rex |= 1 }
      let map = first & 31
      i.map = map >= 1 && map <= 3 ? map : 0xFF
      last = cursor.next()
      if last & 0x80 != 0 {
        i.vexW = 1
        if long { rex |= 8 }
      }
    }
    // Outside 64-bit mode only eight registers exist; the inverted bits are 1 there or ignored.
    if !long { rex = 0x40 }
    i.rex = rex
    i.vexV = ~(last &>> 3) & (long ? 15 : 7)
    i.vexL = last &>> 2 & 1
    i.pp = last & 3
  }

  private static func decodeAddress16(_ cursor: inout Cursor, _ i: inout X86Instruction) {
    let none = UInt8(X86_REGISTER_NONE)
    i.index = none
    switch i.modrm & 7 {
    case 0: (i.base, i.index) = (3, 6)
    case 1: (i.base, i.index) = (3, 7)
    case 2: (i.base, i.index) = (5, 6)
    case 3: (i.base, i.index) = (5, 7)
    case 4: i.base = 6
    case 5: i.base = 7
    case 6: i.base = i.modrm < 0x40 ? none : 5
    default: i.base = 3
    }
    if i.base == 5 { i.segment = 2 }
    switch i.modrm &>> 6 {
    case 0:
      if i.modrm & 7 == 6 { i.displacement = Int32(cursor.next16()) }
    case 1: i.displacement = Int32(Int8(bitPattern: cursor.next()))
    default: i.displacement = Int32(Int16(bitPattern: cursor.next16()))
    }
  }

  @inline(__always) private static func decodeAddress(
    _ cursor: inout Cursor, long: Bool, _ i: inout X86Instruction
  ) {
    let none = UInt8(X86_REGISTER_NONE)
    let mod = i.modrm &>> 6
    if i.modrm & 7 == 4 {
      let sib = cursor.next()
      let index = (sib &>> 3 & 7) | (i.rex & 2) &<< 2
      i.index = index == 4 ? none : index
      i.scale = sib &>> 6
      i.base = (sib & 7) | (i.rex & 1) &<< 3
      if sib & 7 == 5 && mod == 0 {
        i.base = none
        i.displacement = Int32(bitPattern: cursor.next32())
      } else if i.base == 4 || i.base == 5 {
        i.segment = 2
      }
    } else if i.modrm & 7 == 5 && mod == 0 {
      i.base = long ? UInt8(X86_REGISTER_RIP) : none
      i.displacement = Int32(bitPattern: cursor.next32())
      return
    } else {
      i.base = i.rm
      if i.base == 5 { i.segment = 2 }
    }
    if mod == 1 {
      i.displacement = Int32(Int8(bitPattern: cursor.next()))
    } else if mod == 2 {
      i.displacement = Int32(bitPattern: cursor.next32())
    }
  }

  /// Whether LOCK is allowed (SDM vol. 2A, LOCK): read-modify-write instructions with a memory destination.
  private static func isLockable(_ i: inout X86Instruction) -> Bool {
    if i.hasModRM == 0 || i.modrm >= 0xC0 { return false }
    let sub = i.modrm &>> 3 & 7
    if i.map == UInt8(X86_MAP_ONE) {
      switch i.opcode {
      case 0x00, 0x01, 0x08, 0x09, 0x10, 0x11, 0x18, 0x19, 0x20, 0x21, 0x28, 0x29, 0x30, 0x31,
        0x86, 0x87:
        return true
      case 0x80, 0x81, 0x82, 0x83: return sub != 7
      case 0xF6, 0xF7: return sub == 2 || sub == 3
      case 0xFE, 0xFF: return sub < 2
      default: return false
      }
    }
    if i.map == UInt8(X86_MAP_0F) {
      switch i.opcode {
      case 0xAB, 0xB3, 0xBB, 0xB0, 0xB1, 0xC0, 0xC1: return true
      case 0xBA: return sub >= 5
      case 0xC7: return sub == 1
      default: return false
      }
    }
    return false
  }
}
