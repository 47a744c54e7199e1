/// Registers as text, as QEMU prints them in `info registers` and in the log.
extension CPUState {
  /// Whether the CPU executes 64-bit code.
  package var isLong: Bool { efer & 1 << 10 != 0 && cs.isLong }

  /// The registers, lines with `\n`. `withFloatingPoint`: those of x87, SSE and AVX too.
  package func registerText(withFloatingPoint: Bool) -> String {
    StateText.registers(self, withFloatingPoint: withFloatingPoint)
  }
}

private enum StateText {
  static func registers(_ state: CPUState, withFloatingPoint: Bool) -> String {
    let isLong = state.isLong
    var text = isLong ? longRegisters(state) : shortRegisters(state)
    for (name, segment) in [
      ("ES", state.es), ("CS", state.cs), ("SS", state.ss), ("DS", state.ds), ("FS", state.fs),
      ("GS", state.gs), ("LDT", state.ldtr), ("TR", state.tr),
    ] {
      text += line(name, segment, state)
    }
    for (name, table) in [("GDT", state.gdtr), ("IDT", state.idtr)] {
      let base = address(table.base, isLong)
      text += "\(name)=     \(base) \(hex(UInt32(table.limit), 8))\n"
    }
    text += "CR0=\(low(state.cr0)) CR2=\(address(state.cr2, isLong))"
    text += " CR3=\(address(state.cr3, isLong)) CR4=\(low(state.cr4))\n"
    for index in 0..<4 {
      text += "DR\(index)=\(hex(state.debugAddresses[index], 16)) "
    }
    text += "\nDR6=\(hex(state.dr6, 16)) DR7=\(hex(state.dr7, 16))\n"
    text += "EFER=\(hex(state.efer, 16))\n"
    return withFloatingPoint ? text + floatingPoint(state) + vectors(state, isLong) : text
  }

  // MARK: -

  private static func hex(_ value: some FixedWidthInteger & UnsignedInteger, _ digits: Int)
    -> String
  {
    let text = String(value, radix: 16)
    return String(repeating: "0", count: max(0, digits - text.utf8.count)) + text
  }

  private static func low(_ value: UInt64) -> String {
    hex(UInt32(truncatingIfNeeded: value), 8)
  }

  private static func address(_ value: UInt64, _ isLong: Bool) -> String {
    isLong ? hex(value, 16) : low(value)
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
      text += row.map { "\($0.0)=\(hex(state.registers[$0.1], 16))" }
        .joined(separator: " ")
      text += "\n"
    }
    return text + "RIP=\(hex(state.rip, 16)) RFL=\(low(state.rflags)) " + status(state)
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
      name + (name.utf8.count < 3 ? " " : "") + "=" + hex(segment.selector, 4) + " "
      + address(segment.base, state.isLong) + " " + hex(segment.limit, 8) + " "
      + hex(bits, 8)
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
    var text = "FCW=\(hex(load(area, 0, 2), 4)) FSW=\(hex(status, 4))"
    text += " [ST=\(top)] FTW=\(hex(valid, 2))"
    text += " MXCSR=\(hex(load(area, 24, 4), 8))\n"
    for index in 0..<8 {
      // The area holds ST(0) first; the listing is by physical register.
      let offset = 32 + 16 * ((index - top) & 7)
      text += "FPR\(index)=\(hex(load(area, offset, 8), 16)) "
      text += hex(load(area, offset + 8, 2), 4) + (index & 1 == 1 ? "\n" : " ")
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
        hex(load(area, offset + 8, 8), 16) + " "
        + hex(load(area, offset, 8), 16)
      let name = (index < 10 ? "0" : "") + String(index)
      if hasAVX {
        let upper = 576 + 16 * index
        text += "YMM\(name)=\(hex(load(area, upper + 8, 8), 16)) "
        text += "\(hex(load(area, upper, 8), 16)) \(low)\n"
      } else {
        text += "XMM\(name)=\(low)" + (index & 1 == 1 ? "\n" : " ")
      }
    }
    return text
  }
}
