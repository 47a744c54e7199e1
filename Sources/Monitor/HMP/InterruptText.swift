/// `info lapic`, `info pic`, `info irq`.
enum InterruptText {
  private static let deliveryModes = [
    "Fixed", "...", "SMI", "...", "NMI", "INIT", "...", "ExtINT",
  ]

  /// A local APIC, lines with `\n`.
  static func localAPIC(_ apic: HMPLocalAPIC, cpu: Int) -> String {
    var text = "dumping local APIC state for CPU \(cpu) \n\n"
    text += vectorTableEntry("LVT0", apic.lint0)
    text += vectorTableEntry("LVT1", apic.lint1)
    text += vectorTableEntry("LVTPC", apic.performance)
    text += vectorTableEntry("LVTERR", apic.error)
    text += vectorTableEntry("LVTTHMR", apic.thermal)
    text += vectorTableEntry("LVTT", apic.timer, isTimer: true)
    text += "Timer\t DCR=0x\(String(apic.divideConfiguration, radix: 16)) "
    text += "(divide by \(divisor(apic.divideConfiguration))) "
    text += "initial_count = \(apic.initialCount) current_count = \(apic.currentCount)\n"
    text += "SPIV\t 0x\(TextForm.hex(apic.spurious, 8)) APIC "
    text += "\(apic.spurious & 0x100 != 0 ? "enabled" : "disabled"), "
    text += "focus=\(apic.spurious & 0x200 != 0 ? "on" : "off"), "
    text += "spurious vec \(apic.spurious & 0xFF)\n"
    text += command(apic)
    text += "ESR\t 0x\(TextForm.hex(apic.errorStatus, 8))\n"
    text += vectors("ISR", apic.inService, apic.triggerMode)
    text += vectors("IRR", apic.requested, apic.triggerMode)
    text += "\nAPR 0x\(TextForm.hex(apic.arbitrationPriority, 2))"
    text += " TPR 0x\(TextForm.hex(apic.taskPriority, 2))"
    text += " DFR 0x\(TextForm.hex(apic.destinationFormat, 2))"
    text += " LDR 0x\(TextForm.hex(apic.logicalDestination, 2))"
    return text + " PPR 0x\(TextForm.hex(apic.processorPriority, 2))\n"
  }

  /// One controller of `info pic`, lines with `\n`.
  static func controller(_ controller: HMPInterruptController) -> String {
    switch controller {
    case .pic(let pic):
      return "pic\(pic.index): irr=\(TextForm.hex(pic.requested, 2))"
        + " imr=\(TextForm.hex(pic.masked, 2)) isr=\(TextForm.hex(pic.inService, 2))"
        + " hprio=\(pic.highestPriority) irq_base=\(TextForm.hex(pic.vectorBase, 2))"
        + " rr_sel=\(pic.readsInService ? 1 : 0) elcr=\(TextForm.hex(pic.edgeLevel, 2))"
        + " fnm=\(pic.isFullyNested ? 1 : 0)\n"
    case .ioapic(let ioapic): return ioapicText(ioapic)
    }
  }

  /// One controller of `info irq`, lines with `\n`.
  static func statistics(_ controller: HMPInterruptController) -> String {
    let (name, counts) =
      switch controller {
      case .pic(let pic): ("isa-i8259", pic.statistics)
      case .ioapic(let ioapic): ("ioapic", ioapic.statistics)
      }
    // One listing for the pair of 8259s: the master has the counts of both.
    if counts.isEmpty { return "" }
    var text = "IRQ statistics for \(name):\n"
    for (index, count) in counts.enumerated() where count > 0 {
      text += "\(TextForm.right(String(index), 2)): \(count)\n"
    }
    return text
  }

  // MARK: -

  private static func vectorTableEntry(
    _ name: String, _ entry: UInt32, isTimer: Bool = false
  ) -> String {
    let mode = deliveryModes[Int(entry >> 8 & 7)]
    let timer =
      !isTimer
      ? "" : entry & 1 << 18 != 0 ? "tsc-deadline" : entry & 1 << 17 != 0 ? "periodic" : "one-shot"
    var text = "\(name)\t 0x\(TextForm.hex(entry, 8))"
    text += " \(entry & 1 << 13 != 0 ? "active-lo" : "active-hi")"
    text += " \(TextForm.left(entry & 1 << 15 != 0 ? "level" : "edge", 5))"
    text += " \(TextForm.left(entry & 1 << 16 != 0 ? "masked" : "", 6))"
    text += " \(TextForm.left(entry & 1 << 12 != 0 ? "pending" : "", 7))"
    text += " \(TextForm.left(timer, 12)) \(TextForm.left(mode, 6))"
    return text + (mode == "NMI" ? "\n" : " (vec \(entry & 0xFF))\n")
  }

  /// SDM vol. 3A, 11.5.4: bits 0, 1 and 3; 111 divides by one.
  private static func divisor(_ configuration: UInt32) -> Int {
    let code = configuration & 3 | configuration >> 1 & 4
    return 1 << Int((code + 1) & 7)
  }

  private static func command(_ apic: HMPLocalAPIC) -> String {
    let low = apic.commandLow
    let shorthand = Int(low >> 18 & 3)
    let isLogical = low & 1 << 11 != 0
    var text = "ICR\t 0x\(TextForm.hex(low, 8)) \(isLogical ? "logical" : "physical")"
    text += " \(low & 1 << 15 != 0 ? "level" : "edge")"
    text += " \(low & 1 << 14 != 0 ? "assert" : "de-assert")"
    text += " \(["no-shorthand", "self", "all-self", "all"][shorthand])\n"
    text += "ICR2\t 0x\(TextForm.hex(apic.commandHigh, 8))"
    if shorthand != 0 { return text + "\n" }
    let destination = apic.isX2APIC ? apic.commandHigh : apic.commandHigh >> 24
    let kind = apic.isX2APIC ? "X2APIC ID" : "APIC ID"
    if !isLogical { return text + " cpu \(destination) (\(kind))\n" }
    if !apic.isX2APIC, apic.destinationFormat == 0xF {
      return text + " mask \(binary(destination, 8)) (\(kind))\n"
    }
    let (shift, width): (UInt32, Int) = apic.isX2APIC ? (16, 16) : (4, 4)
    return text + " cluster \(destination >> shift) mask \(binary(destination, width)) (\(kind))\n"
  }

  private static func binary(_ value: UInt32, _ digits: Int) -> String {
    String((0..<digits).reversed().map { value >> UInt32($0) & 1 != 0 ? "1" : "0" as Character })
  }

  private static func vectors(_ name: String, _ bits: [UInt32], _ level: [UInt32]) -> String {
    func isSet(_ words: [UInt32], _ vector: Int) -> Bool {
      vector / 32 < words.count && words[vector / 32] >> UInt32(vector % 32) & 1 != 0
    }
    let set = (0..<256).filter { isSet(bits, $0) }
    if set.isEmpty { return "\(name)\t (none)\n" }
    return "\(name)\t " + set.map { "\($0)\(isSet(level, $0) ? "(level)" : "") " }.joined() + "\n"
  }

  private static func ioapicText(_ ioapic: HMPIOAPIC) -> String {
    let modes = ["fixed", "lowest", "SMI", "...", "NMI", "INIT", "...", "extINT"]
    var text = "ioapic\(ioapic.index): ver=0x\(String(ioapic.version, radix: 16))"
    text += " id=0x\(TextForm.hex(ioapic.id, 2)) sel=0x\(TextForm.hex(ioapic.selector, 2))"
    let pin = Int(ioapic.selector) - 0x10 >> 1
    text += ioapic.selector >= 0x10 ? " (redir[\(pin)])\n" : "\n"
    var remote: UInt32 = 0
    for (index, entry) in ioapic.entries.enumerated() {
      let isLevel = entry & 1 << 15 != 0
      if isLevel, entry & 1 << 14 != 0, index < 32 { remote |= 1 << UInt32(index) }
      text += "  pin \(TextForm.left(String(index), 2)) 0x\(TextForm.hex(entry, 16))"
      text += " dest=\(String(entry >> 56, radix: 16))"
      text += " vec=\(TextForm.left(String(entry & 0xFF), 3))"
      text += " \(entry & 1 << 13 != 0 ? "active-lo" : "active-hi")"
      text += " \(TextForm.left(isLevel ? "level" : "edge", 5))"
      text += " \(TextForm.left(entry & 1 << 16 != 0 ? "masked" : "", 6))"
      text += " \(TextForm.left(modes[Int(entry >> 8 & 7)], 6))"
      text += " \(entry & 1 << 11 != 0 ? "logical" : "physical")\n"
    }
    text += pins("  IRR", ioapic.requested)
    return text + pins("  Remote IRR", remote)
  }

  private static func pins(_ name: String, _ bits: UInt32) -> String {
    let set = (0..<32).filter { bits >> UInt32($0) & 1 != 0 }
    let text = TextForm.left(name, 10) + " "
    if set.isEmpty { return text + "(none)\n" }
    return text + set.map { TextForm.left(String($0), 2) + " " }.joined() + "\n"
  }
}
