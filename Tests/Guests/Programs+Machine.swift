// Interrupts, other processors, and what lies outside the processor.

extension GuestProgram {
  /// Vectors raised while interrupts are off come when they are turned on; while on, after the instruction.
  package static let interrupts = GuestProgram(
    "interrupts", says: "aIbJcdIJe", needs: [.exactInterrupts]
  ) { a in
    a.enterLongMode()
    a.loadInterruptTable()
    a.outByte(TestBoard.Port.interrupt, 0x40)
    a.print("a")
    a.sti()
    a.nop()
    a.nop()
    a.print("b")
    a.outByte(TestBoard.Port.interrupt, 0x41)
    a.print("c")
    a.cli()
    a.outByte(TestBoard.Port.interrupt, 0x40)
    a.outByte(TestBoard.Port.interrupt, 0x41)
    a.print("d")
    a.sti()
    a.nop()
    a.nop()
    a.print("e")
    a.finish()
    a.label("first")
    a.emit(0x50)  // push rax
    a.print("I")
    a.emit(0x58)
    a.iret()
    a.label("second")
    a.emit(0x50)
    a.print("J")
    a.emit(0x58)
    a.iret()
    a.interruptTable([0x40: "first", 0x41: "second"])
    a.descriptorTable()
  }

  /// HLT goes on behind itself after an interrupt, also one that was raised before it in the shadow of STI.
  package static let haltAndResume = GuestProgram("halt-and-resume", says: "1I2I3") { a in
    a.enterLongMode()
    a.loadInterruptTable()
    for text in ["1", "2"] {
      a.print(text)
      a.cli()
      a.outByte(TestBoard.Port.interrupt, 0x40)
      a.sti()
      a.hlt()
    }
    a.print("3")
    a.finish()
    a.label("handler")
    a.emit(0x50)
    a.print("I")
    a.emit(0x58)
    a.iret()
    a.interruptTable([0x40: "handler"])
    a.descriptorTable()
  }

  /// An NMI comes with interrupts off, and a second one only after the first one's handler.
  package static let nonMaskable = GuestProgram(
    "non-maskable", says: "(N[]N[])", needs: [.exactInterrupts]
  ) { a in
    a.enterLongMode()
    a.loadInterruptTable()
    a.load(.bx, 1)
    a.print("(")
    a.outByte(TestBoard.Port.nmi, 0)
    a.nop()
    a.print(")")
    a.finish()
    a.label("handler")
    a.print("N[")
    a.emit(0x85, 0xDB)  // test ebx, ebx
    a.jump(if: .equal, "done")
    a.emit(0xFF, 0xCB)  // dec ebx
    a.outByte(TestBoard.Port.nmi, 0)
    a.nop()
    a.label("done")
    a.print("]")
    a.iret()
    a.interruptTable([2: "handler"])
    a.descriptorTable()
  }

  /// A second processor, and a counter that both raise with LOCK.
  package static let startup = GuestProgram("startup", says: "BA7d0 ", vcpus: 2) { a in
    a.beginRealMode()
    a.print("B")
    a.outByte(TestBoard.Port.startup, 0x02)
    a.call("count")
    a.label("wait")
    a.emit(0xF3, 0x90)  // pause
    a.emit(0x80, 0x3E, 0x00, 0x05, 0x01)  // cmp byte [0x500], 1
    a.jump(if: .notEqual, "wait")
    a.emit(0x66, 0xA1, 0x04, 0x05)  // mov eax, [0x504]
    a.reportAX()
    a.finish()
    a.label("count")
    a.load(.cx, 1000)
    a.label("again")
    a.emit(0xF0, 0x66, 0xFF, 0x06, 0x04, 0x05)  // lock inc dword [0x504]
    a.emit(0x66, 0x49)  // dec ecx
    a.jump(if: .notEqual, "again")
    a.emit(0xC3)
    a.align(0x1000)
    // STARTUP with vector 2: 0200:0000.
    a.emit(0xEA)  // jmp 0:ap
    a.emitAddress(of: "ap", size: 2)
    a.emit16(0)
    a.label("ap")
    a.emit(0x31, 0xC0, 0x8E, 0xD8, 0x8E, 0xD0)  // xor ax, ax; mov ds, ax; mov ss, ax
    a.load(.sp, Assembler.stack - 0x800)
    a.print("A")
    a.call("count")
    a.emit(0xC6, 0x06, 0x00, 0x05, 0x01)  // mov byte [0x500], 1
    a.label("rest")
    a.cli()
    a.hlt()
    a.jump("rest")
  }

  /// Every width on ports and device memory, and an access that crosses a device's page end.
  package static let echo = GuestProgram(
    "echo", says: "5a beef 12345678 a5 cafe 9abcdef0 11223344 55667788 (0x30001000/2=55)7788 "
  ) { a in
    let memory = UInt32(TestBoard.echoMemory)
    a.enterLongMode()
    let portValues: [(UInt32, [UInt8], [UInt8])] = [
      (0x5A, [0xEE], [0xEC]), (0xBEEF, [0x66, 0xEF], [0x66, 0xED]),
      (0x1234_5678, [0xEF], [0xED]),
    ]
    for (value, out, input) in portValues {
      a.load(.dx, UInt32(TestBoard.Port.echo))
      a.load(.ax, value)
      for byte in out { a.emit(byte) }
      a.load(.ax, 0)
      for byte in input { a.emit(byte) }
      a.reportAX()
    }
    a.load(.bx, memory)
    let memoryValues: [(UInt32, [UInt8], [UInt8])] = [
      (0xA5, [0x88, 0x03], [0x8A, 0x03]),  // mov [rbx], al; mov al, [rbx]
      (0xCAFE, [0x66, 0x89, 0x03], [0x66, 0x8B, 0x03]),
      (0x9ABC_DEF0, [0x89, 0x03], [0x8B, 0x03]),
    ]
    for (value, store, load) in memoryValues {
      a.load(.ax, value)
      for byte in store { a.emit(byte) }
      a.load(.ax, 0)
      for byte in load { a.emit(byte) }
      a.reportAX()
    }
    a.load64(.ax, 0x1122_3344_5566_7788)
    a.emit(0x48, 0x89, 0x43, 0x08)  // mov [rbx+8], rax
    a.emit(0x48, 0x8B, 0x4B, 0x08)  // mov rcx, [rbx+8]
    a.emit(0x48, 0x89, 0xC8)  // mov rax, rcx
    a.emit(0x48, 0xC1, 0xE8, 0x20)  // shr rax, 32
    a.reportAX()
    a.emit(0x89, 0xC8)  // mov eax, ecx
    a.reportAX()
    // The last two bytes of the device's page and two beyond, which the board notes.
    a.load(.ax, 0x0055_7788)
    a.emit(0x89, 0x83)  // mov [rbx+0xFFE], eax
    a.emit32(0xFFE)
    a.load(.ax, 0)
    a.emit(0x66, 0x8B, 0x83)  // mov ax, [rbx+0xFFE]
    a.emit32(0xFFE)
    a.reportAX()
    a.finish()
    a.descriptorTable()
  }

  /// REP OUTS and REP INS.
  package static let stringAccess = GuestProgram("string-access", says: "hello, abcdef") { a in
    a.enterLongMode()
    a.load(.si, addressOf: "text")
    a.load(.cx, 7)
    a.load(.dx, UInt32(TestBoard.Port.text))
    a.emit(0xFC, 0xF3, 0x6E)  // cld; rep outsb
    a.load(.di, 0x2_0000)
    a.load(.cx, 6)
    a.load(.dx, UInt32(TestBoard.Port.sequence))
    a.emit(0xF3, 0x6C)  // rep insb
    a.load(.si, 0x2_0000)
    a.load(.cx, 6)
    a.load(.dx, UInt32(TestBoard.Port.text))
    a.emit(0xF3, 0x6E)
    a.finish()
    a.label("text")
    a.emit(string: "hello, ")
    a.descriptorTable()
  }

  /// No handler for an exception, nor for the next two.
  package static let tripleFault = GuestProgram("triple-fault", says: "3", ends: .shutdown) { a in
    a.enterLongMode()
    a.memory([0x0F, 0x01], field: 3, "nothing")  // lidt with limit 0
    a.print("3")
    a.emit(0x0F, 0x0B)  // ud2
    a.print("!")
    a.finish(1)
    a.label("nothing")
    a.emit16(0)
    a.emit64(0)
    a.descriptorTable()
  }

  /// IA32_APIC_BASE, TSC_DEADLINE, x2APIC and CR8 are the machine's; a register that nobody knows is #GP.
  package static let registersOfTheMachine = GuestProgram(
    "machine-registers", says: "fee00900 12345678 a0 2 50 G"
  ) { a in
    a.enterLongMode()
    a.loadInterruptTable()
    a.rdmsr(0x1B)
    a.reportAX()
    a.wrmsr(0x6E0, 0x1_1234_5678)
    a.load(.ax, 0)
    a.rdmsr(0x6E0)
    a.reportAX()
    a.rdmsr(0x802)
    a.reportAX()
    a.wrmsr(0x808, 0x20)
    a.emit(0x44, 0x0F, 0x20, 0xC0)  // mov rax, cr8
    a.reportAX()
    a.load(.ax, 5)
    a.emit(0x44, 0x0F, 0x22, 0xC0)  // mov cr8, rax
    a.rdmsr(0x808)
    a.reportAX()
    a.rdmsr(0xDEAD_0000)
    a.finish()
    a.label("protection")
    a.print("G")
    a.emit(0x58)  // pop rax
    a.emit(0x48, 0x83, 0x04, 0x24, 0x02)  // add qword [rsp], 2
    a.iret()
    a.interruptTable([13: "protection"])
    a.descriptorTable()
  }

  /// ROM is read like memory; stores to it reach the board and change nothing.
  package static let readOnlyMemory = GuestProgram(
    "read-only-memory", says: "badf00d (0x700000/4=1234)badf00d "
  ) { a in
    a.enterProtectedMode()
    for _ in 0..<1 {
      a.emit(0xA1)  // mov eax, [rom]
      a.emit32(UInt32(TestBoard.rom))
      a.reportAX()
    }
    a.load(.ax, 0x1234)
    a.emit(0xA3)  // mov [rom], eax
    a.emit32(UInt32(TestBoard.rom))
    a.emit(0xA1)
    a.emit32(UInt32(TestBoard.rom))
    a.reportAX()
    a.finish()
    a.descriptorTable()
  }

  /// The same address is one page, another page, and no memory at all.
  package static let movingMemory = GuestProgram(
    "moving-memory", says: "b1b1b1b1 c2c2c2c2 ffffffff b1b1b1b1 "
  ) { a in
    a.enterProtectedMode()
    for layout: UInt8 in [1, 2, 0, 1] {
      a.outByte(TestBoard.Port.layout, layout)
      a.emit(0xA1)
      a.emit32(UInt32(TestBoard.switchedMemory))
      a.reportAX()
    }
    a.finish()
    a.descriptorTable()
  }

  /// CPUID is the one that the board set.
  package static let identification = GuestProgram(
    "identification", says: "800f12 68747541 ", needs: [.cpuid]
  ) { a in
    a.enterLongMode()
    a.load(.ax, 1)
    a.emit(0x0F, 0xA2)  // cpuid
    a.reportAX()
    a.load(.ax, 0)
    a.emit(0x0F, 0xA2)
    a.emit(0x89, 0xD8)  // mov eax, ebx
    a.reportAX()
    a.finish()
    a.descriptorTable()
  }

  /// POPCNT of device memory, which KVM's own emulator does not know.
  package static let foreignInstruction = GuestProgram(
    "foreign-instruction", says: "11 ", needs: [.emulation]
  ) { a in
    a.enterLongMode()
    a.load(.bx, UInt32(TestBoard.echoMemory))
    a.load(.ax, 0xFF00_FF01)
    a.emit(0x89, 0x03)  // mov [rbx], eax
    a.emit(0xF3, 0x0F, 0xB8, 0x03)  // popcnt eax, [rbx]
    a.reportAX()
    a.finish()
    a.descriptorTable()
  }
}
