package import DeviceModel

/// Where a user's function goes, and what all functions may be told.
package struct PCIPlacement: Sendable {
  package let bus: PCIBus
  package let address: PCIAddress
  /// Function 0 announces that there are more.
  package let isMultifunction: Bool

  package init(bus: PCIBus, address: PCIAddress, isMultifunction: Bool = false) {
    self.bus = bus
    self.address = address
    self.isMultifunction = isMultifunction
  }

  /// Properties of every function on the bus.
  package static let properties = [
    PropertyDescription(
      "addr", "int32", default: .string("-1"),
      "Slot and optional function number, example: 06.0 or 06"),
    PropertyDescription("multifunction", "bool", default: .bool(false), "on/off"),
  ]

  /// Their values.
  package var values: [(name: String, value: PropertyValue)] {
    [("addr", .string(address.description)), ("multifunction", .bool(isMultifunction))]
  }
}

/// A device that is a function on a PCI bus.
package protocol PCIPlaced: Device {
  var placement: PCIPlacement { get }
}
