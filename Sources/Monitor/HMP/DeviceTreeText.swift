import DeviceModel
import Host
import Machine
import PCI

/// Devices and buses for `info qtree`, the newest device of a bus first.
@MainLoop
struct DeviceTreeText {
  private let machine: Machine

  init(_ machine: Machine) { self.machine = machine }

  var root: HMPBus {
    var main = HMPBus(name: "main-system-bus", type: "System", devices: devices(onBoard: "System"))
    // Without its bridge the ISA bus hangs from the system, and so does the PCI bus.
    let types = Set(machine.devices.flatMap { machine.buses(of: $0).map(\.type) })
    for (type, name, bridge) in [
      ("ISA", "isa.0", "isabus-bridge"), ("PCI", "pci.0", "i440FX-pcihost"),
    ]
    where !types.contains(type) {
      let members = devices(onBoard: type)
      if members.isEmpty { continue }
      let bus = HMPBus(name: name, type: type, devices: members)
      main.devices.append(HMPDevice(type: bridge, buses: [bus]))
    }
    return main
  }

  /// The board's own devices on its bus of that type, and those that are on none.
  private func devices(onBoard type: String) -> [HMPDevice] {
    machine.devices.reversed().filter { placed in
      placed.busOwner == nil && (placed.device.typeInfo.bus ?? "System") == type
    }.map { device($0) }
  }

  private func device(_ placed: PlacedDevice) -> HMPDevice {
    let type = placed.device.typeInfo
    var own: [String] = []
    var behind: [String] = []
    let backend = machine.backend(of: placed)
    for property in placed.device.properties {
      let text = line(property.name, property.value)
      if backend?.properties.contains(property.name) == true {
        behind.append(text)
      } else {
        own.append(text)
      }
    }
    if type.bus == "PCI" { own += function(placed) }
    let buses = machine.buses(of: placed).map { bus in
      let members = machine.devices.reversed().filter {
        $0.busOwner == placed.path && $0.busName == bus.name
      }.map { device($0) }
      return HMPBus(
        name: bus.name, type: bus.type, devices: members + devices(onBoard: bus.type))
    }
    guard let backend else {
      return HMPDevice(type: type.name, id: placed.id ?? "", lines: own, buses: buses)
    }
    // The device itself is behind the function, on a bus of its own.
    let behindIt = HMPDevice(type: backend.type, lines: behind, buses: buses)
    let bus = HMPBus(name: "virtio-bus", type: "virtio-pci-bus", devices: [behindIt])
    return HMPDevice(type: type.name, id: placed.id ?? "", lines: own, buses: [bus])
  }

  private func line(_ name: String, _ value: PropertyValue) -> String {
    // A PCI address is the one string without quotes.
    if name == "addr", case .string(let address) = value { return "addr = \(address)" }
    switch value {
    case .unsigned(let number), .address(let number):
      return "\(name) = \(number) (0x\(String(number, radix: 16)))"
    default: return "\(name) = \(value.description)"
    }
  }

  /// What the PCI bus says of a function.
  private func function(_ placed: PlacedDevice) -> [String] {
    guard
      case .string(let address)? = placed.device.properties.first(where: { $0.name == "addr" })?
        .value,
      let function = machine.pciFunctions?.first(where: { $0.address.description == address })
    else { return [] }
    func word(_ offset: Int) -> Int {
      Int(function.configuration[offset]) | Int(function.configuration[offset + 1]) << 8
    }
    func hex(_ offset: Int) -> String {
      let digits = String(word(offset), radix: 16)
      return String(repeating: "0", count: 4 - digits.utf8.count) + digits
    }
    let name = PCIClass.description(word(0x0A)) ?? "Class \(hex(0x0A))"
    let bars = function.regions.map { region in
      let address = region.address ?? UInt64.max
      let last = address &+ region.layout.size &- 1
      return "bar \(region.layout.index): \(region.layout.kind == .io ? "i/o" : "mem")"
        + " at 0x\(String(address, radix: 16)) [0x\(String(last, radix: 16))]"
    }
    return [
      "class \(name), addr 00:\(address), pci id \(hex(0)):\(hex(2)) (sub \(hex(0x2C)):\(hex(0x2E)))"
    ] + bars
  }
}
