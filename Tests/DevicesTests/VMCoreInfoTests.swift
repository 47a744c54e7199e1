import DeviceModel
import Devices
import Shm
import Support
import Testing

@Suite struct VMCoreInfoTests {
  private func file(format: UInt8, size: UInt32, address: UInt64) -> [UInt8] {
    [1, 0, format, 0] + (0..<4).map { UInt8(truncatingIfNeeded: size >> ($0 * 8)) }
      + (0..<8).map { UInt8(truncatingIfNeeded: address >> ($0 * 8)) }
  }

  @Test func theGuestSaysWhereItsNoteIs() {
    let place = VMCoreInfo.Location(parsing: file(format: 1, size: 0x1234, address: 0x1_2345_6789))
    #expect(place?.size == 0x1234 && place?.address == GuestAddress(0x1_2345_6789))
  }

  @Test func whatMakesNoSenseIsNotBelieved() {
    for (format, size) in [(0, 100), (2, 100), (1, 0), (1, 11), (1, 1 << 20 + 1)]
      as [(UInt8, UInt32)]
    {
      #expect(VMCoreInfo.Location(parsing: file(format: format, size: size, address: 0)) == nil)
    }
    #expect(VMCoreInfo.Location(parsing: []) == nil)
  }

  @Test func thereIsOneAndAResetForgets() throws {
    let configuration = FwCfg()
    let context = MachineContext(
      ports: AddressSpace(name: "I/O"), deviceMemory: AddressSpace(name: "memory"),
      memory: GuestMemory(), clock: FakeClock(), interrupt: { _ in .unconnected },
      signalMSI: { _, _ in }, request: { _ in })
    let device = VMCoreInfo(configuration)
    try device.realize(in: context)
    #expect(device.location == nil)
    #expect(throws: DeviceError.self) { try VMCoreInfo(configuration).realize(in: context) }
    try configuration.setFile(
      "etc/vmcoreinfo", file(format: 1, size: 64, address: 4096), isWritable: true)
    #expect(device.location?.size == 64)
    device.reset(.warm)
    #expect(device.location == nil)
  }
}
