package import DeviceModel
import Devices
import JSON
import Options

/// The properties of one `-device`, checked against its type, with `-global` values underneath.
struct DeviceProperties {
  let type: DeviceType
  private var values: [String: DeviceProperty.Value] = [:]

  /// Throws `DeviceError` with QEMU's sentences for an unknown type, one that is the board's, or an unknown property.
  init(_ wanted: DeviceConfiguration, globals: [GlobalProperty]) throws(DeviceError) {
    guard let type = Machine.userDeviceTypes.first(where: { $0.name == wanted.driver }) else {
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
        guard property.value == .text("isa.0") else {
          throw DeviceError(.badValue, "Bus '\(property.value.plain)' not found")
        }
        continue
      }
      guard isKnown(property.name) else {
        throw DeviceError(
          .unknownProperty, "Property '\(type.name).\(property.name)' not found")
      }
      values[property.name] = property.value
    }
  }

  private func isKnown(_ name: String) -> Bool { type.properties.contains { $0.name == name } }

  func text(_ name: String) -> String? { values[name]?.plain }

  /// An unsigned number, decimal or 0x. Throws `badValue`.
  func number(_ name: String, default value: UInt64) throws(DeviceError) -> UInt64 {
    guard let given = values[name] else { return value }
    if case .json(.int(let number)) = given, number >= 0 { return UInt64(number) }
    let text = given.plain
    let number =
      text.hasPrefix("0x") || text.hasPrefix("0X")
      ? UInt64(text.dropFirst(2), radix: 16) : UInt64(text)
    guard let number else {
      throw DeviceError(
        .badValue, "Parameter '\(name)' expects uint64_t")
    }
    return number
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
    let port = try number("iobase", default: unset)
    let irq = try number("irq", default: unset)
    guard irq == unset || irq < 16 else {
      throw DeviceError(.badValue, "Property '\(type.name).irq' must be below 16")
    }
    return SerialPort(
      index: UInt32(index),
      port: port == unset ? chosen.port : UInt16(truncatingIfNeeded: port),
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
    let port = try number("iobase", default: unset)
    let irq = try number("irq", default: 7)
    guard irq < 16 else {
      throw DeviceError(.badValue, "Property '\(type.name).irq' must be below 16")
    }
    return ParallelPort(
      index: UInt32(index),
      port: port == unset ? standard[Int(index)] : UInt16(truncatingIfNeeded: port),
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
  package nonisolated static var userDeviceTypes: [DeviceType] {
    [SerialPort.type, ParallelPort.type, DebugConsole.type, DebugExit.type, PVPanic.type]
  }
}
