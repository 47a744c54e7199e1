extension CPUState {
  /// The registers that matter at a reset or a crash, in a few lines, for the log.
  package var logText: String {
    func hex(_ value: UInt64, _ digits: Int) -> String {
      let text = String(value, radix: 16)
      return String(repeating: "0", count: max(0, digits - text.utf8.count)) + text
    }
    let names = [
      "RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8 ", "R9 ", "R10", "R11", "R12",
      "R13", "R14", "R15",
    ]
    let general = zip(names, registers).map { "\($0.0)=\(hex($0.1, 16))" }
    var lines = stride(from: 0, to: general.count, by: 4).map {
      general[$0..<min($0 + 4, general.count)].joined(separator: " ")
    }
    lines.append("RIP=\(hex(rip, 16)) RFL=\(hex(rflags, 8))")
    for (name, segment) in [
      ("ES", es), ("CS", cs), ("SS", ss), ("DS", ds), ("FS", fs), ("GS", gs), ("LDT", ldtr),
      ("TR", tr),
    ] {
      lines.append(
        "\(name)=\(hex(UInt64(segment.selector), 4)) \(hex(segment.base, 16))"
          + " \(hex(UInt64(segment.limit), 8)) \(hex(UInt64(segment.attributes), 4))")
    }
    lines.append("GDT=\(hex(gdtr.base, 16)) \(hex(UInt64(gdtr.limit), 4))")
    lines.append("IDT=\(hex(idtr.base, 16)) \(hex(UInt64(idtr.limit), 4))")
    lines.append("CR0=\(hex(cr0, 8)) CR2=\(hex(cr2, 16)) CR3=\(hex(cr3, 16)) CR4=\(hex(cr4, 8))")
    lines.append("EFER=\(hex(efer, 16))")
    return lines.joined(separator: "\n")
  }
}
