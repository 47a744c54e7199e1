/// A small x86 assembler for test guests: labels, the few instructions that depend on the mode, and raw bytes for the rest.
///
/// Code lies below 64 KiB, so that a 16-bit offset reaches every label.
package struct Assembler {
  package enum Mode: Sendable { case bits16, bits32, bits64 }
  /// General registers by number; the width follows from the instruction.
  package enum Register: UInt8, Sendable { case ax, cx, dx, bx, sp, bp, si, di }
  /// Condition codes of Jcc.
  package enum Condition: UInt8, Sendable {
    case below = 2
    case notBelow = 3
    case equal = 4
    case notEqual = 5
  }

  private enum Reference {
    /// The label's address in so many bytes.
    case absolute(size: Int)
    /// The label's distance from the reference's end.
    case relative(size: Int)
  }

  package let origin: UInt64
  package var mode: Mode = .bits16
  package private(set) var bytes: [UInt8] = []
  private var labels: [String: UInt64] = [:]
  private var references: [(offset: Int, label: String, kind: Reference)] = []
  private var unique = 0

  package init(origin: UInt64) { self.origin = origin }

  /// The code with all labels filled in. A label that does not exist stands for 0, which the guest's test will show.
  package func assembled() -> [UInt8] {
    var result = bytes
    for reference in references {
      let target = labels[reference.label] ?? 0
      let size: Int
      let value: UInt64
      switch reference.kind {
      case .absolute(let width):
        size = width
        value = target
      case .relative(let width):
        size = width
        value = target &- (origin + UInt64(reference.offset + width))
      }
      for index in 0..<size {
        result[reference.offset + index] = UInt8(truncatingIfNeeded: value >> UInt64(8 * index))
      }
    }
    return result
  }

  // MARK: - Data and labels

  package mutating func label(_ name: String) { labels[name] = origin + UInt64(bytes.count) }

  /// A name that nobody else uses.
  package mutating func freshLabel() -> String {
    unique += 1
    return ".\(unique)"
  }

  /// Fills up with zeros to a multiple of `alignment`.
  package mutating func align(_ alignment: Int) {
    while (Int(origin) + bytes.count) % alignment != 0 { bytes.append(0) }
  }

  package mutating func emit(_ values: UInt8...) { bytes += values }
  package mutating func emit(string: String) { bytes += Array(string.utf8) }
  package mutating func emit16(_ value: UInt16) { emitInteger(UInt64(value), 2) }
  package mutating func emit32(_ value: UInt32) { emitInteger(UInt64(value), 4) }
  package mutating func emit64(_ value: UInt64) { emitInteger(value, 8) }
  private mutating func emitInteger(_ value: UInt64, _ size: Int) {
    for index in 0..<size { bytes.append(UInt8(truncatingIfNeeded: value >> UInt64(8 * index))) }
  }

  /// The address of `label` in `size` bytes.
  package mutating func emitAddress(of label: String, size: Int) {
    references.append((bytes.count, label, .absolute(size: size)))
    bytes += [UInt8](repeating: 0, count: size)
  }

  private mutating func emitDistance(to label: String) {
    let size = mode == .bits16 ? 2 : 4
    references.append((bytes.count, label, .relative(size: size)))
    bytes += [UInt8](repeating: 0, count: size)
  }

  /// The prefix that makes an operand 32 bits wide, where that is not the default.
  private mutating func wide() { if mode == .bits16 { emit(0x66) } }

  // MARK: - Instructions

  /// mov r32, value
  package mutating func load(_ register: Register, _ value: UInt32) {
    wide()
    emit(0xB8 + register.rawValue)
    emit32(value)
  }

  /// mov r64, value
  package mutating func load64(_ register: Register, _ value: UInt64) {
    emit(0x48, 0xB8 + register.rawValue)
    emit64(value)
  }

  /// mov r32, address of label
  package mutating func load(_ register: Register, addressOf label: String) {
    wide()
    emit(0xB8 + register.rawValue)
    emitAddress(of: label, size: 4)
  }

  /// or eax, value
  package mutating func orAX(_ value: UInt32) {
    wide()
    emit(0x0D)
    emit32(value)
  }

  package mutating func jump(_ label: String) {
    emit(0xE9)
    emitDistance(to: label)
  }
  package mutating func jump(if condition: Condition, _ label: String) {
    emit(0x0F, 0x80 + condition.rawValue)
    emitDistance(to: label)
  }
  package mutating func call(_ label: String) {
    emit(0xE8)
    emitDistance(to: label)
  }

  /// jmp selector:label with a 32-bit offset; not in 64-bit mode.
  package mutating func farJump(_ selector: UInt16, _ label: String) {
    wide()
    emit(0xEA)
    emitAddress(of: label, size: 4)
    emit16(selector)
  }

  /// An instruction whose memory operand is the address of a label (opcode bytes, then the reg field of ModRM).
  package mutating func memory(_ opcode: [UInt8], field: UInt8, _ label: String) {
    bytes += opcode
    switch mode {
    case .bits16:
      emit(field << 3 | 6)
      emitAddress(of: label, size: 2)
    case .bits32:
      emit(field << 3 | 5)
      emitAddress(of: label, size: 4)
    case .bits64:
      emit(field << 3 | 4, 0x25)
      emitAddress(of: label, size: 4)
    }
  }

  /// mov eax, CRn
  package mutating func readControl(_ number: UInt8) { emit(0x0F, 0x20, 0xC0 | number << 3) }
  /// mov CRn, eax
  package mutating func writeControl(_ number: UInt8) { emit(0x0F, 0x22, 0xC0 | number << 3) }
  package mutating func rdmsr(_ index: UInt32) {
    load(.cx, index)
    emit(0x0F, 0x32)
  }
  /// wrmsr of EDX:EAX
  package mutating func wrmsr(_ index: UInt32, _ value: UInt64) {
    load(.cx, index)
    load(.ax, UInt32(truncatingIfNeeded: value))
    load(.dx, UInt32(truncatingIfNeeded: value >> 32))
    emit(0x0F, 0x30)
  }
  package mutating func cli() { emit(0xFA) }
  package mutating func sti() { emit(0xFB) }
  package mutating func hlt() { emit(0xF4) }
  package mutating func nop() { emit(0x90) }
  package mutating func iret() { if mode == .bits64 { emit(0x48, 0xCF) } else { emit(0xCF) } }

  // MARK: - Talking to the test board

  /// Prints a text, a character at a time.
  package mutating func print(_ text: String) {
    for character in text.utf8 { emit(0xB0, character, 0xE6, UInt8(TestBoard.Port.text)) }
  }

  /// Prints EAX in hexadecimal. Uses DX.
  package mutating func reportAX() {
    load(.dx, UInt32(TestBoard.Port.report))
    wide()
    emit(0xEF)
  }

  /// out port, value, in one byte. Uses AL, DX.
  package mutating func outByte(_ port: UInt16, _ value: UInt8) {
    load(.dx, UInt32(port))
    emit(0xB0, value, 0xEE)
  }

  /// Ends the guest's run.
  package mutating func finish(_ status: UInt8 = 0) {
    outByte(TestBoard.Port.finish, status)
    let stop = freshLabel()
    label(stop)
    cli()
    hlt()
    jump(stop)
  }
}
