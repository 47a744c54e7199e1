import CPU
import Glibc
import Host
import Monitor
import Support
import Testing

/// Command lines and what they print; expected texts are QEMU 7.2's.
@Suite struct HMPSessionTests {
  @Test(arguments: [
    ("", ""),
    ("p 0", "0\n"),
    ("p/x 255", "0xff\n"), ("p/d -1", "-1\n"), ("p/o 8", "010\n"), ("p/c 65", "'A'\n"),
    ("p/c 10", "'\\n'\n"), ("p/c 200", "'\\xc8'\n"), ("p/c 39", "'\\''\n"), ("p/c 0", "'\\x00'\n"),
    ("p/c 256", "'\\x100'\n"), ("p/u -1", "18446744073709551615\n"), ("p/xb 0x1ff", "0x1ff\n"),
    ("p/10x 5", "0x5\n"), ("print/x 1", "0x1\n"),
    ("p ~0", "0xffffffffffffffff\n"), ("p 5%3", "0x2\n"), ("p -(1+2)*3", "0xfffffffffffffff7\n"),
    ("p 010", "0x8\n"), ("p 'a'", "0x61\n"), ("p 1+2*3", "0x7\n"), ("p 6&3+1", "0x3\n"),
    ("p 1|2^3", "0\n"), ("p 7-2-1", "0x4\n"), ("p 100/7/2", "0x7\n"), ("p  ( 1 + 2 ) ", "0x3\n"),
    ("p $eax", "0\n"), ("p $cs", "0xf000\n"), ("p $pc", "0xfffffff0\n"), ("p $eflags", "0x2\n"),
    ("p $cs.base", "0xffff0000\n"), ("p $r8", "0\n"), ("p $cs.limit", "0xffff\n"),
    ("nope", "unknown command: 'nope'\n"), ("  nope", "unknown command: '  nope'\n"),
    ("/x", "unknown command: ''\n"), ("\"info\" status", "unknown command: '\"info\"'\n"),
    ("info nope", "unknown command: 'info nope'\n"),
    ("info \"status\"", "unknown command: 'info \"status\"'\n"),
    ("help nope", "unknown command: 'nope'\n"),
    ("help info nope", "unknown command: 'info nope'\n"),
    ("cpu 1", "invalid CPU index\n"), ("cpu 0", ""),
    ("xp/4xb 0xfffffff0", "00000000fffffff0: 0xea 0x5b 0xe0 0x00\n"),
    ("xp/4xh 0xfffffff0", "00000000fffffff0: 0x5bea 0x00e0 0x30f0 0x2f36\n"),
    ("xp/0x 0", ""), ("xp/xx 0", "0000000000000000: 0x00000000\n"),
    ("xp/4ub 0xfffffff0", "00000000fffffff0: 234  91 224   0\n"),
    ("xp/4ob 0xfffffff0", "00000000fffffff0: 0352 0133 0340   0\n"),
    ("xp/4cb 0xfffffff0", "00000000fffffff0: '\\xea' '[' '\\xe0' '\\x00'\n"),
    ("xp/2ch 0xfffffff0", "00000000fffffff0: '\\xea' '[' '\\xe0' '\\x00'\n"),
    ("x/4xb 0xffffffff", "00000000ffffffff: Cannot access memory\n"),
    ("xp 0x200000", "0000000000200000: Cannot access memory\n"),
    ("i 0x60", "portl[0x0060] = 0x12345678\n"), ("i/xh 0x60", "portw[0x0060] = 0x5678\n"),
    ("i/xw 0x60", "portl[0x0060] = 0x12345678\n"), ("i/xb 0x70 . 5", "portb[0x0071] = 0x78\n"),
    ("o 0x80 1", ""), ("sum 0xfffffff0 0", "00000\n"),
    ("gpa2hva 0x100", "Host virtual address for 0x100 (pc.ram) is 0x7f0000000100\n"),
    ("gpa2hva 0xfee00000", "Memory at address 0xfee00000 is not RAM\n"),
    ("gpa2hva -1", "No memory is mapped at address 0xffffffffffffffff\n"),
    ("gva2gpa 0", "gpa: 0\n"), ("gva2gpa 0xfffffff0", "gpa: 0xfffffff0\n"),
    ("memsave 0 10 \"/nosuch/x\"", "Error: Parameter 'cpu-index' expects a CPU number\n"),
    (
      "pmemsave 0 10 \"/nosuch/x\"",
      "Error: Could not open '/nosuch/x': No such file or directory\n"
    ),
    ("system_wakeup", "Error: wake-up from suspend is not supported by this guest\n"),
    ("info status", "VM status: paused (prelaunch)\n"),
    ("  info   status  ", "VM status: paused (prelaunch)\n"),
    ("info name", "guest\n"), ("info uuid", "00000000-0000-0000-0000-000000000000\n"),
    ("info kvm", "kvm support: disabled\n"), ("info mem", "PG disabled\n"),
    ("info tlb", "PG disabled\n"), ("info registers 1", "CPU#1 not available\n"),
    ("info lapic 5", "No CPU available\n"), ("info history", ""),
    ("info qom-tree /nope", "Path '/nope' could not be resolved.\n"),
  ])
  func linesPrintWhatTheyShould(_ line: String, _ expected: String) async throws {
    try await PaperMonitor.test { monitor in
      #expect(monitor.run(line) == expected)
    }
  }

  @Test(arguments: [
    ("p 1+", "unexpected end of expression", "p"),
    ("p 1a", "print|p: extraneous characters at the end of line", "p"),
    (" p 1 2", "print|p: extraneous characters at the end of line", " p"),
    ("p (1", "')' expected", "p"), ("p 1/0", "division by zero", "p"),
    ("p 1%0", "division by zero", "p"), ("p $foo", "unknown register", "p"),
    ("p 99999999999999999999", "number too large", "p"), ("p", "unexpected end of expression", "p"),
    ("p/", "unexpected end of expression", "p"), ("p/z 1", "invalid char in format: 'z'", "p"),
    ("x", "unexpected end of expression", "x"), ("xp/1s 0", "invalid char in format: 's'", "xp"),
    ("xp/-1x 0", "invalid char in format: '-'", "xp"),
    ("p !1", "invalid char '!' in expression", "p"),
    ("p 1&&1", "invalid char '&' in expression", "p"),
    ("p 1<<2", "print|p: extraneous characters at the end of line", "p"),
    ("p 0b11", "print|p: extraneous characters at the end of line", "p"),
    ("p 0x", "print|p: extraneous characters at the end of line", "p"),
    ("p '\\n'", "missing terminating ' character", "p"),
    ("p \"a\"", "invalid char '\"' in expression", "p"),
    ("i/xb 0x70 5", "i: extraneous characters at the end of line", "i"),
    ("i 0x70.", "unexpected end of expression", "i"),
    ("sum 0 -1", "'sum' has failed: integer is for 32-bit values", "sum"),
    ("i 0x1ffffffff", "'i' has failed: integer is for 32-bit values", "i"),
    ("cpu a", "invalid char 'a' in expression", "cpu"),
    ("memsave 0 10", "memsave: string expected", "memsave"),
    ("memsave 0 4 \"a", "memsave: string expected", "memsave"),
    ("memsave 0 4 \"a\\q\"", "memsave: string expected", "memsave"),
    ("memsave 0 10 /tmp/x", "invalid char 't' in expression", "memsave"),
    ("stop x", "stop|s: extraneous characters at the end of line", "stop"),
    ("quit x", "quit|q: extraneous characters at the end of line", "quit"),
    ("info status x", "status: extraneous characters at the end of line", "info status"),
    ("info registers -x", "registers: unsupported option -x", "info registers"),
    ("info registers -a -a", "invalid char 'a' in expression", "info registers"),
    ("info registers a", "invalid char 'a' in expression", "info registers"),
    ("info lapic -1", "'lapic' has failed: integer is for 32-bit values", "info lapic"),
  ])
  func argumentErrorsNameTheCommandToAskAbout(
    _ line: String, _ error: String, _ name: String
  ) async throws {
    try await PaperMonitor.test { monitor in
      #expect(monitor.run(line) == "\(error)\nTry \"help \(name)\" for more information\n")
    }
  }

  @Test func formatsAreRemembered() async throws {
    try await PaperMonitor.test { monitor in
      #expect(monitor.run("p/d 255") == "255\n")
      #expect(monitor.run("p 255") == "255\n")
      #expect(monitor.run("xp/2xb 0xfffffff0") == "00000000fffffff0: 0xea 0x5b\n")
      #expect(monitor.run("xp 0xfffffff0") == "00000000fffffff0: 0xea\n")
      #expect(monitor.run("xp/w 0xfffffff0") == "00000000fffffff0: 0x00e05bea\n")
    }
  }

  @Test func hugeCountsEnd() async throws {
    try await PaperMonitor.test { monitor in
      #expect(
        await monitor.runToEnd("xp/99999999999999999999xb 0xfffffff8").hasSuffix(
          "Cannot access memory\n"))
      let text = await monitor.runToEnd("xp/99999999xg 0")
      #expect(text.hasSuffix("Cannot access memory\n") || text.hasSuffix("bytes)\n"))
      #expect(
        monitor.run("p " + String(repeating: "(", count: 4000)).hasPrefix("expression too deep"))
      #expect(monitor.run("p -9223372036854775808/-1") == "0x8000000000000000\n")
    }
  }

  @Test func theFlatMemoryMapFollowsPriorities() async throws {
    try await PaperMonitor.test { monitor in
      #expect(
        monitor.run("info mtree -f") == """
          FlatView #0
           AS "memory", root: system
           Root memory region: system
            0000000000000000-0000000007ffffff (prio 0, ram): pc.ram
            00000000fee00000-00000000feefffff (prio 4096, i/o): apic-msi


          """)
    }
  }

  @Test func bootOrdersReachTheMachine() async throws {
    try await PaperMonitor.test { monitor in
      #expect(monitor.run("boot_set nc") == "boot device list now set to nc\n")
      #expect(monitor.run("boot_set z") == "Invalid boot device 'z'\n")
      #expect(monitor.machine.hand == ["boot nc", "boot z"])
    }
  }

  @Test func portsAreWrittenWithTheirWidth() async throws {
    try await PaperMonitor.test { monitor in
      _ = monitor.run("o/b 0x80 0x1ff")
      _ = monitor.run("o/h 0x80 0x12345")
      _ = monitor.run("i/xb 0x70.5")
      #expect(monitor.machine.portWrites == ["128 1 255", "128 2 9029", "112 1 5"])
    }
  }

  @Test func checksumIsThatOfTheBSDProgram() async throws {
    try await PaperMonitor.test { monitor in
      for (index, byte) in "hello world\n".utf8.enumerated() {
        monitor.machine.memory[index] = byte
      }
      // `printf 'hello world\n' | sum` prints 03762.
      #expect(monitor.run("sum 0 12") == "03762\n")
    }
  }

  @Test func registersLookLikeQEMUs() async throws {
    try await PaperMonitor.test(cpus: 2) { monitor in
      let sample = InfoSamples.registers
      #expect(monitor.run("info registers") == sample)
      #expect(monitor.run("info registers 1").contains("CPU#1\n"))
      #expect(monitor.run("info registers 1").contains("HLT=1\n"))
      #expect(monitor.run("info registers -a").contains("CPU#0\n"))
      _ = monitor.run("cpu 1")
      #expect(monitor.run("info registers").hasPrefix("\nCPU#1\n"))
    }
  }

  @Test func longModeRegistersAndVectorsAreWide() async throws {
    try await PaperMonitor.test { monitor in
      var state = CPUState()
      state.registers = (0..<16).map { 0x1111_1111_1111_1111 &* $0 }
      state.cr0 = 0x8000_0001
      state.efer = 0x500
      state.xcr0 = 7
      state.rflags = 0x246
      state.cs = SegmentRegister(selector: 0x10, limit: 0xFFFF_FFFF, attributes: 0xA09B)
      state.ss = SegmentRegister(selector: 0x18, limit: 0xFFFF_FFFF, attributes: 0xC093)
      state.tr = SegmentRegister(
        selector: 0x40, base: 0xFFFF_FE00_0000_3000, limit: 0x4087, attributes: 0x8B)
      state.xsave[2] = 0x00
      state.xsave[3] = 0x38  // top 7
      state.xsave[32] = 0x42  // ST(0) is physical register 7
      state.xsave[160] = 0x99
      state.xsave[576] = 0x77
      monitor.machine.states = [state]
      let text = monitor.run("info registers")
      for line in [
        "RAX=0000000000000000 RBX=3333333333333333 RCX=1111111111111111 RDX=2222222222222222\n",
        "R12=cccccccccccccccc R13=dddddddddddddddd R14=eeeeeeeeeeeeeeee R15=ffffffffffffffff\n",
        "RIP=0000000000000000 RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=0\n",
        "CS =0010 0000000000000000 ffffffff 00af9b00 DPL=0 CS64 [-RA]\n",
        "SS =0018 0000000000000000 ffffffff 00cf9300 DPL=0 DS   [-WA]\n",
        "TR =0040 fffffe0000003000 00004087 00008b00 DPL=0 TSS64-busy\n",
        "FCW=037f FSW=3800 [ST=7] FTW=00 MXCSR=00001f80\n",
        "FPR6=0000000000000000 0000 FPR7=0000000000000042 0000\n",
        "YMM00=0000000000000000 0000000000000077 0000000000000000 0000000000000099\n",
      ] {
        #expect(text.contains(line), "\(line)\(text)")
      }
      #expect(text.contains("YMM15="))
    }
  }

  @Test func interruptControllersLookLikeQEMUs() async throws {
    try await PaperMonitor.test { monitor in
      #expect(monitor.run("info lapic") == InfoSamples.localAPIC)
      var ioapic = HMPIOAPIC()
      ioapic.entries = [UInt64](repeating: 0x1_0000, count: 24)
      ioapic.statistics = [1]
      var master = HMPPIC()
      var slave = HMPPIC()
      master.index = 0
      slave.index = 1
      master.statistics = [1]
      monitor.machine.controllers = [.ioapic(ioapic), .pic(slave), .pic(master)]
      #expect(monitor.run("info pic") == InfoSamples.controllers)
      #expect(monitor.run("info irq") == InfoSamples.interrupts)
    }
  }

  @Test func busyLocalAPICsShowTheirVectors() async throws {
    try await PaperMonitor.test { monitor in
      var apic = HMPLocalAPIC()
      apic.spurious = 0x1FF
      apic.timer = 0x400EC
      apic.lint1 = 0x400
      apic.divideConfiguration = 0xB
      apic.commandLow = 0xC08FD
      apic.inService[1] = 1 << 4
      apic.triggerMode[1] = 1 << 4
      apic.requested[7] = 1 << 12
      monitor.machine.apics = [apic]
      let text = monitor.run("info lapic")
      for line in [
        "LVT1\t 0x00000400 active-hi edge                              NMI   \n",
        "LVTT\t 0x000400ec active-hi edge                 tsc-deadline Fixed  (vec 236)\n",
        "DCR=0xb (divide by 1) ", "SPIV\t 0x000001ff APIC enabled, focus=off, spurious vec 255\n",
        "ICR\t 0x000c08fd logical edge de-assert all\nICR2\t 0x00000000\n",
        "ISR\t 36(level) \n", "IRR\t 236 \n",
      ] {
        #expect(text.contains(line), "\(line)")
      }
    }
  }

  @Test func treesAreIndented() async throws {
    try await PaperMonitor.test { monitor in
      #expect(
        monitor.run("info mtree")
          == "address-space: memory\n"
          + "  0000000000000000-ffffffffffffffff (prio 0, i/o): system\n"
          + "    0000000000000000-0000000007ffffff (prio 0, ram): pc.ram\n"
          + "    00000000fee00000-00000000feefffff (prio 4096, i/o): apic-msi\n\n")
      #expect(
        monitor.run("info qtree")
          == "bus: main-system-bus\n  type System\n  dev: i440FX-pcihost, id \"\"\n"
          + "    bypass-iommu = false\n    bus: pci.0\n      type PCI\n"
          + "      dev: i440FX, id \"x\"\n        addr = 00.0\n")
      #expect(
        monitor.run("info roms")
          == "fw=genroms/kvmvapic.bin size=0x002400 name=\"kvmvapic.bin\"\n"
          + "addr=00000000fffc0000 size=0x040000 mem=rom name=\"bios-256k.bin\"\n"
          + "/rom@etc/acpi/tables size=0x200000 name=\"etc/acpi/tables\"\n")
    }
  }

  @Test func fourLevelPagesAreWalked() async throws {
    try await PaperMonitor.test { monitor in
      let machine = monitor.machine
      machine.states[0].cr0 = 0x8000_0001
      machine.states[0].cr4 = 0x20
      machine.states[0].efer = 0x500
      machine.states[0].cr3 = 0x1000
      machine.store(0x2007, at: 0x1000)  // 0…
      machine.store(0x2003, at: 0x1FF8)  // the last 512 GiB, for the supervisor only
      machine.store(0x3007, at: 0x2000)
      machine.store(0x4007, at: 0x3000)
      machine.store(0x20_0083, at: 0x3008)  // 2 MiB at 2 MiB
      machine.store(0x5067, at: 0x4000)
      machine.store(0x6005, at: 0x4008)
      machine.store(0x8000_0000_0000_7001, at: 0x4010)
      #expect(
        monitor.run("info tlb").hasPrefix(
          "0000000000000000: 0000000000005000 ---DA--UW\n"
            + "0000000000001000: 0000000000006000 -------U-\n"
            + "0000000000002000: 0000000000007000 X--------\n"
            + "0000000000200000: 0000000000200000 --P-----W\n"
            + "ffffff8000000000: 0000000000005000 ---DA--UW\n"))
      #expect(
        monitor.run("info mem").hasPrefix(
          "0000000000000000-0000000000001000 0000000000001000 urw\n"
            + "0000000000001000-0000000000002000 0000000000001000 ur-\n"
            + "0000000000002000-0000000000003000 0000000000001000 -r-\n"
            + "0000000000200000-0000000000400000 0000000000200000 -rw\n"
            + "ffffff8000000000-ffffff8000001000 0000000000001000 -rw\n"))
      #expect(monitor.run("gva2gpa 0x1234") == "gpa: 0x6234\n")
      #expect(monitor.run("gva2gpa 0xffffff8000000004") == "gpa: 0x5004\n")
      #expect(monitor.run("gva2gpa 0x200123") == "gpa: 0x200123\n")
      #expect(monitor.run("gva2gpa 0x3000") == "Unmapped\n")
      #expect(monitor.run("gva2gpa 0x800000000000") == "Unmapped\n")
      machine.memory[0x6FFE] = 0xAA
      machine.memory[0x7000] = 0xBB
      #expect(monitor.run("x/4xb 0x1ffe") == "0000000000001ffe: 0xaa 0x00 0xbb 0x00\n")
      #expect(monitor.run("x/4xb 0x2ffe") == "0000000000002ffe: Cannot access memory\n")
    }
  }

  @Test func twoLevelAndExtendedPagesAreWalked() async throws {
    try await PaperMonitor.test { monitor in
      let machine = monitor.machine
      machine.states[0].cr0 = 0x8000_0001
      machine.states[0].cr3 = 0x1000
      machine.store(0x0000_0000_0000_2007, at: 0x1000)
      machine.store(0x0040_0083, at: 0x1004)
      machine.store(0x3025_0000_5067, at: 0x2000)
      #expect(monitor.run("gva2gpa 0x12") == "gpa: 0x5012\n")
      #expect(monitor.run("gva2gpa 0x412345") == "gpa: 0x412345\n")
      #expect(monitor.run("gva2gpa 0x100000412345") == "gpa: 0x412345\n")

      machine.states[0].cr4 = 0x20
      machine.states[0].cr3 = 0x8020
      machine.store(0x9001, at: 0x8020)
      machine.store(0xA007, at: 0x9000)
      machine.store(0x60_0083, at: 0x9018)
      machine.store(0x8000_0000_0000_B003, at: 0xA000)
      #expect(monitor.run("gva2gpa 0x12") == "gpa: 0xb012\n")
      #expect(monitor.run("gva2gpa 0x612345") == "gpa: 0x612345\n")
      #expect(
        monitor.run("info mem").hasPrefix(
          "0000000000000000-0000000000001000 0000000000001000 -rw\n"))
    }
  }

  @Test func pageTablesThatPointAtThemselvesEnd() async throws {
    try await PaperMonitor.test { monitor in
      let machine = monitor.machine
      machine.states[0].cr0 = 0x8000_0001
      machine.states[0].cr4 = 0x20
      machine.states[0].efer = 0x500
      machine.states[0].cr3 = 0x1000
      machine.store(0x1007, at: 0x1000)
      machine.store(0x1007, at: 0x1008)
      #expect(monitor.run("info tlb").split(separator: "\n").count == 16)
      #expect(monitor.run("gva2gpa 0x5") == "gpa: 0x1005\n")
      for entry in 0..<512 { machine.store(0x1007, at: 0x1000 + entry * 8) }
      #expect(
        await monitor.runToEnd("info mem").hasSuffix("(cut off after 1048576 pages and tables)\n"))
    }
  }

  @Test func instructionsAreDisassembledOrTheLibraryIsNamed() async throws {
    try await PaperMonitor.test { monitor in
      let text = monitor.run("x/3i $pc")
      if text.hasPrefix("Disassembly needs") {
        #expect(text.contains("libcapstone4"))
      } else {
        #expect(text.hasPrefix("0xfffffff0:  ea 5b e0 00 f0           ljmpw    $0xf000:$0xe05b\n"))
        #expect(text.hasSuffix("\n"))
      }
    }
  }

  @Test func helpListsNamesAndParameters() async throws {
    try await PaperMonitor.test { monitor in
      #expect(monitor.run("help stop").hasPrefix("stop|s  -- "))
      #expect(monitor.run("? p").hasPrefix("print|p /fmt expr -- "))
      #expect(monitor.run("help info registers").hasPrefix("info registers [-a|vcpu] -- "))
      #expect(monitor.run("help info") == monitor.run("info"))
      let names = monitor.run("help").split(separator: "\n").compactMap {
        $0.split(separator: " ").first
      }
      #expect(names == names.sorted())
      #expect(names.contains("system_powerdown"))
    }
  }

  @Test func tabKnowsCommandsTopicsAndNothingElse() async throws {
    try await PaperMonitor.test { monitor in
      @MainLoop func complete(_ line: String) -> [String] {
        monitor.session.completions(for: Array(line.utf8)).candidates.sorted()
      }
      #expect(complete("sto") == ["stop"])
      #expect(complete("  system_") == ["system_powerdown", "system_reset", "system_wakeup"])
      #expect(complete("info stat") == ["stats", "status"])
      #expect(complete("info").contains("info"))
      #expect(complete("help info mt") == ["mtree"])
      #expect(complete("? qui") == ["quit"])
      #expect(complete("p ") == [])
      #expect(complete("nope ") == [])
      #expect(monitor.session.completions(for: Array("info st".utf8)).typed == 2)
    }
  }

  @Test func logItemsAreListedForHelpAndForUnknownOnes() async throws {
    try await PaperMonitor.test { monitor in
      let list = monitor.run("log help")
      #expect(list.hasPrefix("Log items (comma separated):\n"))
      #expect(list.contains("\nguest_errors    "))
      #expect(monitor.run("log int,nope") == list)
      #expect(
        monitor.run("logfile")
          == "logfile: filename expected\nTry \"help logfile\" for more information\n")
    }
  }

  @Test func tabKnowsFiles() async throws {
    let folder = Goliath.temporaryFolder()
    for name in ["abc", "abd", "x"] {
      try FileDescriptor.open("\(folder)/\(name)", O_WRONLY | O_CREAT).close()
    }
    #expect(mkdir("\(folder)/dir", 0o700) == 0)
    try await PaperMonitor.test { monitor in
      @MainLoop func complete(_ line: String) -> [String] {
        monitor.session.completions(for: Array(line.utf8)).candidates.sorted()
      }
      #expect(complete("logfile \(folder)/a") == ["\(folder)/abc", "\(folder)/abd"])
      #expect(complete("logfile \(folder)/d") == ["\(folder)/dir/"])
      #expect(complete("logfile \(folder)/").count == 4)
      #expect(complete("logfile /nosuch/folder/") == [])
      #expect(complete("logfile a b") == [])
    }
  }

  @Test func anyLineIsAnswered() async throws {
    try await PaperMonitor.test(cpus: 2) { monitor in
      var generator = SystemRandomNumberGenerator()
      let words = [
        "p", "x", "xp", "/", "/4xb", "/300i", "info", "registers", "-a", "-1", "0x", "$pc",
        "(", ")", "'", "\"", "\\", "+", "%", "0", "sum", "0xffffffffffffffff", "cpu", "i", "o", ".",
        "gva2gpa", "lapic", "help", "?", "mem", "tlb", "\u{FF}", "é",
      ]
      for _ in 0..<3000 {
        let line = (0..<Int.random(in: 0...6, using: &generator))
          .compactMap { _ in words.randomElement(using: &generator) }
          .joined(separator: Bool.random(using: &generator) ? " " : "")
        _ = monitor.run(line)
      }
    }
  }
}
