import Host
import Testing

@Suite struct DisassemblerTests {
  struct Line: Sendable {
    let mode: Disassembler.Mode
    let bytes: [UInt8]
    /// As QEMU 7.2 prints it.
    let text: String
  }

  static let lines: [Line] = [
    Line(mode: .long, bytes: [0x48, 0x8B, 0xEF], text: "movq     %rdi, %rbp"),
    Line(mode: .long, bytes: [0x55], text: "pushq    %rbp"),
    Line(mode: .long, bytes: [0x41, 0x57], text: "pushq    %r15"),
    Line(mode: .long, bytes: [0xC3], text: "retq     "),
    Line(mode: .long, bytes: [0x0F, 0x0B], text: "ud2      "),
    Line(
      mode: .long, bytes: [0x48, 0x8D, 0x3D, 0x14, 0xC6, 0x10, 0],
      text: "leaq     0x10c614(%rip), %rdi"),
    Line(
      mode: .long, bytes: [0x83, 0x3D, 0x5C, 0x4A, 0x10, 0, 0], text: "cmpl     $0, 0x104a5c(%rip)"),
    Line(mode: .long, bytes: [0x74, 0x10], text: "je       0x1012"),
    Line(mode: .long, bytes: [0x0F, 0x85, 0x6F, 0, 0, 0], text: "jne      0x1075"),
    Line(mode: .long, bytes: [0xE8, 0x1B, 0, 0, 0], text: "callq    0x1020"),
    Line(mode: .long, bytes: [0xFF, 0xE6], text: "jmpq     *%rsi"),
    Line(mode: .long, bytes: [0x89, 0x7C, 0x24, 0x10], text: "movl     %edi, 0x10(%rsp)"),
    Line(mode: .long, bytes: [0x48, 0x89, 0x55, 8], text: "movq     %rdx, 8(%rbp)"),
    Line(mode: .long, bytes: [0x66, 0x0F, 0x6F, 0x0C, 0x24], text: "movdqa   (%rsp), %xmm1"),
    Line(mode: .long, bytes: [0x66, 0x0F, 0xEF, 0xD2], text: "pxor     %xmm2, %xmm2"),
    Line(mode: .long, bytes: [0xC5, 0xF8, 0x77], text: "vzeroupper "),
    Line(mode: .long, bytes: [0x0F, 0xB6, 0xDB], text: "movzbl   %bl, %ebx"),
    Line(mode: .long, bytes: [0x66, 0x0F, 0x1F, 0x44, 0, 0], text: "nopw     (%rax, %rax)"),
    Line(mode: .long, bytes: [0x42, 0x8B, 0x04, 0xA3], text: "movl     (%rbx, %r12, 4), %eax"),
    Line(mode: .long, bytes: [0x48, 0x83, 0xF8, 0xFF], text: "cmpq     $-1, %rax"),
    Line(mode: .long, bytes: [0x48, 0x83, 0xEE, 0x80], text: "subq     $-0x80, %rsi"),
    Line(
      mode: .long, bytes: [0x48, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0x80],
      text: "movabsq  $0x8000000000000000, %rax"),
    Line(mode: .long, bytes: [0x48, 0x63, 0x04, 0x82], text: "movslq   (%rdx, %rax, 4), %rax"),
    Line(mode: .long, bytes: [0xC4, 0xE2, 0x78, 0xF5, 0xCA], text: "bzhil    %eax, %edx, %ecx"),
    Line(mode: .real, bytes: [0x66, 0xC3], text: "retl     "),
    Line(mode: .real, bytes: [0xE6, 0x70], text: "outb     %al, $0x70"),
    Line(mode: .protected, bytes: [0x55], text: "pushl    %ebp"),
    Line(mode: .protected, bytes: [0xC3], text: "retl     "),
    Line(mode: .protected, bytes: [0xF7, 0xD8], text: "negl     %eax"),
    Line(mode: .protected, bytes: [0x8D, 0x65, 0xF4], text: "leal     -0xc(%ebp), %esp"),
    Line(mode: .protected, bytes: [0xC7, 0x46, 0x18, 1, 0, 0, 0], text: "movl     $1, 0x18(%esi)"),
    Line(
      mode: .real, bytes: [0x2E, 0x66, 0x83, 0x3E, 0xC8, 0x61, 0], text: "cmpl     $0, %cs:0x61c8"),
    Line(mode: .real, bytes: [0x31, 0xD2], text: "xorw     %dx, %dx"),
    Line(mode: .real, bytes: [0x8E, 0xD2], text: "movw     %dx, %ss"),
    Line(mode: .real, bytes: [0x33, 0x2F], text: "xorw     (%bx), %bp"),
    Line(mode: .real, bytes: [0x66, 0xC1, 0xE8, 4], text: "shrl     $4, %eax"),
    Line(mode: .real, bytes: [0x0F, 0x86, 0, 2], text: "jbe      0x1204"),
    Line(mode: .real, bytes: [0x39, 0x39], text: "cmpw     %di, (%bx, %di)"),
  ]

  /// Zydis's texts are rewritten to the same form.
  @Test(arguments: Disassembler.Library.allCases)
  func instructionsLookAsInQEMU(library: Disassembler.Library) {
    guard library.isInstalled else { return }
    for line in Self.lines {
      let found = Disassembler(line.mode, with: library).decode(line.bytes, at: 0x1000)
      #expect(found?.text == line.text)
      #expect(found?.length == line.bytes.count, "\(line.text)")
    }
  }

  @Test func withoutALibraryBytesArePrinted() {
    let disassembler = Disassembler(.long, with: nil)
    #expect(!disassembler.namesInstructions)
    #expect(
      disassembler.listing([0x0F, 0xB], at: 0x7C00) == """
        0x00007c00:  0f                       .byte    0x0f
        0x00007c01:  0b                       .byte    0x0b

        """)
  }

  @Test func longInstructionsGoOnInASecondLine() {
    let bytes: [UInt8] = [0x48, 0xC7, 0x85, 0x80, 0, 0, 0, 0x5B, 0xE0, 0, 0]
    #expect(
      Disassembler.lines(of: bytes, "movq     $0xe05b, 0x80(%rbp)", at: 0x7FE5_8C00_0120) == [
        "0x7fe58c000120:  48 c7 85 80 00 00 00 5b  movq     $0xe05b, 0x80(%rbp)",
        "0x7fe58c000128:  e0 00 00",
      ])
  }

  @Test func whatBeginsNoInstructionIsAByte() {
    #expect(Disassembler(.long).decode([0x06], at: 0)?.text == ".byte    0x06")
    #expect(Disassembler(.long).decode([UInt8](), at: 0) == nil)
  }
}
