import DeviceModel
import Devices
import Host
import Options
import Virtio

/// How devices of one type are made from what a user says of them.
struct DeviceRecipe: Sendable {
  let type: DeviceType
  /// Reads the properties and makes the device; it is not realized yet. Throws with QEMU's sentences.
  let make: @MainLoop @Sendable (DeviceAssembly) throws(DeviceError) -> any Device

  init(
    _ type: DeviceType,
    _ make: @escaping @MainLoop @Sendable (DeviceAssembly) throws(DeviceError) -> any Device
  ) {
    self.type = type
    self.make = make
  }
}

/// Every type that `-device` and `device_add` can make. Each family has a table in a file of its own.
enum DeviceTable {
  static let all: [DeviceRecipe] = {
    let usual = [isa, pci, disks, network, virtioSerial].flatMap { $0 }
    let functions = usual.filter {
      $0.type.name.hasPrefix("virtio-") && $0.type.name.hasSuffix("-pci")
    }
    return usual
      + functions.flatMap { recipe in
        VirtioVariant.named.map { DeviceRecipe(recipe.type.variant($0), recipe.make) }
      }
  }()

  static func recipe(_ type: String) -> DeviceRecipe? { all.first { $0.type.name == type } }

  /// The short names of virtio functions: without `-pci`.
  static func alias(of type: String) -> String? {
    type.hasPrefix("virtio-") && type.hasSuffix("-pci") ? String(type.dropLast(4)) : nil
  }

  /// The type that users call `name`.
  static func typeName(_ name: String) -> String {
    all.first { alias(of: $0.type.name) == name }?.type.name ?? name
  }

  /// Where `-device help` lists a type.
  static func category(of type: DeviceType) -> String {
    switch type.name {
    case _ where type.name.hasPrefix("virtio-net"): "Network"
    case _ where type.name.hasPrefix("virtio-blk") || type.name.hasPrefix("ide-"): "Storage"
    case _ where type.name.hasPrefix("virtio-serial") || type.bus == "virtio-serial-bus",
      "isa-serial", "isa-parallel":
      "Input"
    case _ where type.name.hasSuffix("-uhci"): "USB"
    case "ib700": "Watchdog"
    default: "Misc"
    }
  }
}

/// A bus that devices go on, as `bus=` names it.
struct DeviceBus: Equatable, Sendable {
  /// Such as `pci.0`.
  let name: String
  /// The QOM type, which is what a device's type asks for: `PCI`, `ISA`, `virtio-serial-bus`.
  let type: String
  /// The path of the device that has it.
  let owner: String
  /// Whether devices may come and go while the machine runs.
  let isHotpluggable: Bool
  /// How many devices find room; nil for any number that have places.
  var capacity: Int?
}

/// A device that has buses of its own.
protocol DeviceBusOwner: Device {
  /// The buses; `id` is the device's, `name` makes up a bus's name of a type for devices without.
  func buses(id: String?, path: String) -> [DeviceBus]
}

/// What ties a device to something outside of the machine; undone when the device goes.
@MainLoop
protocol DeviceAttachment: AnyObject, Sendable {
  /// The device goes.
  func detach()
  /// The device has not come into being.
  func abandon()
  /// What remains to be done when nothing of the device is under way any more; it may block.
  var ending: (@Sendable () -> Void)? { get }
}

extension DeviceAttachment {
  func abandon() { detach() }
  var ending: (@Sendable () -> Void)? { nil }
}

/// What a recipe makes a device from: the user's properties, and the board around.
@MainLoop
final class DeviceAssembly {
  let board: PCBoard
  let properties: DeviceProperties
  /// The `id=`.
  let id: String?
  /// Where it goes; nil for a device without a bus.
  let bus: DeviceBus?
  /// Made while the machine runs or stands, and not with it.
  let isHotplugged: Bool
  /// Properties for the object tree that the device itself does not know, such as `chardev`.
  var settings: [String: PropertyValue] = [:]
  /// What must be undone when the device goes.
  var attachments: [any DeviceAttachment] = []

  init(
    _ board: PCBoard, _ properties: DeviceProperties, id: String?, bus: DeviceBus?,
    isHotplugged: Bool
  ) {
    self.board = board
    self.properties = properties
    self.id = id
    self.bus = bus
    self.isHotplugged = isHotplugged
  }
}
