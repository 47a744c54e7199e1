// The two 8259A interrupt controllers of a PC, cascaded on input 2 (Intel 8259A datasheet, 231468-003), with
// the edge/level control registers of later chipsets (PIIX3 datasheet, 3.2.5).

/// One 8259A.
package struct PICController: Equatable, Sendable, BitwiseCopyable {
  /// Where the initialisation sequence stands (datasheet, figure 6).
  package enum Step: UInt8, Sendable, BitwiseCopyable {
    /// ICW1 was never written: the chip is silent.
    case powerOn
    case icw2, icw3, icw4
    case ready
  }

  /// The master, or the slave whose output is the master's input 2.
  let isMaster: Bool
  /// Levels of the inputs.
  package internal(set) var lines: UInt8 = 0
  /// Rising edges seen and not yet acknowledged.
  var edges: UInt8 = 0
  /// Edge/level control register: set bits are level-triggered.
  package internal(set) var elcr: UInt8 = 0
  /// Interrupt mask register.
  package internal(set) var imr: UInt8 = 0
  /// In-service register.
  package internal(set) var isr: UInt8 = 0
  /// Input of lowest priority: 7 unless rotated.
  package internal(set) var lowestPriority: UInt8 = 7
  /// Vector of input 0.
  package internal(set) var vectorBase: UInt8 = 0
  /// OCW3: the next reads show the in-service instead of the request register.
  package internal(set) var readsISR = false
  /// OCW3: the next read is a poll.
  package internal(set) var isPolled = false
  /// OCW3: only the mask, not what is in service, holds back lower priorities.
  package internal(set) var specialMask = false
  /// ICW4: an acknowledged interrupt is at once no longer in service.
  package internal(set) var autoEOI = false
  /// OCW2: automatic end of interrupt also rotates.
  package internal(set) var rotatesOnAutoEOI = false
  /// ICW4: an interrupt of the slave does not hold back another of the slave.
  package internal(set) var specialFullyNested = false
  /// ICW1: all inputs are level-triggered.
  package internal(set) var allLevel = false
  /// ICW1: no ICW3 follows.
  var isSingle = false
  /// ICW1: an ICW4 follows.
  var needsICW4 = false
  /// Initialisation sequence.
  package internal(set) var step = Step.powerOn

  init(isMaster: Bool) { self.isMaster = isMaster }

  /// Bits of the edge/level register that can be set: not timer, keyboard, cascade, RTC, coprocessor.
  var elcrWritable: UInt8 { isMaster ? 0xF8 : 0xDE }

  /// The interrupt request register.
  package var irr: UInt8 {
    let level = allLevel ? 0xFF : elcr
    // The cascade input follows the slave's output: there is no edge to lose.
    let followed = isMaster ? level | 1 << 2 : level
    return edges & ~followed | lines & followed
  }

  /// The input that would be acknowledged now.
  package var pending: UInt8? {
    let requests = irr & ~imr
    guard step == .ready, requests != 0, let best = highest(requests) else { return nil }
    guard let current = highest(specialMask ? isr & ~imr : isr) else { return best }
    if rank(best) < rank(current) { return best }
    return specialFullyNested && isMaster && best == 2 && current == 2 ? best : nil
  }

  /// The INT pin.
  package var output: Bool { pending != nil }

  /// Position in the present order of priorities, 0 highest.
  private func rank(_ input: UInt8) -> UInt8 { (input &- lowestPriority &- 1) & 7 }

  /// The input of highest priority in `mask`.
  func highest(_ mask: UInt8) -> UInt8? {
    guard mask != 0 else { return nil }
    let first = (lowestPriority &+ 1) & 7
    let rotated = mask >> first | mask << ((8 &- first) & 7)
    return (UInt8(truncatingIfNeeded: rotated.trailingZeroBitCount) &+ first) & 7
  }

  mutating func set(_ input: UInt8, level: Bool) {
    let bit = UInt8(1) << (input & 7)
    if level {
      if lines & bit == 0 { edges |= bit }
      lines |= bit
    } else {
      lines &= ~bit
    }
  }

  /// The effect of an acknowledge cycle on `input`.
  mutating func acknowledge(_ input: UInt8) {
    let bit = UInt8(1) << (input & 7)
    edges &= ~bit
    if autoEOI {
      if rotatesOnAutoEOI { lowestPriority = input & 7 }
    } else {
      isr |= bit
    }
  }

  // MARK: - Registers

  /// A read of port `address` (0 or 1).
  mutating func read(_ address: UInt8) -> UInt8 {
    if isPolled {
      isPolled = false
      guard let input = pending else { return 0 }
      acknowledge(input)
      return 0x80 | input
    }
    if address != 0 { return imr }
    return readsISR ? isr : irr
  }

  /// A write to port `address` (0 or 1).
  mutating func write(_ address: UInt8, _ value: UInt8) {
    switch (address, value & 0x18) {
    case (0, 0x10), (0, 0x18): writeICW1(value)
    case (0, 0x08): writeOCW3(value)
    case (0, _): writeOCW2(value)
    default: writeData(value)
    }
  }

  private mutating func writeICW1(_ value: UInt8) {
    edges = 0
    imr = 0
    isr = 0
    lowestPriority = 7
    readsISR = false
    isPolled = false
    specialMask = false
    autoEOI = false
    rotatesOnAutoEOI = false
    specialFullyNested = false
    needsICW4 = value & 1 != 0
    isSingle = value & 1 << 1 != 0
    allLevel = value & 1 << 3 != 0
    step = .icw2
  }

  private mutating func writeData(_ value: UInt8) {
    switch step {
    case .powerOn, .ready: imr = value
    case .icw2:
      vectorBase = value & 0xF8
      step = isSingle ? (needsICW4 ? .icw4 : .ready) : .icw3
    case .icw3: step = needsICW4 ? .icw4 : .ready
    case .icw4:
      specialFullyNested = value & 1 << 4 != 0
      autoEOI = value & 1 << 1 != 0
      step = .ready
    }
  }

  private mutating func writeOCW2(_ value: UInt8) {
    let input = value & 7
    switch value >> 5 {
    case 0: rotatesOnAutoEOI = false
    case 4: rotatesOnAutoEOI = true
    case 1, 5:
      // Not specific: the highest in service, but in special mask mode none that is masked.
      guard let current = highest(specialMask ? isr & ~imr : isr) else { return }
      isr &= ~(1 << current)
      if value >> 5 == 5 { lowestPriority = current }
    case 3: isr &= ~(1 << input)
    case 7:
      isr &= ~(1 << input)
      lowestPriority = input
    case 6: lowestPriority = input
    default: break
    }
  }

  private mutating func writeOCW3(_ value: UInt8) {
    isPolled = value & 1 << 2 != 0
    if value & 1 << 1 != 0 { readsISR = value & 1 != 0 }
    if value & 1 << 6 != 0 { specialMask = value & 1 << 5 != 0 }
  }
}

/// Pure model of the pair.
package struct PIC: Equatable, Sendable, BitwiseCopyable {
  /// Inputs 0 to 7, ports 0x20, 0x21, 0x4D0.
  package private(set) var master = PICController(isMaster: true)
  /// Inputs 8 to 15, ports 0xA0, 0xA1, 0x4D1.
  package private(set) var slave = PICController(isMaster: false)

  /// The pair after power-on.
  package init() {}

  /// Back to the state after power-on; the inputs keep their levels.
  package mutating func reset() {
    let levels = (master.lines, slave.lines)
    self = PIC()
    master.lines = levels.0 & ~(1 << 2)
    slave.lines = levels.1
  }

  /// INTR towards the boot processor.
  package var output: Bool { master.output }

  /// Sets the level of input `irq`, 0 to 15; 2 is the cascade and has no outside.
  package mutating func set(irq: Int, level: Bool) {
    switch irq {
    case 0, 1, 3...7: master.set(UInt8(irq), level: level)
    case 8...15: slave.set(UInt8(irq - 8), level: level)
    default: return
    }
    cascade()
  }

  /// An interrupt acknowledge cycle: the vector, which is that of input 7 of the chip asked when no request
  /// is left (datasheet, "IR7 default").
  package mutating func acknowledge() -> UInt8 {
    guard let input = master.pending else { return master.vectorBase | 7 }
    master.acknowledge(input)
    guard input == 2 else { return master.vectorBase | input }
    defer { cascade() }
    guard let second = slave.pending else { return slave.vectorBase | 7 }
    slave.acknowledge(second)
    return slave.vectorBase | second
  }

  /// A one-byte read of a port; nil when the port is not one of the pair's.
  package mutating func read(port: UInt16) -> UInt8? {
    defer { cascade() }
    switch port {
    case 0x20, 0x21: return master.read(UInt8(port & 1))
    case 0xA0, 0xA1: return slave.read(UInt8(port & 1))
    case 0x4D0: return master.elcr
    case 0x4D1: return slave.elcr
    default: return nil
    }
  }

  /// A one-byte write of a port; other ports are ignored.
  package mutating func write(port: UInt16, _ value: UInt8) {
    switch port {
    case 0x20, 0x21: master.write(UInt8(port & 1), value)
    case 0xA0, 0xA1: slave.write(UInt8(port & 1), value)
    case 0x4D0: master.elcr = value & master.elcrWritable
    case 0x4D1: slave.elcr = value & slave.elcrWritable
    default: break
    }
    cascade()
  }

  /// The slave's INT pin is the master's input 2.
  private mutating func cascade() { master.set(2, level: slave.output) }
}
