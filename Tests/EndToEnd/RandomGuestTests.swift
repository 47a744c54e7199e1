import JSON
import Support
import Testing

/// A guest that does anything to any port and device register, on the whole machine: the process lives on and its monitor answers.
///
/// `GOLIATH_FUZZ_SECONDS` sets how long (default 2), `GOLIATH_FUZZ_SEED` repeats a run.
@Suite struct RandomGuestTests {
  /// Entered at 0x100020 in flat 32-bit mode; a multiboot header comes before. The seed is mixed with a count in RAM that survives
  /// resets, so that a guest which resets itself goes on with something else.
  private static let program: [UInt8] = [
    // entry:
    0xBC, 0x00, 0x90, 0x00, 0x00,  // mov esp, 0x9000
    0x8B, 0x35, 0x00, 0x50, 0x00, 0x00,  // mov esi, [0x5000]
    0xFF, 0x05, 0x00, 0x50, 0x00, 0x00,  // inc dword [0x5000]
    0x69, 0xF6, 0xB1, 0x79, 0x37, 0x9E,  // imul esi, esi, 0x9E3779B1
    0x81, 0xF6, 0x44, 0x33, 0x22, 0x11,  // xor esi, 0x11223344
    0x83, 0xCE, 0x01,  // or esi, 1
    // next:
    0x89, 0xF0,  // mov eax, esi
    0xC1, 0xE0, 0x0D,  // shl eax, 13
    0x31, 0xC6,  // xor esi, eax
    0x89, 0xF0,  // mov eax, esi
    0xC1, 0xE8, 0x11,  // shr eax, 17
    0x31, 0xC6,  // xor esi, eax
    0x89, 0xF0,  // mov eax, esi
    0xC1, 0xE0, 0x05,  // shl eax, 5
    0x31, 0xC6,  // xor esi, eax
    0x89, 0xF1,  // mov ecx, esi
    0xC1, 0xC1, 0x07,  // rol ecx, 7
    0xF6, 0xC1, 0x01,  // test cl, 1
    0x74, 0x2D,  // jz memory
    0x89, 0xF2,  // mov edx, esi
    0xC1, 0xEA, 0x10,  // shr edx, 16
    0xF6, 0xC1, 0x02,  // test cl, 2
    0x75, 0x06,  // jnz wide
    0x81, 0xE2, 0xFF, 0x07, 0x00, 0x00,  // and edx, 0x7FF
    // wide:
    0x89, 0xC8,  // mov eax, ecx
    0xF6, 0xC1, 0x04,  // test cl, 4
    0x75, 0x0B,  // jnz input
    0xF6, 0xC1, 0x08,  // test cl, 8
    0x75, 0x03,  // jnz outd
    0xEE,  // out dx, al
    0xEB, 0xC2,  // jmp next
    // outd:
    0xEF,  // out dx, eax
    0xEB, 0xBF,  // jmp next
    // input:
    0xF6, 0xC1, 0x08,  // test cl, 8
    0x75, 0x03,  // jnz ind
    0xEC,  // in al, dx
    0xEB, 0xB7,  // jmp next
    // ind:
    0xED,  // in eax, dx
    0xEB, 0xB4,  // jmp next
    // memory:
    0x89, 0xCB,  // mov ebx, ecx
    0xC1, 0xEB, 0x04,  // shr ebx, 4
    0x83, 0xE3, 0x07,  // and ebx, 7
    0x8B, 0x3C, 0x9D, 0xB4, 0x00, 0x10, 0x00,  // mov edi, [table + ebx*4]
    0x89, 0xF0,  // mov eax, esi
    0xC1, 0xE8, 0x0C,  // shr eax, 12
    0x25, 0xFC, 0x0F, 0x00, 0x00,  // and eax, 0xFFC
    0x01, 0xC7,  // add edi, eax
    0xF6, 0xC1, 0x02,  // test cl, 2
    0x75, 0x04,  // jnz load
    0x89, 0x0F,  // mov [edi], ecx
    0xEB, 0x90,  // jmp next
    // load:
    0x8B, 0x07,  // mov eax, [edi]
    0xEB, 0x8C,  // jmp next
  ]
  /// Where memory accesses go: IOAPIC, local APIC, HPET, VGA memory, shadowed ROM, firmware, the PCI hole.
  private static let windows: [UInt32] = [
    0xFEC0_0000, 0xFEE0_0000, 0xFED0_0000, 0x000A_0000, 0x000B_8000, 0x000F_0000, 0xFFFC_0000,
    0xE000_0000,
  ]
  private static let seedOffset = 0x19

  private static func little(_ values: [UInt32]) -> [UInt8] {
    values.flatMap { value in (0..<4).map { UInt8(truncatingIfNeeded: value >> ($0 * 8)) } }
  }

  private static func kernel(_ seed: UInt32) -> [UInt8] {
    let flags: UInt32 = 0x1_0003
    var code = program
    code.replaceSubrange(seedOffset..<seedOffset + 4, with: little([seed]))
    while code.count % 4 != 0 { code.append(0x90) }
    return little([
      0x1BAD_B002, flags, 0 &- 0x1BAD_B002 &- flags, 0x10_0000, 0x10_0000, 0, 0, 0x10_0020,
    ]) + code + little(windows)
  }

  private static func environment(_ name: String) -> UInt64? {
    Process.environment(name).flatMap { UInt64($0) }
  }

  @Test func anyAccessOfAGuestIsSurvived() throws {
    let seconds = Self.environment("GOLIATH_FUZZ_SECONDS") ?? 2
    var generator = SeededGenerator(
      seed: Self.environment("GOLIATH_FUZZ_SEED") ?? UInt64.random(in: 0...UInt64.max))
    // Half a second a guest; some put themselves to sleep at once.
    for _ in 0..<max(seconds, 1) * 2 {
      let seed = UInt32(truncatingIfNeeded: generator.next())
      let folder = Goliath.temporaryFolder()
      defer { _ = try? Process.output(["rm", "-rf", folder]) }
      try Process.createFile(Self.kernel(seed), at: folder + "/kernel")
      let run = try Goliath([
        "-accel", "tcg", "-m", "16", "-smp", "2", "-display", "none", "-serial", "null",
        "-no-shutdown",
        "-kernel", folder + "/kernel",
      ])
      let client = try run.connect()
      if run.process.readUntil(seconds: 0.5, { _ in false }) { continue }
      let status = try client.run("query-status")
      #expect(status["return"] != nil, "guest with seed \(seed): \(run.process.text)")
      _ = try client.run("quit")
      #expect(run.process.wait(seconds: 20) == 0, "guest with seed \(seed): \(run.process.text)")
    }
  }
}
