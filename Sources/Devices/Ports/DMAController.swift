package import DeviceModel
import Synchronization

/// The two 8237 DMA controllers of a PC with their page registers (Intel 8237A-5 data sheet): registers only.
///
/// No device here uses ISA DMA, so channels never transfer; firmware and kernels initialise them and read back what they wrote.
package struct DMAControllerModel: Equatable, Sendable {
  /// Base and current address and count of one channel.
  package struct Channel: Equatable, Sendable {
    package var baseAddress: UInt16 = 0
    package var baseCount: UInt16 = 0
    package var address: UInt16 = 0
    package var count: UInt16 = 0
    package var mode: UInt8 = 0
  }
  package var channels = [Channel](repeating: Channel(), count: 4)
  private var command: UInt8 = 0
  private var mask: UInt8 = 0x0F
  private var requests: UInt8 = 0
  private var highByteNext = false

  package init() {}

  /// `register` 0 to 15, whatever the distance of the ports.
  package mutating func read(_ register: Int) -> UInt8 {
    switch register {
    case 0...7:
      let channel = channels[register / 2]
      let value = register & 1 == 0 ? channel.address : channel.count
      defer { highByteNext.toggle() }
      return UInt8(truncatingIfNeeded: highByteNext ? value >> 8 : value)
    case 8: return requests << 4
    case 15: return mask | 0xF0
    default: return 0
    }
  }

  package mutating func write(_ register: Int, _ value: UInt8) {
    switch register {
    case 0...7: writeChannel(register, value)
    case 8: command = value
    case 9:
      let bit = UInt8(1) << (value & 3)
      requests = value & 4 != 0 ? requests | bit : requests & ~bit
    case 10:
      let bit = UInt8(1) << (value & 3)
      mask = value & 4 != 0 ? mask | bit : mask & ~bit
    case 11: channels[Int(value & 3)].mode = value
    case 12: highByteNext = false
    case 13: self = DMAControllerModel(keeping: channels)
    case 14: mask = 0
    default: mask = value & 0x0F
    }
  }

  /// Master clear leaves the channels' registers.
  private init(keeping channels: [Channel]) { self.channels = channels }

  private mutating func writeChannel(_ register: Int, _ value: UInt8) {
    func merged(_ old: UInt16) -> UInt16 {
      highByteNext ? old & 0x00FF | UInt16(value) << 8 : old & 0xFF00 | UInt16(value)
    }
    let index = register / 2
    if register & 1 == 0 {
      channels[index].baseAddress = merged(channels[index].baseAddress)
      channels[index].address = channels[index].baseAddress
    } else {
      channels[index].baseCount = merged(channels[index].baseCount)
      channels[index].count = channels[index].baseCount
    }
    highByteNext.toggle()
  }
}

/// One 8237 on the ISA bus, `i8257` (the name that QEMU gives its model): the first at 0x00, the second at 0xC0 with doubled distances.
package final class DMAController: Device, BusDevice {
  package static let type = DeviceType(
    name: "i8257", parent: "isa-device", bus: "ISA", description: "",
    properties: [
      PropertyDescription("base", "int32", default: .unsigned(0)),
      PropertyDescription("dshift", "int32", default: .unsigned(0)),
      PropertyDescription("page-base", "int32", default: .unsigned(0x80)),
      PropertyDescription("pageh-base", "int32", default: .unsigned(0x480)),
    ])

  private let base: UInt16
  private let shift: Int
  private let pageBase: UInt16
  private let model = Mutex(DMAControllerModel())
  private let pages = [PageRegisters(), PageRegisters()]

  /// `second` chooses channels 4 to 7.
  package init(second: Bool) {
    base = second ? 0xC0 : 0
    shift = second ? 1 : 0
    pageBase = second ? 0x88 : 0x80
  }

  package var properties: [(name: String, value: PropertyValue)] {
    [
      ("base", .address(UInt64(base))), ("page-base", .address(UInt64(pageBase))),
      ("dshift", .unsigned(UInt64(shift))),
    ]
  }

  package func realize(in context: MachineContext) throws(DeviceError) {
    let start = UInt64(base)
    context.ports.add(
      BusRegion(
        name: "dma-chan", start: start, size: 16 << UInt64(shift), device: self, maximumWidth: 1))
    let ranges: [(offset: UInt64, size: UInt64)] = [(1, 3), (7, 1)]
    for (range, registers) in zip(ranges, pages) {
      context.ports.add(
        BusRegion(
          name: "dma-page", start: UInt64(pageBase) + range.offset, size: range.size,
          device: registers, maximumWidth: 1))
    }
  }

  package func reset(_ kind: ResetKind) { model.withLock { $0 = DMAControllerModel() } }

  package func read(_ access: BusAccess) -> UInt64 {
    let register = Int(truncatingIfNeeded: access.offset) >> shift & 15
    return UInt64(model.withLock { $0.read(register) })
  }

  package func write(_ access: BusAccess, _ value: UInt64) {
    let register = Int(truncatingIfNeeded: access.offset) >> shift & 15
    model.withLock { $0.write(register, UInt8(truncatingIfNeeded: value)) }
  }
}

/// A run of page registers (address bits 16 to 23 of a transfer): plain storage.
private final class PageRegisters: BusDevice {
  private let values = Mutex([UInt8](repeating: 0, count: 4))

  func read(_ access: BusAccess) -> UInt64 {
    UInt64(values.withLock { $0[Int(access.offset & 3)] })
  }

  func write(_ access: BusAccess, _ value: UInt64) {
    values.withLock { $0[Int(access.offset & 3)] = UInt8(truncatingIfNeeded: value) }
  }
}
