import DeviceModel
import Host
package import JSON
import Machine
import Options
package import QAPI

// schemas/qdev.json

extension MonitorCommands: @MainLoop QdevCommands {
  package func deviceListProperties(typename: String) throws(QAPIError) -> [ObjectPropertyInfo] {
    try TypeCatalog.standard.devicePropertyList(of: typename)
  }

  /// Values are taken as if they had been written on a command line, whatever their JSON type.
  package func deviceAdd(_ arguments: JSONObject) throws(QAPIError) {
    var pairs: [KeyValuePair] = []
    for index in 0..<arguments.count {
      let member = arguments.member(at: index)
      switch member.value {
      case .string(let text): pairs.append(KeyValuePair(member.name, text))
      case .bool(let isOn): pairs.append(KeyValuePair(member.name, isOn ? "on" : "off"))
      case .int, .uint, .double:
        pairs.append(
          KeyValuePair(member.name, String(decoding: member.value.printed(), as: UTF8.self)))
      // Lists and objects are no properties of any device.
      default: break
      }
    }
    let id = pairs.last { $0.key == "id" }?.value
    if let id, !ObjectRegistry.isIdentifier(id) { throw .expects("id", "an identifier") }
    guard let driver = pairs.last(where: { $0.key == "driver" })?.value else {
      throw .missing("driver")
    }
    let properties = pairs.filter { $0.key != "driver" && $0.key != "id" }.map {
      DeviceProperty(name: $0.key, value: .text($0.value))
    }
    let machine = try context.machine
    do throws(DeviceError) {
      try machine.addDevice(
        DeviceConfiguration(
          driver: driver, id: id, properties: properties,
          origin: OptionOrigin(option: "device_add", argument: nil)))
    } catch {
      throw error.forClients
    }
  }

  package func deviceDel(id: String) throws(QAPIError) {
    let machine = try context.machine
    do throws(DeviceError) { try machine.removeDevice(id) } catch { throw error.forClients }
  }
}

extension DeviceError {
  /// The error as a monitor's client gets it.
  var forClients: QAPIError {
    QAPIError(kind == .notFound ? .deviceNotFound : .generic, message)
  }
}
