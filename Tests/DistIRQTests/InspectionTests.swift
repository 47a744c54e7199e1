import DistIRQ
import Testing

@Suite struct InspectionTests {
  @Test func localAPICShowsItsDerivedRegisters() {
    var apic = LocalAPIC.enabled(features: [.cmci])
    apic.put(0xD0, 0x2400_0000)
    apic.put(0xE0, 0)
    apic.put(0x80, 0x20)
    apic.put(0x3E0, 0xB)
    apic.put(0x320, 0x40)
    apic.put(0x380, 1_000, at(0))
    apic.fixed(0x85)
    #expect(apic.logicalDestination == 0x24 && apic.destinationFormatModel == 0)
    #expect(apic.arbitrationPriority == 0x80)
    #expect(apic.versionRegister == 0x0006_0014)
    #expect(apic.currentCount(at: 400) == 600)
    #expect(apic.irr.registers == [0, 0, 0, 0, 1 << 5, 0, 0, 0])
  }

  @Test func ioapicShowsWhatWaits() {
    var io = IOAPIC()
    IOAPICTests.program(&io, 10, 0x1_8050)
    _ = io.set(pin: 10, level: true)
    _ = io.set(pin: 3, level: true)
    #expect(io.requested == IOAPICTests.pin(10))
    IOAPICTests.program(&io, 10, 0x8050)
    #expect(io.requested == [] && io.remoteIRR == IOAPICTests.pin(10))
  }

  @Test func picShowsItsHighestPriority() {
    var pic = PICTests.ready()
    #expect(pic.master.highestPriority == 0)
    pic.write(port: 0x20, 0xC3)
    #expect(pic.master.highestPriority == 4)
  }
}
