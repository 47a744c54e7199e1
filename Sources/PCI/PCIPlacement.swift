package import DeviceModel

/// Where a user's function goes, and what all functions may be told.
package struct PCIPlacement: Sendable {
  package let bus: PCIBus
  package let address: PCIAddress
  /// Function 0 announces that there are more.
  package let isMultifunction: Bool
  /// What `romfile` and its like say.
  package var rom = ROM()
  /// The number that names the function for the guest's system; 0 for none.
  package var acpiIndex: UInt32 = 0

  /// The expansion ROM.
  package struct ROM: Sendable {
    package var file = ""
    /// All ones: as large as it must be.
    package var size: UInt32 = .max
    /// Whether it is at a base address register, and not with the firmware's own files.
    package var hasRegister = true
    /// The image is one that firmware is to run whatever function it names: QEMU's own for this type.
    package var isForAll = false
    /// What is at the register; nil for nothing.
    package var device: PCIROM?

    package init() {}
  }

  package init(bus: PCIBus, address: PCIAddress, isMultifunction: Bool = false) {
    self.bus = bus
    self.address = address
    self.isMultifunction = isMultifunction
  }

  /// Adds the expansion ROM, if there is one, to what the function of these numbers has behind its registers.
  package func add(
    to bars: inout [PCIBarLayout], _ windows: inout [PCIEndpoint.Window], _ identity: PCIIdentity
  ) {
    guard var device = rom.device else { return }
    if rom.isForAll { device = device.naming(identity) }
    bars.append(device.layout)
    windows.append(.init(device.layout, name: "rom", device: device, maximumWidth: 8))
  }

  /// Properties of every function on the bus.
  package static let properties = [
    PropertyDescription(
      "addr", "int32", default: .string("-1"),
      "Slot and optional function number, example: 06.0 or 06"),
    PropertyDescription("multifunction", "bool", default: .bool(false), "on/off"),
    PropertyDescription("romfile", "str"),
    PropertyDescription("romsize", "uint32", default: .unsigned(0xFFFF_FFFF)),
    PropertyDescription("rombar", "uint32", default: .unsigned(1)),
    PropertyDescription("acpi-index", "uint32", default: .unsigned(0)),
  ]

  /// Their values.
  package var values: [(name: String, value: PropertyValue)] {
    [
      ("addr", .string(address.description)), ("romfile", .string(rom.file)),
      ("romsize", .unsigned(UInt64(rom.size))), ("rombar", .unsigned(rom.hasRegister ? 1 : 0)),
      ("multifunction", .bool(isMultifunction)), ("acpi-index", .unsigned(UInt64(acpiIndex))),
    ]
  }
}

/// A device that is a function on a PCI bus.
package protocol PCIPlaced: Device {
  var placement: PCIPlacement { get }
}
