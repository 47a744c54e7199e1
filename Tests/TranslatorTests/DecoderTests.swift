import CX86
import Testing
import Translator

/// Lengths, operands and legality by the opcode maps (Intel SDM vol. 2, appendix A).
@Suite struct DecoderTests {
  private func decode(
    _ bytes: [UInt8], _ codeSize: UInt8 = 8, available: Int? = nil
  ) -> (result: DecodeResult, instruction: X86Instruction) {
    var instruction = X86Instruction()
    let padded = bytes + [UInt8](repeating: 0, count: 16)
    let result = Decoder.decode(
      padded, available: available ?? padded.count, codeSize: codeSize, into: &instruction)
    return (result, instruction)
  }

  private func operation(_ i: X86Instruction) -> Operation? { Operation(rawValue: i.handler) }

  @Test(arguments: [
    ([0x90], 8, 1),
    ([0x48, 0xB8, 1, 2, 3, 4, 5, 6, 7, 8], 8, 10),  // mov rax, imm64
    ([0x66, 0xB8, 1, 2], 8, 4),
    ([0x05, 1, 2, 3, 4], 8, 5),
    ([0x66, 0x05, 1, 2], 8, 4),
    ([0xF7, 0xC0, 1, 2, 3, 4], 8, 6),  // test: the group has an immediate
    ([0xF7, 0xD0], 8, 2),  // not: it has none
    ([0x8B, 0x04, 0x25, 0, 0, 0, 0], 8, 7),  // no base
    ([0x8B, 0x05, 0, 0, 0, 0], 8, 6),  // RIP-relative
    ([0x8B, 0x44, 0x24, 8], 8, 4),
    ([0x41, 0x8B, 0x45, 0], 8, 4),  // r13 needs a displacement
    ([0xC8, 0, 1, 2], 8, 4),
    ([0x9A, 1, 2, 3, 4, 5, 6], 4, 7),
    ([0x9A, 1, 2, 3, 4], 2, 5),
    ([0xA1, 1, 2], 2, 3),
    ([0xA1, 1, 2, 3, 4, 5, 6, 7, 8], 8, 9),
    ([0x67, 0xA1, 1, 2, 3, 4], 8, 6),
    ([0x8B, 0x46, 1], 2, 3),  // [bp+1]
    ([0x8B, 0x0E, 1, 2], 2, 4),  // [disp16]
    ([0x66, 0x68, 1, 2, 3, 4], 2, 6),
    ([0x0F, 0x84, 1, 2], 2, 4),
    ([0x0F, 0x84, 1, 2, 3, 4], 8, 6),
    ([0x66, 0x0F, 0x84, 1, 2, 3, 4], 8, 7),  // near branches ignore 66 in 64-bit mode
    ([0x0F, 0x38, 0xF1, 0x07], 8, 4),
    ([0x66, 0x0F, 0x3A, 0x0F, 0xC1, 4], 8, 6),
    ([0xC5, 0xF8, 0x77], 8, 3),
    ([0xC4, 0xE3, 0x79, 0x0F, 0xC1, 4], 8, 6),
    ([0x0F, 0x20, 0x00], 8, 3),  // mov eax, cr0 whatever mod says
    ([0xF3, 0x48, 0x0F, 0xB8, 0xC1], 8, 5),
  ])
  func lengthsAreRight(_ bytes: [Int], _ codeSize: Int, _ length: Int) {
    let (result, i) = decode(bytes.map { UInt8($0) }, UInt8(codeSize))
    #expect(result == .done)
    #expect(Int(i.length) == length)
    #expect(operation(i) != .undefined)
  }

  @Test func fifteenBytesAreTheLimit() {
    let prefixes = [UInt8](repeating: 0x66, count: 14)
    let (_, longest) = decode(prefixes + [0x90])
    #expect(operation(longest) == .nop)
    #expect(longest.length == 15)
    let (_, tooLong) = decode(prefixes + [0x66, 0x90])
    #expect(operation(tooLong) == .overlong)
  }

  @Test func missingBytesAreAskedFor() {
    #expect(decode([0xB8, 1, 2, 3], available: 4).result == .truncated)
    #expect(decode([0x0F], available: 1).result == .truncated)
    #expect(decode([0xC4], 4, available: 1).result == .truncated)
  }

  @Test(arguments: [
    ([0xF0, 0x01, 0x03], true), ([0xF0, 0x01, 0xC3], false), ([0xF0, 0x39, 0x03], false),
    ([0xF0, 0x83, 0x03, 1], true), ([0xF0, 0x83, 0x3B, 1], false), ([0xF0, 0x89, 0x03], false),
    ([0xF0, 0x0F, 0xB1, 0x0B], true), ([0xF0, 0x0F, 0xC7, 0x0B], true), ([0xF0, 0x90], false),
    ([0xF0, 0x0F, 0xA3, 0x03], false), ([0xF0, 0x0F, 0xAB, 0x03], true),
    ([0xF0, 0xFF, 0x03], true), ([0xF0, 0xFF, 0x33], false), ([0xF0, 0xF7, 0x1B], true),
  ])
  func lockIsAllowedOnReadModifyWriteOfMemoryOnly(_ bytes: [Int], _ isLegal: Bool) {
    let (_, i) = decode(bytes.map { UInt8($0) })
    #expect((operation(i) != .undefined) == isLegal)
  }

  @Test func whatLongModeDroppedIsUndefined() {
    for opcode: UInt8 in [0x06, 0x27, 0x37, 0x60, 0x61, 0x62, 0x82, 0x9A, 0xCE, 0xD4, 0xEA] {
      #expect(operation(decode([opcode, 0x03]).instruction) == .undefined, "\(opcode)")
      #expect(operation(decode([opcode, 0x03], 4).instruction) != .undefined, "\(opcode)")
    }
  }

  @Test func vexTellsItselfFromLoadFarPointer() {
    #expect(operation(decode([0xC5, 0x03], 4).instruction) == .loadFarPointer)
    #expect(operation(decode([0xC4, 0xE2, 0x78, 0xF2, 0xC1], 4).instruction) == .andn)
    #expect(operation(decode([0x66, 0xC4, 0xE2, 0x78, 0xF2, 0xC1]).instruction) == .undefined)
  }

  @Test func rexCountsOnlyRightBeforeTheOpcode() {
    #expect(decode([0x48, 0x66, 0x01, 0xC0]).instruction.operandSize == 2)
    #expect(decode([0x66, 0x48, 0x01, 0xC0]).instruction.operandSize == 8)
  }
}
