import CX86

/// The text of `info jit`: the names that QEMU uses where the thing is the same, then each vCPU on its own.
enum TranslationReport {
  /// One vCPU's numbers, a copy.
  struct VCPU {
    let index: UInt32
    var counters: TranslationCounters
    /// Of the decoded-instruction cache.
    var decodedBlocks: UInt64
    var decodedInstructions: UInt64
    var droppedBlocks: UInt64
    var resets: UInt64
    var usedBytes: Int

    init(
      index: UInt32, counters: TranslationCounters, decodedBlocks: UInt64 = 0,
      decodedInstructions: UInt64 = 0, droppedBlocks: UInt64 = 0, resets: UInt64 = 0,
      usedBytes: Int = 0
    ) {
      self.index = index
      self.counters = counters
      self.decodedBlocks = decodedBlocks
      self.decodedInstructions = decodedInstructions
      self.droppedBlocks = droppedBlocks
      self.resets = resets
      self.usedBytes = usedBytes
    }

    init(_ environment: CoreEnvironment) {
      let blocks = environment.blocks
      var counters = blocks.translations?.counters ?? TranslationCounters()
      counters.nanoseconds = UInt64(
        Double(counters.nanoseconds) * 1e9 / Double(max(HostTSC.frequency, 1)))
      // SAFETY: the state lives as long as the environment.
      counters.tlbFlushes = unsafe environment.state.pointer.pointee.tlbFlushes
      counters.refills = unsafe environment.state.pointer.pointee.tlbRefills
      self.init(
        index: environment.index, counters: counters,
        decodedBlocks: blocks.decodedBlocks, decodedInstructions: blocks.decodedInstructions,
        droppedBlocks: blocks.invalidations, resets: blocks.resets, usedBytes: blocks.usedBytes)
    }
  }

  /// All lines, each with `\n`. `codeCacheBytes` is the bound of each vCPU's code cache.
  static func text(_ vcpus: [VCPU], codeCacheBytes: Int) -> String {
    var sum = TranslationCounters()
    for vcpu in vcpus { sum += vcpu.counters }
    var text = "Translation buffer state:\n"
    func line(_ name: String, _ value: String) {
      let padding = String(repeating: " ", count: max(0, 19 - name.utf8.count))
      text += "\(name)\(padding) \(value)\n"
    }
    line("gen code size", "\(sum.hostBytes)/\(codeCacheBytes * max(vcpus.count, 1))")
    line("TB count", "\(sum.blocks)")
    line(
      "TB avg target size",
      "\(mean(sum.guestBytes, sum.blocks)) bytes"
        + " (\(fraction(sum.guestInstructions, sum.blocks)) instructions)")
    line(
      "TB avg host size",
      "\(mean(sum.hostBytes, sum.blocks)) bytes"
        + " (expansion ratio: \(fraction(sum.hostBytes, sum.guestBytes)))")
    line("TB avg time", "\(fraction(sum.nanoseconds, sum.blocks &* 1000, digits: 2)) us")
    line("direct jump count", "\(sum.links)")
    text += "\nStatistics:\n"
    line("TB flush count", "\(sum.cacheFlushes)")
    line("TB invalidate count", "\(sum.invalidatedBlocks)")
    line("TLB full flushes", "\(sum.tlbFlushes)")
    line("TLB refills", "\(sum.refills)")
    line("dispatches", "\(sum.dispatches)")
    line("slow exits", "\(sum.slowExits)")
    line("interpreted", "\(sum.interpreted) instructions")
    for vcpu in vcpus { text += lines(vcpu) }
    return text
  }

  private static func lines(_ vcpu: VCPU) -> String {
    let c = vcpu.counters
    let time = fraction(c.nanoseconds, c.blocks &* 1000, digits: 2)
    var text = "\nvCPU \(vcpu.index): blocks \(c.blocks), instructions \(c.guestInstructions)"
    text += ", guest bytes \(c.guestBytes), host bytes \(c.hostBytes), \(time) us each\n"
    text += "  links \(c.links), dispatches \(c.dispatches), slow exits \(c.slowExits)"
    text += ", interpreted \(c.interpreted)\n"
    text += "  invalidated blocks \(c.invalidatedBlocks), cache flushes \(c.cacheFlushes)"
    text += ", TLB flushes \(c.tlbFlushes), TLB refills \(c.refills)\n"
    text += "  decoded blocks \(vcpu.decodedBlocks), instructions \(vcpu.decodedInstructions)"
    text += ", dropped blocks \(vcpu.droppedBlocks), flushes \(vcpu.resets)"
    text += ", bytes now \(vcpu.usedBytes)\n"
    return text
  }

  /// The rounded-down quotient; 0 for none.
  private static func mean(_ sum: UInt64, _ count: UInt64) -> UInt64 {
    count == 0 ? 0 : sum / count
  }

  /// A quotient with one or two decimals.
  private static func fraction(_ sum: UInt64, _ count: UInt64, digits: Int = 1) -> String {
    let scale: UInt64 = digits == 1 ? 10 : 100
    if count == 0 { return digits == 1 ? "0.0" : "0.00" }
    let scaled = Double(sum) / Double(count) * Double(scale)
    let value = scaled < 1e15 ? UInt64(scaled.rounded()) : 0
    let rest = String(value % scale)
    return "\(value / scale)." + String(repeating: "0", count: digits - rest.utf8.count) + rest
  }
}
