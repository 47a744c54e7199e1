import CPU

/// `info registers` and `$register`.
enum RegisterText {
  /// The value of `$name`; nil when there is no such register.
  static func value(_ name: String, in state: CPUState) -> UInt64? {
    let registers: [String: Int] = [
      "eax": 0, "ax": 0, "rax": 0, "ecx": 1, "cx": 1, "rcx": 1, "edx": 2, "dx": 2, "rdx": 2,
      "ebx": 3, "bx": 3, "rbx": 3, "esp": 4, "sp": 4, "rsp": 4, "ebp": 5, "fp": 5, "rbp": 5,
      "esi": 6, "rsi": 6, "edi": 7, "rdi": 7, "r8": 8, "r9": 9, "r10": 10, "r11": 11, "r12": 12,
      "r13": 13, "r14": 14, "r15": 15,
    ]
    if let index = registers[name] { return state.registers[index] }
    switch name {
    case "eflags", "rflags": return state.rflags
    case "eip", "rip": return state.rip
    case "pc": return programCounter(state)
    case "cr0": return state.cr0
    case "cr2": return state.cr2
    case "cr3": return state.cr3
    case "cr4": return state.cr4
    case "efer": return state.efer
    default: break
    }
    let parts = name.split(separator: ".", omittingEmptySubsequences: false)
    guard let segment = parts.first.flatMap({ self.segment(String($0), state) }) else { return nil }
    if parts.count == 1 { return UInt64(segment.selector) }
    guard parts.count == 2 else { return nil }
    return parts[1] == "base"
      ? segment.base : parts[1] == "limit" ? UInt64(segment.limit) : nil
  }

  /// The linear address of the next instruction.
  static func programCounter(_ state: CPUState) -> UInt64 {
    isLong(state) ? state.rip : state.rip &+ state.cs.base
  }

  /// Whether the CPU executes 64-bit code.
  static func isLong(_ state: CPUState) -> Bool {
    state.efer & 1 << 10 != 0 && state.cs.isLong
  }

  /// All registers of one vCPU, lines with `\n`.
  static func dump(_ state: CPUState, index: Int) -> String {
    let isLong = isLong(state)
    var text = "\nCPU#\(index)\n"
    text += isLong ? longRegisters(state) : shortRegisters(state)
    for (name, segment) in [
      ("ES", state.es), ("CS", state.cs), ("SS", state.ss), ("DS", state.ds), ("FS", state.fs),
      ("GS", state.gs), ("LDT", state.ldtr), ("TR", state.tr),
    ] {
      text += line(name, segment, state)
    }
    for (name, table) in [("GDT", state.gdtr), ("IDT", state.idtr)] {
      let base = address(table.base, isLong)
      text += "\(name)=     \(base) \(TextForm.hex(UInt32(table.limit), 8))\n"
    }
    text += "CR0=\(low(state.cr0)) CR2=\(address(state.cr2, isLong))"
    text += " CR3=\(address(state.cr3, isLong)) CR4=\(low(state.cr4))\n"
    for index in 0..<4 {
      text += "DR\(index)=\(TextForm.hex(state.debugAddresses[index], 16)) "
    }
    text += "\nDR6=\(TextForm.hex(state.dr6, 16)) DR7=\(TextForm.hex(state.dr7, 16))\n"
    text += "EFER=\(TextForm.hex(state.efer, 16))\n"
    return text + floatingPoint(state) + vectors(state, isLong)
  }

  // MARK: -

  private static func segment(_ name: String, _ state: CPUState) -> SegmentRegister? {
    switch name {
    case "cs": state.cs
    case "ds": state.ds
    case "es": state.es
    case "ss": state.ss
    case "fs": state.fs
    case "gs": state.gs
    default: nil
    }
  }

  private static func low(_ value: UInt64) -> String {
    TextForm.hex(UInt32(truncatingIfNeeded: value), 8)
  }

  private static func address(_ value: UInt64, _ isLong: Bool) -> String {
    isLong ? TextForm.hex(value, 16) : low(value)
  }

  private static func flags(_ state: CPUState) -> String {
    let letters: [(bit: UInt64, letter: Character)] = [
      (10, "D"), (11, "O"), (7, "S"), (6, "Z"), (4, "A"), (2, "P"), (0, "C"),
    ]
    return String(letters.map { state.rflags >> $0.bit & 1 != 0 ? $0.letter : "-" })
  }

  private static func status(_ state: CPUState) -> String {
    let privilege = state.cr0 & 1 == 0 ? 0 : state.ss.dpl
    return "[\(flags(state))] CPL=\(privilege) II=\(state.hasInterruptShadow ? 1 : 0) A20=1 SMM=0 "
      + "HLT=\(state.activity == .running ? 0 : 1)\n"
  }

  private static func longRegisters(_ state: CPUState) -> String {
    let rows = [
      [("RAX", 0), ("RBX", 3), ("RCX", 1), ("RDX", 2)],
      [("RSI", 6), ("RDI", 7), ("RBP", 5), ("RSP", 4)],
      [("R8 ", 8), ("R9 ", 9), ("R10", 10), ("R11", 11)],
      [("R12", 12), ("R13", 13), ("R14", 14), ("R15", 15)],
    ]
    var text = ""
    for row in rows {
      text += row.map { "\($0.0)=\(TextForm.hex(state.registers[$0.1], 16))" }
        .joined(separator: " ")
      text += "\n"
    }
    return text + "RIP=\(TextForm.hex(state.rip, 16)) RFL=\(low(state.rflags)) " + status(state)
  }

  private static func shortRegisters(_ state: CPUState) -> String {
    let rows = [
      [("EAX", 0), ("EBX", 3), ("ECX", 1), ("EDX", 2)],
      [("ESI", 6), ("EDI", 7), ("EBP", 5), ("ESP", 4)],
    ]
    var text = ""
    for row in rows {
      text += row.map { "\($0.0)=\(low(state.registers[$0.1]))" }.joined(separator: " ") + "\n"
    }
    return text + "EIP=\(low(state.rip)) EFL=\(low(state.rflags)) " + status(state)
  }

  private static func line(_ name: String, _ segment: SegmentRegister, _ state: CPUState) -> String
  {
    let limit = segment.hasPageGranularity ? segment.limit >> 12 : segment.limit
    // The descriptor's high word without its base: attributes at bits 8 to 23, among them the limit's bits 16 to 19.
    let bits =
      UInt32(segment.attributes & 0xF0FF) << 8 | (limit >> 16 & 0xF) << 16
    var text =
      TextForm.left(name, 3) + "=" + TextForm.hex(segment.selector, 4) + " "
      + address(segment.base, isLong(state)) + " " + TextForm.hex(segment.limit, 8) + " "
      + TextForm.hex(bits, 8)
    guard state.cr0 & 1 != 0, segment.isPresent else { return text + "\n" }
    text += " DPL=\(segment.dpl) "
    let isLongMode = state.efer & 1 << 10 != 0
    let type = segment.type
    if segment.isCodeOrData {
      if type & 8 != 0 {
        text += segment.isLong ? "CS64" : segment.isBig ? "CS32" : "CS16"
        text += " [\(type & 4 != 0 ? "C" : "-")\(type & 2 != 0 ? "R" : "-")"
      } else {
        text += segment.isBig || isLongMode ? "DS  " : "DS16"
        text += " [\(type & 4 != 0 ? "E" : "-")\(type & 2 != 0 ? "W" : "-")"
      }
      text += "\(type & 1 != 0 ? "A" : "-")]"
    } else {
      text += isLongMode ? longTypes[Int(type)] : shortTypes[Int(type)]
    }
    return text + "\n"
  }

  /// System segment types (Intel SDM vol. 3A, table 3-2) in QEMU's spelling.
  private static let shortTypes = [
    "Reserved", "TSS16-avl", "LDT", "TSS16-busy", "CallGate16", "TaskGate", "IntGate16",
    "TrapGate16", "Reserved", "TSS32-avl", "Reserved", "TSS32-busy", "CallGate32", "Reserved",
    "IntGate32", "TrapGate32",
  ]
  private static let longTypes = [
    "<hiword>", "Reserved", "LDT", "Reserved", "Reserved", "Reserved", "Reserved", "Reserved",
    "Reserved", "TSS64-avl", "Reserved", "TSS64-busy", "CallGate64", "Reserved", "IntGate64",
    "TrapGate64",
  ]

  private static func load(_ area: [UInt8], _ offset: Int, _ size: Int) -> UInt64 {
    guard offset >= 0, offset + size <= area.count else { return 0 }
    return (0..<size).reversed().reduce(0) { $0 << 8 | UInt64(area[offset + $1]) }
  }

  private static func floatingPoint(_ state: CPUState) -> String {
    let area = state.xsave
    let status = load(area, 2, 2)
    let top = Int(status >> 11 & 7)
    let valid = load(area, 4, 1)  // FXSAVE's abridged tag: 1 is in use, by physical register
    var text = "FCW=\(TextForm.hex(load(area, 0, 2), 4)) FSW=\(TextForm.hex(status, 4))"
    text += " [ST=\(top)] FTW=\(TextForm.hex(valid, 2))"
    text += " MXCSR=\(TextForm.hex(load(area, 24, 4), 8))\n"
    for index in 0..<8 {
      // The area holds ST(0) first; the listing is by physical register.
      let offset = 32 + 16 * ((index - top) & 7)
      text += "FPR\(index)=\(TextForm.hex(load(area, offset, 8), 16)) "
      text += TextForm.hex(load(area, offset + 8, 2), 4) + (index & 1 == 1 ? "\n" : " ")
    }
    return text
  }

  private static func vectors(_ state: CPUState, _ isLong: Bool) -> String {
    let area = state.xsave
    var text = ""
    let hasAVX = state.xcr0 & 4 != 0
    for index in 0..<(isLong ? 16 : 8) {
      let offset = 160 + 16 * index
      let low =
        TextForm.hex(load(area, offset + 8, 8), 16) + " "
        + TextForm.hex(load(area, offset, 8), 16)
      let name = TextForm.decimal(index, 2)
      if hasAVX {
        let upper = 576 + 16 * index
        text += "YMM\(name)=\(TextForm.hex(load(area, upper + 8, 8), 16)) "
        text += "\(TextForm.hex(load(area, upper, 8), 16)) \(low)\n"
      } else {
        text += "XMM\(name)=\(low)" + (index & 1 == 1 ? "\n" : " ")
      }
    }
    return text
  }
}
