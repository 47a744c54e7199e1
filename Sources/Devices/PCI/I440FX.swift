package import DeviceModel
package import PCI
import Synchronization

/// How one stretch of 0xC0000 to 0xFFFFF is decoded (Intel 82441FX data sheet, 3.2.16).
package struct ShadowSegment: Equatable, Sendable {
  package let start: UInt64
  package let size: UInt64
  /// Reads come from RAM; else from the ROM (or bus) behind it.
  package let readsRAM: Bool
  /// Writes go to RAM; else they are lost.
  package let writesRAM: Bool

  package init(start: UInt64, size: UInt64, readsRAM: Bool, writesRAM: Bool) {
    self.start = start
    self.size = size
    self.readsRAM = readsRAM
    self.writesRAM = writesRAM
  }

  /// The 13 segments, lowest first, that registers 0x59 to 0x5F (PAM0 to PAM6) describe.
  package static func decode(_ pam: [UInt8]) -> [ShadowSegment] {
    func segment(_ start: UInt64, _ size: UInt64, _ nibble: UInt8) -> ShadowSegment {
      ShadowSegment(
        start: start, size: size, readsRAM: nibble & 1 != 0, writesRAM: nibble & 2 != 0)
    }
    var segments: [ShadowSegment] = []
    for index in 1...6 where pam.indices.contains(index) {
      let start = 0xC0000 + UInt64(index - 1) * 0x8000
      segments.append(segment(start, 0x4000, pam[index] & 15))
      segments.append(segment(start + 0x4000, 0x4000, pam[index] >> 4))
    }
    if let first = pam.first { segments.append(segment(0xF0000, 0x10000, first >> 4)) }
    return segments
  }
}

/// Function 0 of the 82441FX host bridge, `i440FX`, 8086:1237: shadow RAM (PAM) and SMRAM registers.
///
/// There is no system management mode: SMRAM is a register that keeps its value.
package final class I440FX: Device, PCIFunction {
  package static let type = DeviceType(
    name: "i440FX", parent: "pci-device", bus: "PCI", description: "Host bridge")
  package static let address = PCIAddress(device: 0)

  private static let pamRegisters = 0x59...0x5F
  private static let smram = 0x72

  private let bus: PCIBus
  private let configuration = Mutex(I440FX.initial())
  /// Called after each change of the shadow registers and at reset, on the writing thread, with no lock held: the board maps memory
  /// accordingly before the write is finished.
  private let pamChanged: @Sendable ([ShadowSegment]) -> Void

  package init(bus: PCIBus, pamChanged: @escaping @Sendable ([ShadowSegment]) -> Void) {
    self.bus = bus
    self.pamChanged = pamChanged
  }

  private static func initial() -> PCIConfiguration {
    var configuration = PCIConfiguration(
      PCIIdentity(vendor: 0x8086, device: 0x1237, revision: 2, classCode: 0x06_0000))
    configuration.set16(PCIConfiguration.Register.command, 0x0006)
    configuration.set16(PCIConfiguration.Register.status, 0x0280)
    configuration.allowWrites(to: 0x40, count: 0xC0)
    configuration.set8(smram, 0x02)
    return configuration
  }

  package var properties: [(name: String, value: PropertyValue)] {
    [("addr", .string(I440FX.address.description))]
  }

  package func realize(in context: MachineContext) throws(DeviceError) {
    try bus.plug(self, at: I440FX.address)
  }

  package func reset(_ kind: ResetKind) {
    configuration.withLock { $0 = I440FX.initial() }
    pamChanged(segments)
  }

  /// The present decoding.
  package var segments: [ShadowSegment] {
    configuration.withLock { ShadowSegment.decode(Array($0.bytes[I440FX.pamRegisters])) }
  }

  /// PAM0 to PAM6. Setting them tells the board as a guest's write does.
  package var shadowRegisters: [UInt8] {
    get { configuration.withLock { Array($0.bytes[I440FX.pamRegisters]) } }
    set {
      for (register, value) in zip(I440FX.pamRegisters, newValue) {
        writeConfiguration(register, width: 1, UInt32(value))
      }
    }
  }

  package func readConfiguration(_ offset: Int, width: Int) -> UInt32 {
    configuration.withLock { $0.read(offset, width: width) }
  }

  package func writeConfiguration(_ offset: Int, width: Int, _ value: UInt32) {
    let changed = configuration.withLock { configuration in
      let before = configuration.bytes[I440FX.pamRegisters]
      configuration.write(offset, width: width, value)
      // Only read and write enable exist in the shadow registers.
      for register in I440FX.pamRegisters {
        configuration.set8(register, configuration.bytes[register] & 0x33)
      }
      return before != configuration.bytes[I440FX.pamRegisters]
    }
    if changed { pamChanged(segments) }
  }
}
