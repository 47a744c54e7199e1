import DeviceModel
import PCI
import Shm

/// The registers of a function's modern interface (virtio 1.1, 4.1.4.3), as a driver uses them.
struct DriverRegisters {
  /// Where a queue's parts are.
  struct Ring {
    let descriptors: UInt64
    let available: UInt64
    let used: UInt64
  }

  let devices: AddressSpace
  /// Where the function's memory is mapped.
  var window: UInt64 = 0xC000_0000

  func write(_ offset: UInt64, _ width: Int, _ value: UInt64) {
    devices.write(window + offset, width: width, value, vcpu: VCPUID(0))
  }
  func read(_ offset: UInt64, _ width: Int) -> UInt64 {
    devices.read(window + offset, width: width, vcpu: VCPUID(0))
  }

  /// Resets, negotiates `features` beside VERSION_1, sets up a queue of `size` entries for each ring, and starts.
  func start(features: UInt64, _ rings: [Ring], size: UInt16 = 8) {
    write(0x14, 1, 0)
    write(0x14, 1, 3)
    write(0x08, 4, 0)
    write(0x0C, 4, features & 0xFFFF_FFFF)
    write(0x08, 4, 1)
    write(0x0C, 4, 1)
    write(0x14, 1, 11)
    for (number, ring) in rings.enumerated() {
      write(0x16, 2, UInt64(number))
      write(0x18, 2, UInt64(size))
      write(0x20, 4, ring.descriptors)
      write(0x28, 4, ring.available)
      write(0x30, 4, ring.used)
      write(0x1C, 2, 1)
    }
    write(0x14, 1, 15)
  }

  /// Whether the device wants a reset because the rules were broken.
  var isBroken: Bool { read(0x14, 1) & 64 != 0 }
}

/// Several functions of one machine, device 4 of the bus and the ones behind it: each has its registers in a window of its own.
extension DriverRegisters {
  private static func window(_ index: UInt8) -> UInt64 { 0xC000_0000 + UInt64(index) << 16 }

  init(of index: UInt8, in devices: AddressSpace) {
    self.init(devices: devices, window: DriverRegisters.window(index))
  }

  /// Maps all BARs of a function, as firmware does: its registers, those of MSI-X, and ports.
  static func map(_ index: UInt8, of bus: PCIBus) {
    let function = bus.function(at: PCIAddress(device: 4 + index))
    function?.writeConfiguration(0x20, width: 4, UInt32(window(index)))
    function?.writeConfiguration(0x24, width: 4, 0)
    function?.writeConfiguration(0x14, width: 4, 0xD000_0000 + UInt32(index) << 16)
    function?.writeConfiguration(0x10, width: 4, 0xC000 + UInt32(index) << 8)
    function?.writeConfiguration(0x04, width: 4, 7)
  }
}
