import Host
import Net
import Options
import QAPI

/// Commands about networks.
extension HMPCommandTable {
  static let netCommands = [
    HMPCommand(
      "netdev_add", "netdev:S",
      "[user|tap|socket|stream|dgram|bridge|hubport],id=str[,prop=value][,...]",
      help: "make a network backend, described as for -netdev"
    ) { session, arguments throws(QAPIError) in
      try session.commands.netdevAdd(try NetdevText.parse(arguments.text("netdev") ?? ""))
    },
    HMPCommand(
      "netdev_del", "id:s", "id", help: "remove a network backend",
      completion: { session, _ in
        session.machine.network?.entries.map(\.id) ?? []
      }
    ) { session, arguments throws(QAPIError) in
      try session.commands.netdevDel(id: arguments.text("id") ?? "")
    },
    HMPCommand(
      "set_link", "name:s,up:b", "name on|off",
      help: "plug in or pull the cable of a network card or backend"
    ) { session, arguments throws(QAPIError) in
      try session.commands.setLink(
        name: arguments.text("name") ?? "", up: arguments.flag("up"))
    },
    HMPCommand(
      "hostfwd_add", "arg1:s,arg2:s?",
      "[netdev_id] [tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport",
      help: "lead a port of the host to the guest (user networks)"
    ) { session, arguments throws(QAPIError) in
      let (id, rule) = forwarding(arguments)
      guard let network = session.machine.network else { return }
      do throws(NetError) {
        let user = try network.userBackend(id)
        try user.add(try HostForward(rule), rule)
      } catch { session.print(error.message + "\n") }
    },
    HMPCommand(
      "hostfwd_remove", "arg1:s,arg2:s?", "[netdev_id] [tcp|udp]:[hostaddr]:hostport",
      help: "end the leading of a port of the host to the guest (user networks)"
    ) { session, arguments throws(QAPIError) in
      let (id, rule) = forwarding(arguments)
      guard let network = session.machine.network else { return }
      do throws(NetError) {
        let user = try network.userBackend(id)
        guard let forward = HostForward(removing: rule) else {
          return session.print("invalid format\n")
        }
        session.print(
          "host forwarding rule for \(rule) \(user.remove(forward) ? "removed" : "not found")\n")
      } catch { session.print(error.message + "\n") }
    },
    HMPCommand(
      "announce_self", "interfaces:s?,id:s?", "[interfaces] [id]",
      help: "have network cards tell switches where they are"
    ) { session, arguments throws(QAPIError) in
      try session.commands.announceSelf(
        AnnounceParameters(
          initial: 50, max: 550, rounds: 5, step: 100,
          interfaces: arguments.text("interfaces").map {
            $0.split(separator: ",").map(String.init)
          }, id: arguments.text("id")))
    },
  ]

  static let netInfoCommands = [
    HMPCommand("network", help: "show network cards, backends and hubs", .looks) {
      session, _ throws(QAPIError) in
      session.print(session.machine.network?.text ?? "")
    },
    HMPCommand("usernet", help: "show the connections of user networks", .looks) {
      session, _ throws(QAPIError) in
      session.print(session.machine.network?.userConnections ?? "")
    },
  ]

  @MainLoop
  private static func forwarding(_ arguments: HMPArguments) -> (id: String?, rule: String) {
    let first = arguments.text("arg1") ?? ""
    if let second = arguments.text("arg2") { return (first, second) }
    return (nil, first)
  }
}
