import DeviceModel
import Devices
import Host
package import Options

/// What `-global` says about the board's own devices. Every entry acts, is warned about, or is an error; none is passed over.
package struct BoardSettings: Equatable, Sendable {
  package var disablesS3 = false
  package var disablesS4 = false
  /// `SLP_TYP` of S4.
  package var s4Value: UInt8 = 2
  /// `mc146818rtc.lost_tick_policy`; nil when not given.
  package var slewsLostTicks: Bool?
  /// Sentences for the user.
  package private(set) var warnings: [String] = []

  package init() {}

  /// Reads `globals`; `created` are the type names of the user's devices. Throws `MachineError` with QEMU's sentences for a property
  /// that the type lacks or a value that it cannot have.
  package init(_ globals: [GlobalProperty], created: [String]) throws(MachineError) {
    for global in globals {
      let text = "\(global.driver).\(global.property)"
      // Devices that may come later, and processors, which the CPU model takes care of.
      if Machine.userDeviceTypes.contains(where: { $0.name == global.driver }) { continue }
      guard let type = BoardSettings.boardTypes.first(where: { $0.name == global.driver }) else {
        if TypeCatalog.standard.type(global.driver, implements: "cpu") { continue }
        warnings.append("global \(text) has invalid class name")
        continue
      }
      do throws(DeviceError) {
        try take(global, type)
      } catch {
        throw MachineError(
          "can't apply global \(text)=\(global.value): \(error.message)", origin: global.origin)
      }
    }
  }

  private mutating func take(_ global: GlobalProperty, _ type: DeviceType) throws(DeviceError) {
    let (name, value) = (global.property, global.value)
    guard let property = type.properties.first(where: { $0.name == name }) else {
      throw DeviceError(.unknownProperty, "Property '\(type.name).\(name)' not found")
    }
    switch (type.name, name) {
    case ("PIIX4_PM", "disable_s3"): disablesS3 = try byte(name, value) != 0
    case ("PIIX4_PM", "disable_s4"): disablesS4 = try byte(name, value) != 0
    case ("PIIX4_PM", "s4_val"): s4Value = try byte(name, value)
    case ("mc146818rtc", "lost_tick_policy"):
      guard ["discard", "slew"].contains(value) else {
        throw DeviceError(
          .badValue, "lost_tick_policy takes 'discard' and 'slew', not '\(value)'")
      }
      slewsLostTicks = value == "slew"
    default:
      // What the device does anyway may be asked for.
      guard BoardSettings.means(value, property.defaultValue) else {
        throw DeviceError(
          .badValue, "property '\(name)' of the board's \(type.name) cannot be changed yet")
      }
    }
  }

  private func byte(_ name: String, _ value: String) throws(DeviceError) -> UInt8 {
    guard case .value(let number) = OptionText.number(value) else {
      throw DeviceError(.badValue, "Parameter '\(name)' expects uint64")
    }
    guard let byte = UInt8(exactly: number) else {
      throw DeviceError(
        .badValue, "Property '\(name)' doesn't take value \(number) (maximum: 255)")
    }
    return byte
  }

  private static func means(_ text: String, _ value: PropertyValue?) -> Bool {
    switch value {
    case .bool(let on): OptionText.boolean(text) == on
    case .unsigned(let number), .address(let number): OptionText.number(text) == .value(number)
    case .string(let string): text == string
    case nil: false
    }
  }

  /// The types that the board itself makes.
  static var boardTypes: [DeviceType] {
    [
      PCIHost.type, I440FX.type, PIIX3.type, PIIX3IDE.type, PIIX4PM.type, RTC.type, PIT.type,
      PCSpeaker.type,
      HPET.type, I8042.type, Port92.type, DMAController.type, FwCfg.type, ParallelPort.type,
    ]
  }
}
