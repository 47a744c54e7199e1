import DeviceModel
import Host
import Machine
import Net
package import QAPI

// schemas/net.json

extension MonitorCommands: @MainLoop NetCommands {
  package func setLink(name: String, up: Bool) throws(QAPIError) {
    let network = try context.machine.network
    do throws(NetError) { try network.setLink(name, up: up) } catch { throw error.forClients }
  }

  package func netdevAdd(_ arguments: Netdev) throws(QAPIError) {
    guard ObjectRegistry.isIdentifier(arguments.id) else { throw .expects("id", "an identifier") }
    let network = try context.machine.network
    do throws(NetError) { try network.add(arguments) } catch {
      if let cause = error.cause { Log.error(cause) }
      throw error.forClients
    }
  }

  package func netdevDel(id: String) throws(QAPIError) {
    let network = try context.machine.network
    guard let entry = network.entry(id) else {
      throw QAPIError(.deviceNotFound, "Device '\(id)' not found")
    }
    guard entry.isRemovable else { throw QAPIError("Device '\(id)' is not a netdev") }
    network.remove(id)
  }

  package func queryRxFilter(name: String?) throws(QAPIError) -> [RxFilterInfo] {
    let network = try context.machine.network
    if let name {
      if let card = network.cards.first(where: { $0.ports.first?.name == name }) {
        guard let filter = card.filter else {
          throw QAPIError("net client(\(name)) doesn't support rx-filter querying")
        }
        return [filter]
      }
      if network.entry(name) != nil { throw QAPIError("net client(\(name)) isn't a NIC") }
      throw QAPIError("invalid net client name: \(name)")
    }
    return network.cards.compactMap(\.filter)
  }

  package func announceSelf(_ arguments: AnnounceParameters) throws(QAPIError) {
    try context.machine.network.announce(arguments)
  }
}

extension NetError {
  /// The error as a monitor's client gets it.
  var forClients: QAPIError { QAPIError(isNotFound ? .deviceNotFound : .generic, message) }
}
