import DeviceModel
import Host
import JSON
import Options
import QAPI

// Devices and vCPUs as objects.

extension Machine {
  /// A device with its properties; none can be written once the machine exists.
  func deviceNode(_ placed: PlacedDevice) -> ObjectNode {
    let type = Swift.type(of: placed.device).type
    return ObjectNode(
      type.name,
      properties: { [unowned self] in
        deviceProperties(bus: busPath(type), id: placed.id, type: type.name)
          + type.properties.map { property in
            ObjectProperty(
              property.name, property.type,
              get: { () throws(QAPIError) in
                placed.device.properties.first { $0.name == property.name }?.value.json
                  ?? property.defaultValue?.json ?? .string("")
              },
              set: realizedSetter(property.name, id: placed.id, type: type.name))
          }
      })
  }

  /// What every device has.
  func deviceProperties(bus: String?, id: String?, type: String) -> [ObjectProperty] {
    [
      .link("parent_bus", to: "bus", { bus }),
      .constant("realized", "bool", .bool(true)) { _ throws(QAPIError) in
        throw QAPIError("device '\(type)' cannot be taken out of the machine yet")
      },
      .constant("hotplugged", "bool", .bool(false)),
      .constant("hotpluggable", "bool", .bool(false)),
    ]
  }

  /// Where the bus of a type's devices is.
  private func busPath(_ type: DeviceType) -> String? { nil }

  /// Refuses, with QEMU's sentence.
  func realizedSetter(_ name: String, id: String?, type: String) -> ObjectProperty.Setter {
    { _ throws(QAPIError) in
      let device = id.map { "device '\($0)'" } ?? "anonymous device"
      throw QAPIError(
        "Attempt to set property '\(name)' on \(device) (type '\(type)') after it was realized")
    }
  }

  func cpuNode(_ vcpu: VCPUInfo) -> ObjectNode {
    ObjectNode(
      "\(configuration.cpu?.text.split(separator: ",").first ?? "qemu64")-x86_64-cpu",
      properties: { [unowned self] in
        deviceProperties(bus: nil, id: nil, type: "cpu") + [
          .constant("apic-id", "uint32", vcpu.apicID.rawValue.encoded)
        ]
      })
  }
}

extension PropertyValue {
  /// As `qom-get` shows it.
  var json: JSONValue {
    switch self {
    case .bool(let on): .bool(on)
    case .unsigned(let number), .address(let number): number.encoded
    case .string(let text): .string(text)
    }
  }
}
