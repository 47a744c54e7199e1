import Host
import JSON
import Machine
import Options
import QAPI

/// Commands about devices.
extension HMPCommandTable {
  static let deviceCommands = [
    HMPCommand(
      "device_add", "device:S?", "driver[,prop=value][,...]",
      help: "put a device into the machine, described as for -device",
      completion: HMPCompleters.deviceTypes
    ) { session, arguments throws(QAPIError) in
      let pairs = KeyValueText.split(arguments.text("device") ?? "", impliedKey: "driver")
      let driver = pairs.last { $0.key == "driver" }?.value
      if let driver, OptionText.isHelp(driver) {
        for line in HelpText.list(Machine.deviceCatalog) { session.print(line + "\n") }
        return
      }
      if let driver, pairs.contains(where: { OptionText.isHelp($0.shortForm ?? "") }) {
        guard let type = Machine.deviceCatalog.first(where: { $0.name == driver }) else {
          throw QAPIError("'\(driver)' is not a valid device model name")
        }
        for line in HelpText.properties(of: type) { session.print(line + "\n") }
        return
      }
      var members = JSONObject()
      for pair in pairs { members[pair.key] = .string(pair.value) }
      do throws(QAPIError) {
        try session.commands.deviceAdd(members)
      } catch {
        guard error.description == "Parameter 'id' expects an identifier" else { throw error }
        session.print(
          "Error: \(error.description)\nIdentifiers consist of letters, digits, '-', '.', '_',"
            + " starting with a letter.\n")
      }
    },
    HMPCommand(
      "device_del", "id:s", "device", help: "take a device out of the machine",
      completion: HMPCompleters.devices
    ) { session, arguments throws(QAPIError) in
      try session.commands.deviceDel(id: arguments.text("id") ?? "")
    },
  ]
}

extension HMPCompleters {
  /// The first argument describes a device, type first.
  static let deviceTypes: HMPCompleter = { _, request in
    request.position == 1 ? Machine.userDeviceTypes.map(\.name) : []
  }

  /// The first argument is a device that a user named.
  static let devices: HMPCompleter = { session, request in
    guard request.position == 1 else { return [] }
    let all = (try? session.commands.qomList(path: "/machine/peripheral")) ?? []
    return all.filter { $0.type.hasPrefix("child<") }.map(\.name)
  }
}
