import Glibc
import Support
import Testing

/// Kernels of a few instructions in the formats that are entered without firmware; they print what they were given.
@Suite struct BootFormatTests {
  /// Sends the text at ESI to COM1.
  private static let printRoutine: [UInt8] = [
    0xAC,  // lodsb
    0x84, 0xC0,  // test al, al
    0x74, 0x07,  // jz done
    0x66, 0xBA, 0xF8, 0x03,  // mov dx, 0x3F8
    0xEE,  // out dx, al
    0xEB, 0xF4,  // jmp print
    0xC3,  // ret
  ]

  /// Writes the exit port, which ends the process with 2 * value + 1.
  private static func exit(_ value: UInt8) -> [UInt8] { [0xB0, value, 0xE6, 0xF4] }

  private static let setStack: [UInt8] = [0xBC, 0x00, 0x90, 0x00, 0x00]  // mov esp, 0x9000

  private static func little(_ values: [UInt32]) -> [UInt8] {
    values.flatMap { value in (0..<4).map { UInt8(truncatingIfNeeded: value >> ($0 * 8)) } }
  }

  /// Header with load addresses, then code that checks EAX and prints command line and first module.
  private static var multiboot: [UInt8] {
    let flags: UInt32 = 0x1_0003
    let header = little([
      0x1BAD_B002, flags, 0 &- 0x1BAD_B002 &- flags, 0x10_0000, 0x10_0000, 0, 0, 0x10_0020,
    ])
    let code: [UInt8] = [
      0x3D, 0x02, 0xB0, 0xAD, 0x2B,  // cmp eax, 0x2BADB002
      0x75, 0x16,  // jne bad
      0x8B, 0x73, 0x10,  // mov esi, [ebx + 16]     command line
      0xE8, 0x12, 0, 0, 0,  // call print
      0x8B, 0x4B, 0x18,  // mov ecx, [ebx + 24]     modules
      0x8B, 0x31,  // mov esi, [ecx]
      0xE8, 0x08, 0, 0, 0,  // call print
    ]
    return header + setStack + code + exit(0x10) + exit(0x01) + printRoutine
  }

  /// ELF-32 with Xen's entry note; the code checks EBX's structure and prints command line and first module.
  private static var pvh: [UInt8] {
    let code: [UInt8] = [
      0x81, 0x3B, 0x78, 0xC5, 0x6E, 0x33,  // cmp dword [ebx], 0x336EC578
      0x75, 0x16,  // jne bad
      0x8B, 0x73, 0x18,  // mov esi, [ebx + 24]     command line
      0xE8, 0x12, 0, 0, 0,  // call print
      0x8B, 0x4B, 0x10,  // mov ecx, [ebx + 16]     modules
      0x8B, 0x31,  // mov esi, [ecx]
      0xE8, 0x08, 0, 0, 0,  // call print
    ]
    let text = setStack + code + exit(0x20) + exit(0x01) + printRoutine
    let size = UInt32(text.count)
    let note = little([4, 4, 18, 0x006E_6558, 0x10_0000])
    var file: [UInt8] = [0x7F, 0x45, 0x4C, 0x46, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 3, 0]
    file += little([1, 0x10_0000, 52, 0, 0]) + [52, 0, 32, 0, 2, 0, 0, 0, 0, 0, 0, 0]
    file += little([1, 136, 0x10_0000, 0x10_0000, size, size, 5, 4])
    file += little([4, 116, 0, 0, 20, 20, 4, 4])
    return file + note + text
  }

  private func boot(_ image: [UInt8], _ more: [String]) throws -> Process.Result {
    let folder = Goliath.temporaryFolder()
    defer { _ = try? Process.output(["rm", "-rf", folder]) }
    for (name, bytes) in [("kernel", image), ("module", Array("and-its-module\n".utf8) + [0])] {
      let file = try #require(fopen("\(folder)/\(name)", "w"))
      #expect(fwrite(bytes, 1, bytes.count, file) == bytes.count)
      fclose(file)
    }
    return try Process.output(
      [
        Goliath.path, "-accel", "tcg", "-m", "16", "-nographic", "-nodefaults", "-serial", "stdio",
        "-device", "isa-debug-exit,iobase=0xf4", "-kernel", "\(folder)/kernel", "-initrd",
        "\(folder)/module", "-append", "the-command-line ",
      ] + more, seconds: 120)
  }

  @Test func multibootImageFindsCommandLineAndModule() throws {
    let result = try boot(BootFormatTests.multiboot, [])
    #expect(result.text.contains("/kernel the-command-line and-its-module"), "\(result.text)")
    #expect(result.status == 33)
  }

  @Test func pvhKernelFindsCommandLineAndModule() throws {
    let result = try boot(BootFormatTests.pvh, [])
    #expect(result.text.contains("the-command-line and-its-module"), "\(result.text)")
    #expect(result.status == 65)
  }

  @Test func kernelThatDoesNotFitEndsInOneLine() throws {
    let result = try boot(BootFormatTests.multiboot + [UInt8](repeating: 0, count: 16 << 20), [])
    #expect(result.status == 1)
    #expect(result.text.split(separator: "\n").count == 1)
    #expect(result.text.contains("/kernel'") && result.text.contains("not free RAM"))
  }
}
