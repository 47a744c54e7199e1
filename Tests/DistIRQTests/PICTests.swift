import DistIRQ
import Testing

@Suite struct PICTests {
  /// A pair as a PC sets it up: vectors 0x20 and 0x28, all unmasked. `icw4` of both.
  static func ready(icw4: UInt8 = 1, masterICW4: UInt8? = nil) -> PIC {
    var pic = PIC()
    pic.write(port: 0x20, 0x11)
    pic.write(port: 0x21, 0x20)
    pic.write(port: 0x21, 0x04)
    pic.write(port: 0x21, masterICW4 ?? icw4)
    pic.write(port: 0xA0, 0x11)
    pic.write(port: 0xA1, 0x28)
    pic.write(port: 0xA1, 0x02)
    pic.write(port: 0xA1, icw4)
    return pic
  }
  static func isr(_ pic: inout PIC, _ port: UInt16 = 0x20) -> UInt8? {
    pic.write(port: port, 0x0B)
    return pic.read(port: port)
  }
  static func irr(_ pic: inout PIC, _ port: UInt16 = 0x20) -> UInt8? {
    pic.write(port: port, 0x0A)
    return pic.read(port: port)
  }

  @Test func isSilentUntilInitialised() {
    var pic = PIC()
    pic.set(irq: 1, level: true)
    #expect(!pic.output)
    pic.write(port: 0x20, 0x11)
    pic.write(port: 0x21, 0x20)
    pic.write(port: 0x21, 0x04)
    #expect(!pic.output)
  }

  @Test(arguments: 0..<16) func everyInputHasItsVector(irq: Int) {
    var pic = Self.ready()
    pic.set(irq: irq, level: true)
    guard irq != 2 else {
      #expect(!pic.output)
      return
    }
    #expect(pic.output)
    #expect(pic.acknowledge() == UInt8(0x20 + irq))
    #expect(!pic.output)
    #expect(Self.isr(&pic) == (irq < 8 ? 1 << UInt8(irq) : 4))
    #expect(Self.isr(&pic, 0xA0) == (irq < 8 ? 0 : 1 << UInt8(irq - 8)))
  }

  @Test func higherPriorityInterruptsLowerOne() {
    var pic = Self.ready()
    pic.set(irq: 6, level: true)
    #expect(pic.acknowledge() == 0x26)
    pic.set(irq: 7, level: true)
    #expect(!pic.output)
    pic.set(irq: 12, level: true)
    #expect(pic.acknowledge() == 0x2C)
    pic.set(irq: 1, level: true)
    #expect(pic.acknowledge() == 0x21)
    for _ in 0..<2 { pic.write(port: 0x20, 0x20) }
    pic.write(port: 0xA0, 0x20)
    #expect(Self.isr(&pic) == 1 << 6)
    pic.write(port: 0x20, 0x20)
    #expect(pic.acknowledge() == 0x27)
  }

  @Test func edgeIsRememberedAndNeedsANewRise() {
    var pic = Self.ready()
    pic.set(irq: 4, level: true)
    pic.set(irq: 4, level: false)
    #expect(pic.acknowledge() == 0x24)
    pic.write(port: 0x20, 0x20)
    #expect(!pic.output)
    pic.set(irq: 4, level: true)
    _ = pic.acknowledge()
    pic.write(port: 0x20, 0x20)
    pic.set(irq: 4, level: true)
    #expect(!pic.output)
  }

  @Test func levelStaysRequestedUntilLowered() {
    var pic = Self.ready()
    pic.write(port: 0x4D0, 0xFF)
    pic.write(port: 0x4D1, 0xFF)
    #expect(pic.read(port: 0x4D0) == 0xF8)
    #expect(pic.read(port: 0x4D1) == 0xDE)
    pic.set(irq: 11, level: true)
    #expect(pic.acknowledge() == 0x2B)
    pic.write(port: 0xA0, 0x20)
    pic.write(port: 0x20, 0x20)
    #expect(pic.acknowledge() == 0x2B)
    pic.set(irq: 11, level: false)
    pic.write(port: 0xA0, 0x20)
    pic.write(port: 0x20, 0x20)
    #expect(!pic.output)
  }

  @Test func spuriousInterruptIsInput7AndNotInService() {
    var pic = Self.ready()
    #expect(pic.acknowledge() == 0x27)
    #expect(Self.isr(&pic) == 0)
    // A slave whose request went away: its input 7, and only the cascade is in service.
    pic.write(port: 0x4D1, 0x08)
    pic.set(irq: 11, level: true)
    pic.write(port: 0xA1, 0x08)
    #expect(!pic.output)
  }

  @Test func maskedInputsAreHeld() {
    var pic = Self.ready()
    pic.write(port: 0x21, 0x10)
    pic.set(irq: 4, level: true)
    #expect(!pic.output)
    #expect(Self.irr(&pic) == 0x10)
    #expect(pic.read(port: 0x21) == 0x10)
    pic.write(port: 0x21, 0)
    #expect(pic.acknowledge() == 0x24)
  }

  @Test func initialisationForgetsEdgesAndMasks() {
    var pic = Self.ready()
    pic.write(port: 0x21, 0xFF)
    pic.set(irq: 4, level: true)
    pic.write(port: 0x20, 0x11)
    #expect(pic.read(port: 0x21) == 0)
    pic.write(port: 0x21, 0x20)
    pic.write(port: 0x21, 0x04)
    pic.write(port: 0x21, 0x01)
    #expect(!pic.output)
    pic.set(irq: 4, level: false)
    pic.set(irq: 4, level: true)
    #expect(pic.output)
  }

  @Test func singleModeWithoutICW4TakesTwoWords() {
    var pic = PIC()
    pic.write(port: 0x20, 0x12)
    pic.write(port: 0x21, 0x40)
    pic.write(port: 0x21, 0x02)
    #expect(pic.read(port: 0x21) == 0x02)
    pic.set(irq: 3, level: true)
    #expect(pic.acknowledge() == 0x43)
  }

  @Test func specificEndClearsThatInput() {
    var pic = Self.ready()
    pic.set(irq: 5, level: true)
    _ = pic.acknowledge()
    pic.set(irq: 3, level: true)
    _ = pic.acknowledge()
    pic.write(port: 0x20, 0x65)
    #expect(Self.isr(&pic) == 1 << 3)
  }

  @Test func automaticEndLeavesNothingInService() {
    var pic = Self.ready(icw4: 3)
    pic.set(irq: 3, level: true)
    #expect(pic.acknowledge() == 0x23)
    #expect(Self.isr(&pic) == 0)
  }

  @Test func rotationMakesTheServedInputLast() {
    var pic = Self.ready()
    pic.set(irq: 3, level: true)
    _ = pic.acknowledge()
    pic.write(port: 0x20, 0xA0)
    pic.set(irq: 1, level: true)
    pic.set(irq: 4, level: true)
    #expect(pic.acknowledge() == 0x24)
    // Specific rotation with end, then setting the priority only.
    pic.write(port: 0x20, 0xE4)
    #expect(Self.isr(&pic) == 0)
    #expect(pic.master.lowestPriority == 4)
    pic.write(port: 0x20, 0xC7)
    #expect(pic.master.lowestPriority == 7)
    #expect(pic.acknowledge() == 0x21)
  }

  @Test func rotationOnAutomaticEnd() {
    var pic = Self.ready(icw4: 3)
    pic.write(port: 0x20, 0x80)
    pic.set(irq: 3, level: true)
    _ = pic.acknowledge()
    #expect(pic.master.lowestPriority == 3)
    pic.write(port: 0x20, 0x00)
    pic.set(irq: 5, level: true)
    _ = pic.acknowledge()
    #expect(pic.master.lowestPriority == 3)
  }

  @Test func specialMaskLetsLowerPrioritiesThrough() {
    var pic = Self.ready()
    pic.set(irq: 3, level: true)
    _ = pic.acknowledge()
    pic.set(irq: 6, level: true)
    #expect(!pic.output)
    pic.write(port: 0x21, 1 << 3)
    #expect(!pic.output)
    pic.write(port: 0x20, 0x68)
    #expect(pic.acknowledge() == 0x26)
    // A non-specific end does not touch the masked input.
    pic.write(port: 0x20, 0x20)
    #expect(Self.isr(&pic) == 1 << 3)
    pic.write(port: 0x20, 0x48)
    #expect(!pic.master.specialMask)
  }

  @Test func specialFullyNestedModeLetsTheSlaveInterruptItself() {
    var nested = Self.ready(masterICW4: 0x11)
    var plain = Self.ready()
    nested.set(irq: 12, level: true)
    plain.set(irq: 12, level: true)
    #expect(nested.acknowledge() == 0x2C && plain.acknowledge() == 0x2C)
    nested.set(irq: 9, level: true)
    plain.set(irq: 9, level: true)
    nested.set(irq: 5, level: true)
    #expect(!plain.output)
    #expect(nested.acknowledge() == 0x29)
    #expect(!nested.output, "a lower priority of the master has to wait")
  }

  @Test func pollAcknowledges() {
    var pic = Self.ready()
    pic.write(port: 0x20, 0x0C)
    #expect(pic.read(port: 0x20) == 0)
    pic.set(irq: 5, level: true)
    pic.write(port: 0x20, 0x0C)
    #expect(pic.read(port: 0x21) == 0x85)
    #expect(Self.isr(&pic) == 1 << 5)
    #expect(!pic.output)
  }

  @Test func portsOfOthersAreNotAnswered() {
    var pic = Self.ready()
    #expect(pic.read(port: 0x22) == nil)
    let before = pic
    pic.write(port: 0x22, 0xFF)
    #expect(pic == before)
  }

  @Test func levelTriggeringOfICW1CoversAllInputs() {
    var pic = PIC()
    pic.write(port: 0x20, 0x1B)
    pic.write(port: 0x21, 0x20)
    pic.write(port: 0x21, 0x01)
    pic.set(irq: 0, level: true)
    #expect(pic.acknowledge() == 0x20)
    pic.write(port: 0x20, 0x20)
    #expect(pic.output)
    pic.set(irq: 0, level: false)
    #expect(!pic.output)
  }

  /// Priorities once more, by trying all inputs in order.
  @Test(arguments: 1...4) func agreesWithANaiveMasterOnRandomTraffic(seed: Int) {
    var generator = SeededWords(seed: UInt64(seed))
    var pic = Self.ready()
    var irr = Set<Int>()
    var isr = Set<Int>()
    var imr = Set<Int>()
    var lowest = 7
    func expected() -> Int? {
      for step in 1...8 {
        let input = (lowest + step) % 8
        if isr.contains(input) { return nil }
        if irr.contains(input) && !imr.contains(input) { return input }
      }
      return nil
    }
    for step in 0..<3_000 {
      let input = [0, 1, 3, 4, 5, 6, 7].randomElement(using: &generator) ?? 0
      switch Int.random(in: 0..<6, using: &generator) {
      case 0, 1:
        pic.set(irq: input, level: false)
        pic.set(irq: input, level: true)
        irr.insert(input)
      case 2:
        let mask = UInt8.random(in: 0...255, using: &generator)
        pic.write(port: 0x21, mask)
        imr = Set((0..<8).filter { mask & 1 << UInt8($0) != 0 })
      case 3, 4:
        guard let next = expected() else { break }
        #expect(pic.acknowledge() == UInt8(0x20 + next), "seed \(seed) step \(step)")
        irr.remove(next)
        isr.insert(next)
      default:
        if Bool.random(using: &generator) {
          pic.write(port: 0x20, 0x60 | UInt8(input))
          isr.remove(input)
        } else {
          pic.write(port: 0x20, 0xC0 | UInt8(input))
          lowest = input
        }
      }
      #expect(pic.output == (expected() != nil), "seed \(seed) step \(step)")
    }
  }
}
