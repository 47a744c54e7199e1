// Processor modes, and the ways between them.

extension GuestProgram {
  /// Stack, near call, segments, string move.
  package static let realMode = GuestProgram("real-mode", says: "R 1234 5a5a ") { a in
    a.beginRealMode()
    a.print("R ")
    a.load(.ax, 0x1234)
    a.emit(0x50)  // push ax
    a.load(.ax, 0)
    a.call("pop")
    a.reportAX()
    // 16 bytes from 0x2000 to 0x3008, the target through ES.
    a.load(.ax, 0x300)
    a.emit(0x8E, 0xC0)  // mov es, ax
    a.load(.ax, 0x5A5A)
    a.emit(0xA3, 0x0E, 0x20)  // mov [0x200E], ax
    a.load(.si, 0x2000)
    a.load(.di, 8)
    a.load(.cx, 16)
    a.emit(0xFC, 0xF3, 0xA4)  // cld; rep movsb
    a.emit(0x31, 0xC0)  // xor ax, ax
    a.emit(0xA1, 0x16, 0x30)  // mov ax, [0x3016]
    a.reportAX()
    a.finish()
    a.label("pop")
    a.emit(0x59, 0x58, 0x51, 0xC3)  // pop cx; pop ax; push cx; ret
  }

  /// INT through the vector table at 0.
  package static let realModeInterrupt = GuestProgram("real-mode-interrupt", says: "<I>") { a in
    a.beginRealMode()
    a.load(.ax, addressOf: "handler")
    a.emit(0xA3, 0x80, 0x00)  // mov [0x80], ax: vector 0x20
    a.emit(0x31, 0xC0, 0xA3, 0x82, 0x00)  // xor ax, ax; mov [0x82], ax
    a.print("<")
    a.emit(0xCD, 0x20)  // int 0x20
    a.print(">")
    a.finish()
    a.label("handler")
    a.print("I")
    a.iret()
  }

  /// 32-bit segments without paging, memory above 1 MiB.
  package static let protectedMode = GuestProgram("protected-mode", says: "P 12345678 ") { a in
    a.enterProtectedMode()
    a.print("P ")
    a.load(.ax, 0x1234_5678)
    a.emit(0xA3)  // mov [0x200000], eax
    a.emit32(0x20_0000)
    a.load(.ax, 0)
    a.emit(0xA1)  // mov eax, [0x200000]
    a.emit32(0x20_0000)
    a.reportAX()
    a.finish()
    a.descriptorTable()
  }

  /// Two-level paging, a page fault with its address and error code (user = 0, write = 1, present = 0).
  package static let paging32 = GuestProgram(
    "paging-32", says: "p 87654321 F2 3ff123 done", needs: [.paging32]
  ) { a in
    a.enterProtectedMode()
    a.loadInterruptTable()
    a.load(.ax, UInt32(Assembler.pageTables32))
    a.writeControl(3)
    a.readControl(0)
    a.orAX(0x8000_0000)
    a.writeControl(0)
    a.print("p ")
    a.load(.ax, 0x8765_4321)
    a.emit(0xA3)  // mov [0x20000], eax
    a.emit32(0x2_0000)
    a.load(.ax, 0)
    a.emit(0xA1)
    a.emit32(0x2_0000)
    a.reportAX()
    a.emit(0xA2)  // mov [0x3FF123], al: the absent page, five bytes of code
    a.emit32(0x3F_F123)
    a.print("done")
    a.finish()
    a.label("fault")
    a.print("F")
    a.emit(0x58)  // pop eax: error code
    a.reportAX()
    a.readControl(2)
    a.reportAX()
    a.emit(0x83, 0x04, 0x24, 0x05)  // add dword [esp], 5
    a.iret()
    a.interruptTable([14: "fault"])
    a.descriptorTable()
  }

  /// Four-level paging and 64-bit arithmetic.
  package static let longMode = GuestProgram("long-mode", says: "L 89abcdef 1234567 ") { a in
    a.enterLongMode()
    a.print("L ")
    a.load64(.bx, 0x0123_4567_89AB_CDEF)
    a.emit(0x89, 0xD8)  // mov eax, ebx
    a.reportAX()
    a.emit(0x48, 0xC1, 0xEB, 0x20)  // shr rbx, 32
    a.emit(0x89, 0xD8)
    a.reportAX()
    a.finish()
    a.descriptorTable()
  }

  /// #DE, #UD, #GP with a selector's error code, #PF beyond the map.
  package static let exceptions = GuestProgram(
    "exceptions", says: "D U G48 P0 40000000 end"
  ) { a in
    a.enterLongMode()
    a.loadInterruptTable()
    a.emit(0x31, 0xC9, 0x31, 0xD2)  // xor ecx, ecx; xor edx, edx
    a.emit(0xF7, 0xF1)  // div ecx
    a.emit(0x0F, 0x0B)  // ud2
    a.load(.ax, 0x48)  // beyond the table
    a.emit(0x8E, 0xD8)  // mov ds, ax
    a.load(.bx, 0x4000_0000)
    a.emit(0x8A, 0x03)  // mov al, [rbx]
    a.print("end")
    a.finish()
    a.label("divide")
    a.print("D ")
    a.jump("skip")
    a.label("undefined")
    a.print("U ")
    a.jump("skip")
    a.label("protection")
    a.print("G")
    a.emit(0x58)  // pop rax
    a.reportAX()
    a.jump("skip")
    a.label("page")
    a.print("P")
    a.emit(0x58)
    a.reportAX()
    a.readControl(2)
    a.reportAX()
    a.label("skip")
    a.emit(0x48, 0x83, 0x04, 0x24, 0x02)  // add qword [rsp], 2
    a.iret()
    a.interruptTable([0: "divide", 6: "undefined", 13: "protection", 14: "page"])
    a.descriptorTable()
  }

  private static func enterUserMode(_ a: inout Assembler, _ entry: String) {
    a.emit(0x6A, UInt8(Selector.userData))  // push ss
    a.emit(0x68)  // push rsp
    a.emit32(Assembler.stack - 0x400)
    a.emit(0x68)  // push rflags
    a.emit32(0x202)
    a.emit(0x6A, UInt8(Selector.userCode64))  // push cs
    a.emit(0x68)  // push rip
    a.emitAddress(of: entry, size: 4)
    a.iret()
  }

  /// IRET to privilege level 3, INT back through a gate, a privileged instruction refused there.
  package static let userMode = GuestProgram(
    "user-mode", says: "K U2b G0 2b ", needs: [.softwareInterrupt]
  ) { a in
    a.enterLongMode()
    a.loadInterruptTable()
    a.load(.ax, UInt32(Selector.taskState))
    a.emit(0x0F, 0x00, 0xD8)  // ltr ax
    a.print("K ")
    enterUserMode(&a, "user")
    a.label("user")
    a.emit(0xCD, 0x80)  // int 0x80
    a.hlt()
    a.label("service")
    a.print("U")
    a.emit(0x8B, 0x44, 0x24, 0x08)  // mov eax, [rsp+8]: the caller's CS
    a.reportAX()
    a.iret()
    a.label("protection")
    a.print("G")
    a.emit(0x58)
    a.reportAX()
    a.emit(0x8B, 0x44, 0x24, 0x08)
    a.reportAX()
    a.finish()
    a.interruptTable([13: "protection", 0x80: "service"], user: [0x80])
    a.descriptorTable()
  }

  /// SYSCALL and SYSRET.
  package static let systemCall = GuestProgram(
    "system-call", says: "S8 b0b0 G2b ", needs: [.syscall]
  ) { a in
    a.enterLongMode()
    a.loadInterruptTable()
    a.load(.ax, UInt32(Selector.taskState))
    a.emit(0x0F, 0x00, 0xD8)  // ltr ax
    a.wrmsr(0xC000_0081, 0x0018_0008_0000_0000)  // STAR
    a.load(.ax, addressOf: "entry")
    a.emit(0x31, 0xD2)  // xor edx, edx
    a.load(.cx, 0xC000_0082)  // LSTAR
    a.emit(0x0F, 0x30)
    a.wrmsr(0xC000_0084, 0x200)  // SFMASK
    enterUserMode(&a, "user")
    a.label("user")
    a.load(.bx, 0xB0B0)
    a.emit(0x0F, 0x05)  // syscall
    a.hlt()
    a.label("entry")
    a.emit(0x48, 0x89, 0xCF)  // mov rdi, rcx
    a.print("S")
    a.emit(0x8C, 0xC8)  // mov eax, cs
    a.reportAX()
    a.emit(0x89, 0xD8)  // mov eax, ebx
    a.reportAX()
    a.emit(0x48, 0x89, 0xF9)  // mov rcx, rdi
    a.emit(0x48, 0x0F, 0x07)  // sysretq
    a.label("protection")
    a.print("G")
    a.emit(0x58)
    a.emit(0x8B, 0x44, 0x24, 0x08)
    a.reportAX()
    a.finish()
    a.interruptTable([13: "protection"])
    a.descriptorTable()
  }
}
