import CPU
import DeviceModel
import Devices
import Host
import JSON
import Options
import PCI
import QAPI
import Virtio

// Devices, vCPUs and buses as objects.

extension Machine {
  /// A device with its properties; none can be written once the machine exists.
  func deviceNode(_ placed: PlacedDevice) -> ObjectNode {
    let type = placed.device.typeInfo
    return ObjectNode(
      type.name,
      properties: { [unowned self] in
        let live = liveProperties(placed)
        return properties(
          ofType: type.name, id: placed.id, bus: busPath(of: placed),
          isHotpluggable: type.isUserCreatable && type.isHotpluggable
            && (type.bus == "PCI" || placed.bus?.isHotpluggable == true),
          isHotplugged: placed.isHotplugged
        ) { [unowned self] in value(of: $0, placed) }.replacing(live)
      },
      children: { [unowned self] in children(of: placed) })
  }

  /// The properties that the type has, with the values that `value` gives, or their defaults.
  func properties(
    ofType type: String, id: String?, bus: String?, isHotpluggable: Bool = false,
    isHotplugged: Bool = false,
    value: @escaping @MainLoop (String) -> JSONValue?
  ) -> [ObjectProperty] {
    TypeCatalog.standard.properties(of: type).compactMap { property in
      let name = property.name
      switch name {
      case "parent_bus": return .link(name, to: "bus", { bus })
      case "realized":
        return .constant(name, "bool", .bool(true)) { _ throws(QAPIError) in
          throw QAPIError("Device '\(id ?? type)' is not hotpluggable")
        }
      case "hotplugged": return .constant(name, "bool", .bool(isHotplugged))
      case "hotpluggable": return .constant(name, "bool", .bool(isHotpluggable))
      default: break
      }
      if property.type.hasPrefix("child<") { return nil }
      let setter: ObjectProperty.Setter = { _ throws(QAPIError) in
        let device = id.map { "device '\($0)'" } ?? "anonymous device"
        throw QAPIError(
          "Attempt to set property '\(name)' on \(device) (type '\(type)') after it was realized")
      }
      let given = value(name)
      if given == nil, name.hasPrefix("legacy-"), property.type == "str" {
        return ObjectProperty(name, "str", set: setter)
      }
      let shown = given ?? property.defaultValue ?? Self.zero(property.type)
      return ObjectProperty(
        name, property.type, isLink: property.type.hasPrefix("link<"), get: { shown },
        set: property.type == "struct tm" ? nil : setter)
    }
  }

  /// What a property of the type has when nothing was said.
  private static func zero(_ type: String) -> JSONValue {
    switch type {
    case "bool": .bool(false)
    case "str", "string": .string("")
    case "OnOffAuto": .string("auto")
    case _ where type.hasPrefix("link<"): .string("")
    case _ where type.hasPrefix("int") || type.hasPrefix("uint") || type == "size": .int(0)
    default: .string("")
    }
  }

  /// A device's value of a property that does not change any more; nil for the type's default.
  private func value(of name: String, _ placed: PlacedDevice) -> JSONValue? {
    let own = placed.device.properties
    let type = placed.device.typeInfo.name
    if name == "addr" || name == "legacy-addr" {
      let text = own.first { $0.name == "addr" }?.value.plainText ?? "00.0"
      if name == "legacy-addr" { return .string(text) }
      let parts = text.split(separator: ".").compactMap { Int64($0, radix: 16) }
      return .int(parts.count == 2 ? parts[0] << 3 | parts[1] : 0)
    }
    if let value = placed.settings[name] { return value.json }
    if let value = own.first(where: { $0.name == name })?.value { return value.json }
    if type == "isa-pcspk", name == "pit" { return path(of: PIT.self).map { .string($0) } }
    return Self.boardValues["\(type).\(name)"] ?? hole(type, name)
  }

  /// What the board decides, and the devices do not tell themselves.
  private static let boardValues: [String: JSONValue] = [
    "mc146818rtc.base_year": 0, "hpet.hpet-intcap": 4, "i8257.pageh-base": -1,
    "isa-pit.iobase": 64,
  ]

  /// The host bridge's windows.
  private func hole(_ type: String, _ name: String) -> JSONValue? {
    guard type == "i440FX-pcihost" else { return nil }
    let map = PCMemoryMap(
      ramSize: configuration.memory.size, limit: configuration.machine.maximumRAMBelow4GiB)
    let above = ((PCMemoryMap.fourGiB + map.highSize + (1 << 30) - 1) >> 30) << 30
    switch name {
    case "pci-hole-start": return map.lowSize.encoded
    case "pci-hole-end": return UInt64(0xFEC0_0000).encoded
    case "pci-hole64-start": return above.encoded
    case "pci-hole64-end": return (above + (2 << 30)).encoded
    default: return nil
    }
  }

  /// What changes while the machine runs.
  private func liveProperties(_ placed: PlacedDevice) -> [ObjectProperty] {
    switch placed.device {
    case let function as VirtioBalloonPCI: function.balloon.objectProperties
    case let rtc as RTC: [ObjectProperty("date", "struct tm", get: { rtc.calendar })]
    case is PIIX4PM:
      [
        .constant("acpi_enable_cmd", "uint8", 241), .constant("acpi_disable_cmd", "uint8", 240),
        .constant("gpe0_blk", "uint32", PIIX4PM.gpeBase.encoded),
        .constant("gpe0_blk_len", "uint32", 4),
        .constant("sci_int", "uint16", PIIX4PM.irq.encoded),
      ]
    default: []
    }
  }

  // MARK: - Below devices

  private func children(of placed: PlacedDevice) -> ObjectNode.Children {
    switch placed.device {
    case is PCIHost:
      return [
        ("pci.0", busNode("PCI")),
        ("ioapic", plainDevice("ioapic", bus: systemBus, ["version": 32])),
      ]
    case is UHCI: return [("\(placed.id ?? "usb").0", busNode("usb-bus"))]
    case let function as any VirtioFunction:
      return [
        ("virtio-bus", busNode("virtio-pci-bus")), ("virtio-backend", backend(placed, function)),
      ]
    case is PIIX3: return [("isa.0", busNode("ISA"))]
    case is PIIX4PM where configuration.machine.smbus: return [("i2c", busNode("i2c-bus"))]
    case is I8042:
      return [
        ("ps2kbd", plainDevice("ps2-kbd", bus: systemBus)),
        ("ps2mouse", plainDevice("ps2-mouse", bus: systemBus)),
      ]
    case is SerialPort:
      let chardev = placed.settings["chardev"]?.json ?? ""
      return [("serial", plainDevice("serial", bus: nil, ["chardev": chardev]))]
    default: return []
    }
  }

  /// The device itself below a virtio function.
  private func backend(_ placed: PlacedDevice, _ function: any VirtioFunction) -> ObjectNode {
    let type = function.backendType
    return ObjectNode(
      type,
      properties: { [unowned self] in
        let live = liveProperties(placed)
        return properties(
          ofType: type, id: nil, bus: "\(placed.path)/virtio-bus",
          isHotpluggable: true, isHotplugged: placed.isHotplugged
        ) { [unowned self] in value(of: $0, placed) }.replacing(live)
      },
      children: { [unowned self] in
        guard let serial = function as? VirtioSerialPCI else { return [] }
        return [(serial.busName, busNode(VirtioSerialPCI.busType, named: serial.busName))]
      })
  }

  private func plainDevice(
    _ type: String, bus: String?, _ values: [String: JSONValue] = [:]
  ) -> ObjectNode {
    ObjectNode(
      type,
      properties: { [unowned self] in
        properties(ofType: type, id: nil, bus: bus, isHotpluggable: bus == nil) { values[$0] }
      })
  }

  /// A bus with links to what sits on it.
  func busNode(_ type: String, named name: String? = nil) -> ObjectNode {
    ObjectNode(
      type,
      properties: { [unowned self] () -> [ObjectProperty] in
        let handler = type == "PCI" ? path(of: PIIX4PM.self) : nil
        let paths = devices.filter { (placed: PlacedDevice) -> Bool in
          let device = placed.device.typeInfo
          let isThere = name == nil || placed.bus?.name == name
          return device.bus == type && isThere
            && TypeCatalog.standard.isConcrete(device.name)
        }.map(\.path)
        return [
          .link("hotplug-handler", to: "hotplug-handler", { handler }),
          // QEMU never marks the bus of the system's own devices.
          .constant("realized", "bool", .bool(type != "System")),
        ]
          + paths.enumerated().map { index, path in
            .link("child[\(index)]", to: "device", { path })
          }
      })
  }

  private var systemBus: String { "/machine/unattached/sysbus" }

  /// Where the bus of a device is.
  private func busPath(of placed: PlacedDevice) -> String? {
    if let bus = placed.bus, bus.type == VirtioSerialPCI.busType {
      return "\(bus.owner)/virtio-backend/\(bus.name)"
    }
    return switch placed.device.typeInfo.bus {
    case "ISA": path(of: PIIX3.self).map { "\($0)/isa.0" }
    case "PCI": path(of: PCIHost.self).map { "\($0)/pci.0" }
    case "System": systemBus
    default: nil
    }
  }

  /// Where the machine's device of a class is.
  func path<Class: Device>(of _: Class.Type) -> String? {
    devices.first { $0.device is Class }?.path
  }
}

extension [ObjectProperty] {
  /// With `others` in the place of those of the same names, or added.
  @MainLoop
  fileprivate func replacing(_ others: [ObjectProperty]) -> [ObjectProperty] {
    var rest = others
    var list: [ObjectProperty] = []
    for property in self {
      if let position = rest.firstIndex(where: { $0.name == property.name }) {
        list.append(rest.remove(at: position))
      } else {
        list.append(property)
      }
    }
    return list + rest
  }
}

extension Balloon {
  /// The guest's reports, and how often they are asked for.
  @MainLoop
  var objectProperties: [ObjectProperty] {
    [
      .value(
        "guest-stats-polling-interval", "int", get: { [unowned self] in Int(pollingInterval) },
        set: { [unowned self] (seconds) throws(QAPIError) in
          guard seconds >= 0 else { throw QAPIError("timer value must be greater than zero") }
          guard seconds <= UInt32.max else { throw QAPIError("timer value is too big") }
          pollingInterval = Int64(seconds)
        }),
      ObjectProperty(
        "guest-stats", "guest statistics",
        get: { [unowned self] in
          let report = statistics
          var stats = JSONObject()
          for (name, value) in zip(BalloonStatistics.names, report.values) {
            stats[name] = value.encoded
          }
          return ["stats": .object(stats), "last-update": .int(report.lastUpdate)]
        }),
    ]
  }
}

// MARK: - Processors

extension Machine {
  /// A vCPU with the properties of its model.
  func cpuNode(_ vcpu: VCPUInfo) -> ObjectNode {
    let model =
      (try? CPUModel.parse(configuration.cpuText)) ?? CPUModel.named("qemu64")
    let type = model?.typeName ?? "qemu64-x86_64-cpu"
    return ObjectNode(
      type,
      properties: { [unowned self] in
        let values = cpuValues(model, vcpu)
        return properties(ofType: type, id: nil, bus: nil, isHotpluggable: true) {
          values[$0]
        }.map { property in
          guard property.name == "crash-information" else { return property }
          return ObjectProperty(
            property.name, property.type,
            get: { () throws(QAPIError) in throw QAPIError("No crash occurred") })
        }
      },
      children: { [unowned self] in
        [("lapic", plainDevice("apic", bus: nil, ["id": .int(Int64(vcpu.apicID.rawValue))]))]
      })
  }

  private func cpuValues(_ model: CPUModel?, _ vcpu: VCPUInfo) -> [String: JSONValue] {
    var values: [String: JSONValue] = [:]
    if let model, let capabilities = cpuCapabilities {
      let realized = model.realized(capabilities)
      for (name, value) in realized.properties { values[name] = value.json }
      values["unavailable-features"] = .array(realized.unavailable.map { .string($0) })
      values["feature-words"] = .array(realized.words.map { Self.word($0, $0.features) })
      values["filtered-features"] = .array(realized.words.map { Self.word($0, $0.filtered) })
    }
    values["memory"] = .string("")
    values["apic-id"] = vcpu.apicID.rawValue.encoded
    values["socket-id"] = vcpu.socket.encoded
    values["die-id"] = vcpu.die.encoded
    values["core-id"] = vcpu.core.encoded
    values["thread-id"] = vcpu.thread.encoded
    return values
  }

  private static func word(_ word: CPUModel.FeatureWordValue, _ features: UInt32) -> JSONValue {
    var object = JSONObject()
    object["cpuid-register"] = .string(word.register)
    if let subleaf = word.subleaf { object["cpuid-input-ecx"] = subleaf.encoded }
    object["cpuid-input-eax"] = word.leaf.encoded
    object["features"] = features.encoded
    return .object(object)
  }
}

extension CPUModel.Property {
  fileprivate var json: JSONValue {
    switch self {
    case .bool(let isOn): .bool(isOn)
    case .unsigned(let number): number.encoded
    case .signed(let number): .int(number)
    case .text(let text): .string(text)
    case .other: .null
    }
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

  fileprivate var plainText: String? {
    if case .string(let text) = self { return text }
    return nil
  }
}

extension RTC {
  /// The guest's date as `struct tm` has it.
  var calendar: JSONValue {
    let now = CalendarTime(seconds: seconds)
    return [
      "tm_year": .int(Int64(now.year - 1900)), "tm_mon": .int(Int64(now.month - 1)),
      "tm_mday": .int(Int64(now.day)), "tm_hour": .int(Int64(now.hour)),
      "tm_min": .int(Int64(now.minute)), "tm_sec": .int(Int64(now.second)),
    ]
  }
}
