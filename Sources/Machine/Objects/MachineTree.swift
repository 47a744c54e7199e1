package import Chardev
package import DeviceModel
package import Host
import JSON
import Options
import QAPI

// The machine as a tree of objects: what qom-list and qom-get show below /machine and /chardevs.

extension Machine {
  /// `/machine`.
  package var objectNode: ObjectNode {
    if let rootNode { return rootNode }
    let node = ObjectNode(
      "\(configuration.machine.type)-machine",
      properties: { [unowned self] in machineProperties },
      children: { [unowned self] in children(of: "/machine") })
    rootNode = node
    return node
  }

  /// The objects directly below `path`, by the paths of the machine's devices; nodes are kept.
  func children(of path: String) -> ObjectNode.Children {
    let placed = placedNodes
    var list: ObjectNode.Children = []
    if path == "/machine" {
      for name in ["unattached", "peripheral-anon", "peripheral"] {
        list.append((name, container("/machine/\(name)")))
      }
    }
    if path == "/machine/unattached" { list.append(("sysbus", busNode("System"))) }
    for (place, node) in placed where place.dropLast(place.lastName.utf8.count + 1) == path {
      list.append((place.lastName, node))
    }
    return list
  }

  private func container(_ path: String) -> ObjectNode {
    .container { [unowned self] in children(of: path) }
  }

  /// All devices and vCPUs with their paths, in order of the paths' making.
  private var placedNodes: [(path: String, node: ObjectNode)] {
    // vCPUs are made after the board's devices.
    let generation = board.generation &* 4096 &+ group.threads.count
    if let nodes, nodes.generation == generation { return nodes.list }
    var list: [(path: String, node: ObjectNode)] = []
    for vcpu in vcpus { list.append((vcpu.path, cpuNode(vcpu))) }
    for placed in devices
    where TypeCatalog.standard.isConcrete(placed.device.typeInfo.name) {
      list.append((placed.path, deviceNode(placed)))
    }
    nodes = (generation, list)
    return list
  }
}

extension String {
  /// What follows the last slash.
  fileprivate var lastName: String {
    split(separator: "/").last.map(String.init) ?? self
  }
}

extension ChardevRegistry {
  /// `/chardevs`.
  package var objectNode: ObjectNode {
    .container { [unowned self] in
      list.map { device in
        let word = String(device.filename.prefix { $0 != ":" })
        let kind =
          ["unix", "tcp", "telnet", "websocket", "wss", "tn3270", "disconnected", "vsock", "fd"]
            .contains(word) ? "socket" : word
        return (
          device.label,
          ObjectNode(
            "chardev-\(kind)",
            properties: {
              guard kind == "socket" else { return [] }
              return [.constant("connected", "bool", .bool(word != "disconnected"))]
            })
        )
      }
    }
  }
}
