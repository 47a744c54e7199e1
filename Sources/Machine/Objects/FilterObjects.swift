package import DeviceModel
package import Host
import JSON
package import Net
package import QAPI

/// `filter-dump`: the frames of a network backend, written to a file.
@MainLoop
package final class FilterDumpObject: UserObject {
  package let typeName = "filter-dump"
  private let id: String
  private let options: FilterDumpProperties
  private let network: Network
  private var isOn: Bool

  /// Throws what the user is to read.
  package init(
    id: String, _ options: FilterDumpProperties, in network: Network
  ) throws(QAPIError) {
    self.id = id
    self.options = options
    self.network = network
    switch options.status ?? "on" {
    case "on": isOn = true
    case "off": isOn = false
    default:
      throw QAPIError("Invalid value for netfilter status, should be 'on' or 'off'")
    }
    let position = options.position ?? "tail"
    guard ["head", "tail"].contains(position) || position.hasPrefix("id=") else {
      throw QAPIError("Parameter 'position' expects 'head', 'tail' or 'id=<id>'")
    }
    guard options.maxlen != 0 else {
      throw QAPIError("Property 'filter-dump.maxlen' doesn't take value '0'")
    }
  }

  package func complete(in registry: ObjectRegistry) throws(QAPIError) {
    do throws(NetError) {
      try network.addDump(
        id, netdev: options.netdev, path: options.file, limit: options.maxlen ?? 65_536)
    } catch { throw QAPIError(error.message) }
    guard let dump = network.filters[id] else { return }
    dump.isOn = isOn
    dump.looksAtSent = options.queue != .rx
    dump.looksAtReceived = options.queue != .tx
    dump.details =
      "maxlen=\(options.maxlen ?? 65_536),position=\(options.position ?? "tail"),"
      + "status=\(isOn ? "on" : "off"),insert=\((options.insert ?? .behind).rawValue),"
      + "netdev=\(options.netdev),queue=\((options.queue ?? .all).rawValue)"
  }

  package func deleted() { network.removeDump(id) }

  package var objectProperties: [ObjectProperty] {
    [
      .constant("file", "string", .string(options.file)),
      .constant("maxlen", "uint32", .int(Int64(options.maxlen ?? 65_536))),
      .constant("netdev", "string", .string(options.netdev)),
      .constant("queue", "NetFilterDirection", .string((options.queue ?? .all).rawValue)),
      .constant("status", "string", .string(isOn ? "on" : "off")),
      .constant("position", "string", .string(options.position ?? "tail")),
      .constant("insert", "string", .string((options.insert ?? .behind).rawValue)),
    ]
  }
}
