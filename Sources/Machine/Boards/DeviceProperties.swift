package import DeviceModel
import Devices
import JSON
package import Options

/// The properties of one `-device`, checked against its type, with `-global` values underneath.
struct DeviceProperties {
  let type: DeviceType
  private var values: [String: DeviceProperty.Value] = [:]
  /// The bus that the user names.
  private(set) var bus: String?

  /// Throws `DeviceError` with QEMU's sentences for an unknown type, one that is the board's, or an unknown property.
  init(_ wanted: DeviceConfiguration, globals: [GlobalProperty]) throws(DeviceError) {
    let driver = DeviceTable.typeName(wanted.driver)
    guard let type = Machine.userDeviceTypes.first(where: { $0.name == driver }) else {
      let catalog = TypeCatalog.standard
      if catalog.type(wanted.driver, implements: "device"), !catalog.isConcrete(wanted.driver) {
        throw DeviceError(
          .unknownType, "Parameter 'driver' expects a non-abstract device type")
      }
      if BoardSettings.boardTypes.contains(where: { $0.name == wanted.driver }) {
        throw DeviceError(.unknownType, "Parameter 'driver' expects a pluggable device type")
      }
      throw DeviceError(.unknownType, "'\(wanted.driver)' is not a valid device model name")
    }
    self.type = type
    for global in globals where global.driver == type.name || global.driver == type.parent {
      guard isKnown(global.property) else {
        throw DeviceError(
          .unknownProperty,
          "can't apply global \(global.driver).\(global.property)=\(global.value):"
            + " Property '.\(global.property)' not found")
      }
      values[global.property] = .text(global.value)
    }
    for property in wanted.properties {
      if property.name == "bus" {
        bus = property.value.plain
        continue
      }
      guard isKnown(property.name) else {
        throw DeviceError(
          .unknownProperty, "Property '\(type.name).\(property.name)' not found")
      }
      values[property.name] = property.value
    }
    for (name, value) in values where !type.properties.contains(where: { $0.name == name }) {
      try checkFixed(name, value)
    }
  }

  private func isKnown(_ name: String) -> Bool {
    type.properties.contains { $0.name == name } || qemuProperty(name) != nil
  }

  /// A property that QEMU's type has beyond those that act here.
  private func qemuProperty(_ name: String) -> TypeCatalog.Property? {
    if TypeCatalog.everyDevice.contains(name) { return nil }
    return TypeCatalog.standard.properties(of: type.name).first { $0.name == name }
  }

  /// What makes no difference here, whichever value it has.
  private static let withoutEffect: Set<String> = [
    "ioeventfd", "migrate-extra",
  ]

  /// What does not act may be said to be as it is.
  private func checkFixed(
    _ name: String, _ value: DeviceProperty.Value
  ) throws(DeviceError) {
    guard let property = qemuProperty(name) else { return }
    let isDefault: Bool
    switch property.type {
    case "bool":
      let isOn = try flag(name, default: false)
      isDefault = isOn == (property.defaultValue?.boolValue ?? false)
    case let word where word.hasPrefix("uint") || word.hasPrefix("int") || word == "size":
      let standard = property.defaultValue?.intValue ?? 0
      // Some defaults are all ones.
      isDefault = try number(name, default: 0) == UInt64(truncatingIfNeeded: standard)
    default: isDefault = value.plain == property.defaultValue?.stringValue ?? ""
    }
    guard isDefault || DeviceProperties.withoutEffect.contains(name) else {
      throw DeviceError(
        .badValue, "property '\(name)' of \(type.name) cannot be changed from its default yet")
    }
  }

  func text(_ name: String) -> String? { values[name]?.plain }

  /// The value as it was written.
  func value(_ name: String) -> DeviceProperty.Value? { values[name] }

  /// A switch. Throws `badValue`.
  func flag(_ name: String, default value: Bool) throws(DeviceError) -> Bool {
    guard let text = text(name) else { return value }
    guard let isOn = OptionText.boolean(text) else {
      throw DeviceError(.badValue, "Parameter '\(name)' expects 'on' or 'off'")
    }
    return isOn
  }

  /// A size in bytes, with a unit if the user likes. Throws `badValue`.
  func size(_ name: String, default value: UInt64) throws(DeviceError) -> UInt64 {
    guard let given = values[name] else { return value }
    guard case .value(let number) = OptionText.size(given.plain) else {
      throw DeviceError(.badValue, "Parameter '\(name)' expects size")
    }
    return number
  }

  /// An unsigned number, decimal or 0x. Throws `badValue`.
  func number(_ name: String, default value: UInt64) throws(DeviceError) -> UInt64 {
    guard let given = values[name] else { return value }
    let width =
      type.properties.first { $0.name == name }?.type ?? qemuProperty(name)?.type ?? "uint64"
    guard case .value(let number) = OptionText.number(given.plain) else {
      throw DeviceError(.badValue, "Parameter '\(name)' expects integer")
    }
    let largest: UInt64 =
      switch width {
      case "uint8": UInt64(UInt8.max)
      case "uint16": UInt64(UInt16.max)
      case "uint32": UInt64(UInt32.max)
      default: UInt64.max
      }
    guard number <= largest else {
      throw DeviceError(.badValue, "Parameter '\(name)' expects \(width)_t")
    }
    return number
  }

  /// An I/O port that may be left to the board, which all ones stand for. Throws `badValue`.
  private func portOrUnset(_ name: String, else standard: UInt16) throws(DeviceError) -> UInt16 {
    let number = try number(name, default: 0xFFFF_FFFF)
    return number == 0xFFFF_FFFF ? standard : try port(name, default: standard)
  }

  /// What the serial port model has in one form only.
  private func checkSerial() throws(DeviceError) {
    guard try number("baudbase", default: 115_200) == 115_200 else {
      throw DeviceError(.badValue, "'baudbase' is 115200 and cannot be changed yet")
    }
    guard let wakeup = text("wakeup") else { return }
    guard let isOn = OptionText.boolean(wakeup) else {
      throw DeviceError(.badValue, "Parameter 'wakeup' expects 'on' or 'off'")
    }
    if isOn { throw DeviceError(.badValue, "'wakeup=on' is not supported yet") }
  }

  func port(_ name: String, default value: UInt16) throws(DeviceError) -> UInt16 {
    let number = try number(name, default: UInt64(value))
    guard let port = UInt16(exactly: number) else {
      throw DeviceError(
        .badValue, "Property '\(type.name).\(name)' doesn't take value \(number) (maximum: 65535)")
    }
    return port
  }

  /// The serial port that the properties describe; without `index` or `iobase` the first free one.
  func makeSerialPort(next: UInt32) throws(DeviceError) -> SerialPort {
    let unset: UInt64 = 0xFFFF_FFFF
    var index = try number("index", default: unset)
    if index == unset { index = UInt64(next) }
    let standard = SerialPort.standard
    guard index < UInt64(standard.count) else {
      throw DeviceError(
        .badValue, "Max. supported number of ISA serial ports is \(standard.count).")
    }
    let chosen = standard[Int(index)]
    try checkSerial()
    let port = try portOrUnset("iobase", else: chosen.port)
    let irq = try number("irq", default: unset)
    guard irq == unset || irq < 16 else {
      throw DeviceError(.badValue, "Property '\(type.name).irq' must be below 16")
    }
    return SerialPort(
      index: UInt32(index),
      port: port,
      irq: irq == unset ? chosen.irq : UInt32(irq))
  }
}

extension DeviceProperties {
  /// The parallel port that the properties describe; without `index` or `iobase` the first free one.
  func makeParallelPort(next: UInt32) throws(DeviceError) -> ParallelPort {
    let unset: UInt64 = 0xFFFF_FFFF
    var index = try number("index", default: unset)
    if index == unset { index = UInt64(next) }
    let standard = ParallelPort.standard
    guard index < UInt64(standard.count) else {
      throw DeviceError(
        .badValue, "Max. supported number of parallel ports is \(standard.count).")
    }
    let port = try portOrUnset("iobase", else: standard[Int(index)])
    let irq = try number("irq", default: 7)
    guard irq < 16 else {
      throw DeviceError(.badValue, "Property '\(type.name).irq' must be below 16")
    }
    return ParallelPort(
      index: UInt32(index),
      port: port,
      irq: UInt32(irq))
  }
}

extension DeviceProperty.Value {
  /// The value as text, however it was written.
  var plain: String {
    switch self {
    case .text(let text), .json(.string(let text)): text
    case .json(.bool(let on)): on ? "on" : "off"
    case .json(.int(let number)): String(number)
    case .json: ""
    }
  }
}

extension Machine {
  /// The types that `-device` can make.
  package nonisolated static var userDeviceTypes: [DeviceType] { DeviceTable.all.map(\.type) }

  /// The same, as help lists them.
  package nonisolated static var deviceCatalog: [HelpCatalog.Device] {
    userDeviceTypes.map { type in
      HelpCatalog.Device(
        name: type.name, bus: type.bus, alias: DeviceTable.alias(of: type.name),
        description: type.description, category: DeviceTable.category(of: type),
        properties: type.properties.map {
          HelpCatalog.Property(
            name: $0.name, type: $0.type, description: $0.description,
            defaultValue: $0.defaultValue?.description)
        })
    }
  }
}
