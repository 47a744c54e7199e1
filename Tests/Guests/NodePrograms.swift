/// Programs of several processors that go through the same rounds: RDI and RSI the variables, RBX where results go, R8 a counter of all, R9 0,
/// ECX rounds.
package enum NodePrograms {
  /// Waits for all, then `body`, then on to the next line of each variable.
  package static func rounds(of count: UInt8, _ body: [UInt8]) -> [UInt8] {
    let prologue: [UInt8] = [
      0xF0, 0x41, 0xFF, 0x00,  // lock inc dword [r8]
      0x41, 0x83, 0xC1, count,  // add r9d, count
      0x45, 0x39, 0x08,  // cmp [r8], r9d
      0x72, 0xFB,  // jb
    ]
    let back = UInt8(bitPattern: Int8(-(prologue.count + body.count + 16)))
    return prologue + body + [
      0x48, 0x83, 0xC7, 0x40,  // add rdi, 64
      0x48, 0x83, 0xC6, 0x40,  // add rsi, 64
      0x48, 0x83, 0xC3, 0x08,  // add rbx, 8
      0xFF, 0xC9,  // dec ecx
      0x75, back,  // jne
      0xF4,  // hlt
    ]
  }

  package static let storeFenceLoad: [UInt8] = [
    0xC7, 0x07, 1, 0, 0, 0,  // mov dword [rdi], 1
    0x0F, 0xAE, 0xF0,  // mfence
    0x8B, 0x06,  // mov eax, [rsi]
    0x89, 0x03,  // mov [rbx], eax
  ]
  package static let loadStore: [UInt8] = [
    0x8B, 0x06,  // mov eax, [rsi]
    0xC7, 0x07, 1, 0, 0, 0,  // mov dword [rdi], 1
    0x89, 0x03,  // mov [rbx], eax
  ]
  package static let writeTwo: [UInt8] = [
    0xC7, 0x07, 1, 0, 0, 0,  // mov dword [rdi], 1
    0xC7, 0x06, 1, 0, 0, 0,  // mov dword [rsi], 1
  ]
  package static let writeOneTwo: [UInt8] = [
    0xC7, 0x07, 1, 0, 0, 0,  // mov dword [rdi], 1
    0xC7, 0x06, 2, 0, 0, 0,  // mov dword [rsi], 2
  ]
  package static let writeOne: [UInt8] = [0xC7, 0x07, 1, 0, 0, 0]  // mov dword [rdi], 1
  package static let readTwo: [UInt8] = [
    0x8B, 0x07,  // mov eax, [rdi]
    0x8B, 0x16,  // mov edx, [rsi]
    0x89, 0x03,  // mov [rbx], eax
    0x89, 0x53, 0x04,  // mov [rbx+4], edx
  ]

  /// At R10, the same place in each round.
  package static let incrementShared: [UInt8] = [0xF0, 0x49, 0xFF, 0x02]  // lock inc qword [r10]
  package static let addThreeShared: [UInt8] = [
    0xB8, 3, 0, 0, 0, 0xF0, 0x49, 0x0F, 0xC1, 0x02,  // mov eax, 3; lock xadd [r10], rax
  ]

  /// ECX times: counts the sequence at RSI, the values at RDI and a page behind it, and the sequence again.
  package static let sequenceWriter: [UInt8] = [
    0xFF, 0x06, 0xFF, 0x07, 0xFF, 0x87, 0x00, 0x10, 0, 0, 0xFF, 0x06, 0xFF, 0xC9, 0x75, 0xF0, 0xF4,
  ]
  /// Reads both values under the sequence until they are R12D; sets the word at R11 when they differ.
  package static let sequenceReader: [UInt8] = [
    0x8B, 0x06,  // mov eax, [rsi]
    0xA8, 0x01, 0x75, 0xFA,  // test al, 1; jne
    0x8B, 0x17,  // mov edx, [rdi]
    0x8B, 0x9F, 0x00, 0x10, 0, 0,  // mov ebx, [rdi+4096]
    0x39, 0x06, 0x75, 0xEE,  // cmp [rsi], eax; jne
    0x39, 0xDA, 0x74, 0x07,  // cmp edx, ebx; je
    0x41, 0xC7, 0x03, 1, 0, 0, 0,  // mov dword [r11], 1
    0x44, 0x39, 0xE2, 0x72, 0xDE,  // cmp edx, r12d; jb
    0xF4,
  ]

  /// R13D times: fills 8 KiB at R12 with the number of the round, tells it at RSI, and waits for it at R8.
  package static let blockWriter: [UInt8] = [
    0x41, 0xFF, 0xC2,  // inc r10d
    0x4C, 0x89, 0xE7,  // mov rdi, r12
    0x44, 0x89, 0xD0,  // mov eax, r10d
    0xB9, 0x00, 0x08, 0, 0,  // mov ecx, 2048
    0xF3, 0xAB,  // rep stosd
    0x44, 0x89, 0x16,  // mov [rsi], r10d
    0x45, 0x39, 0x10, 0x75, 0xFB,  // cmp [r8], r10d; jne
    0x45, 0x39, 0xEA, 0x75, 0xE3,  // cmp r10d, r13d; jne
    0xF4,
  ]
  /// Waits for the number at R14, copies the block to RBP, looks for anything else in it, which goes to R11, and answers at R8.
  package static let blockReader: [UInt8] = [
    0x41, 0xFF, 0xC2,  // inc r10d
    0x45, 0x39, 0x16, 0x75, 0xFB,  // cmp [r14], r10d; jne
    0x4C, 0x89, 0xE6,  // mov rsi, r12
    0x48, 0x89, 0xEF,  // mov rdi, rbp
    0xB9, 0x00, 0x08, 0, 0,  // mov ecx, 2048
    0xF3, 0xA5,  // rep movsd
    0x48, 0x89, 0xEF,  // mov rdi, rbp
    0x44, 0x89, 0xD0,  // mov eax, r10d
    0xB9, 0x00, 0x08, 0, 0,  // mov ecx, 2048
    0xF3, 0xAF,  // repe scasd
    0x74, 0x03, 0x45, 0x89, 0x13,  // je; mov [r11], r10d
    0x45, 0x89, 0x10,  // mov [r8], r10d
    0x45, 0x39, 0xEA, 0x75, 0xD1,  // cmp r10d, r13d; jne
    0xF4,
  ]

  /// ECX times: waits until the low bit of the word at RDI is R9B, and adds one to it.
  package static let takeTurns: [UInt8] = [
    0x8B, 0x07,  // mov eax, [rdi]
    0x24, 0x01,  // and al, 1
    0x44, 0x38, 0xC8, 0x75, 0xF7,  // cmp al, r9b; jne
    0xFF, 0x07,  // inc dword [rdi]
    0xFF, 0xC9, 0x75, 0xF1,  // dec ecx; jne
    0xF4,
  ]
  /// Takes turns as `takeTurns`, and leaves its time-stamp counter at RDI + 8 each time. Readings that are behind the other's are counted at
  /// RDI + 16; RDI + 24 is the most that one was behind, RDI + 32 the least that one was ahead.
  package static let compareCounters: [UInt8] = [
    0x8B, 0x07, 0x24, 0x01, 0x44, 0x38, 0xC8, 0x75, 0xF7,  // as above
    0x0F, 0xAE, 0xE8, 0x0F, 0x31,  // lfence; rdtsc
    0x48, 0xC1, 0xE2, 0x20, 0x48, 0x09, 0xD0,  // shl rdx, 32; or rax, rdx
    0x48, 0x8B, 0x5F, 0x08, 0x48, 0x29, 0xC3, 0x7E, 0x0E,  // mov rbx, [rdi+8]; sub rbx, rax; jle
    0x48, 0xFF, 0x47, 0x10,  // inc qword [rdi+16]
    0x48, 0x3B, 0x5F, 0x18, 0x76, 0x04,  // cmp rbx, [rdi+24]; jbe
    0x48, 0x89, 0x5F, 0x18,  // mov [rdi+24], rbx
    0x48, 0xF7, 0xDB,  // neg rbx
    0x48, 0x3B, 0x5F, 0x20, 0x73, 0x04,  // cmp rbx, [rdi+32]; jae
    0x48, 0x89, 0x5F, 0x20,  // mov [rdi+32], rbx
    0x0F, 0x31, 0x48, 0xC1, 0xE2, 0x20, 0x48, 0x09, 0xD0,  // rdtsc; shl rdx, 32; or rax, rdx
    0x48, 0x89, 0x47, 0x08, 0xFF, 0x07,  // mov [rdi+8], rax; inc dword [rdi]
    0xFF, 0xC9, 0x75, 0xB4, 0xF4,  // dec ecx; jne; hlt
  ]
  /// ECX times: LOCK INC of the quadword at RDI.
  package static let increment: [UInt8] = [
    0xF0, 0x48, 0xFF, 0x07, 0xFF, 0xC9, 0x75, 0xF8, 0xF4,
  ]
  /// ECX times: takes the lock at RSI by XCHG, adds 1 at RDI and 5 in the next line, and gives it back.
  package static let spinLock: [UInt8] = [
    0xB8, 1, 0, 0, 0,  // mov eax, 1
    0x87, 0x06,  // xchg [rsi], eax
    0x85, 0xC0, 0x74, 0x0E,  // test eax, eax; je
    0xF3, 0x90, 0x83, 0x3E, 0, 0x75, 0xF9,  // pause; cmp dword [rsi], 0; jne
    0xB8, 1, 0, 0, 0, 0xEB, 0xEC,  // mov eax, 1; jmp
    0x48, 0xFF, 0x07, 0x83, 0x47, 0x40, 0x05,  // inc qword [rdi]; add dword [rdi+64], 5
    0xC7, 0x06, 0, 0, 0, 0, 0xFF, 0xC9, 0x75, 0xD6, 0xF4,  // mov dword [rsi], 0; dec ecx; jne
  ]
}
