package import Host
package import QAPI

/// All network backends, hubs and cards of the process, by name.
@MainLoop
package final class Network {
  /// A backend that was made with `-netdev`, `-net`, `-nic` or `netdev_add`.
  package struct Entry {
    package let id: String
    package let kind: NetClientDriver
    package let backend: any NetBackend
    /// Made with `netdev_add` or `-netdev`: `netdev_del` may remove it.
    package let isRemovable: Bool
  }

  /// Where events go.
  package var onEvent: @MainLoop (Event) -> Void = { _ in }
  /// Takes a descriptor that a client passed (`getfd`); the caller closes it.
  package var descriptorNamed: @MainLoop (String) -> Int32? = { _ in nil }
  /// Opens the character device that a forwarded address of the guest's network leads to: label, what the user wrote, where bytes from it go.
  package var openForward: @MainLoop (String, String) throws(NetError) -> any ForwardTarget = {
    (_, text) throws(NetError) in throw NetError("'\(text)' is not a valid char driver")
  }

  package private(set) var entries: [Entry] = []
  private(set) var hubs: [Int: Hub] = [:]
  package private(set) var cards: [any NetCard] = []
  package private(set) var filters: [String: FrameDump] = [:]
  /// In order of making, as `info network` lists them.
  private var ports: [NetPort] = []
  private var anonymousCount = 0
  private var usedAddresses: [MACAddress: Int] = [:]
  private var announcements: [String: Announcement] = [:]

  package init() {}

  // MARK: - Backends

  /// Makes a backend. Throws with QEMU's sentences; nothing is left then.
  package func add(_ netdev: Netdev, isRemovable: Bool = true) throws(NetError) {
    let id = netdev.id
    guard entry(id) == nil else { throw NetError("Duplicate ID '\(id)' for netdev") }
    let backend = try make(netdev)
    entries.append(
      Entry(id: id, kind: netdev.branch.kind, backend: backend, isRemovable: isRemovable))
    if !(backend is Hub.Member) { ports += backend.ports }
    if case .hubport(let options) = netdev.branch, let other = options.netdev {
      guard let entry = entry(other), let port = backend.ports.first,
        let peer = entry.backend.ports.first
      else {
        remove(id)
        throw NetError("netdev '\(other)' not found")
      }
      if peer.peer != nil {
        remove(id)
        throw NetError("netdev '\(other)' is already in use")
      }
      port.connect(to: peer)
    }
  }

  private func make(_ netdev: Netdev) throws(NetError) -> any NetBackend {
    let id = netdev.id
    switch netdev.branch {
    case .user(let options): return try UserBackend(id, options, in: self)
    case .tap(let options): return try TapBackend(id, options, in: self)
    case .bridge(let options): return try TapBackend(id, bridge: options)
    case .socket(let options): return try SocketBackends.make(id, options, in: self)
    case .stream(let options): return try StreamBackend(id, options, in: self)
    case .dgram(let options): return try DatagramBackend(id, options, in: self)
    case .hubport(let options): return hub(Int(options.hubid)).makePort(id)
    case .nic, .none:
      throw NetError(
        "network backend '\(netdev.branch.kind.rawValue)' is not compiled into this binary")
    }
  }

  package func entry(_ id: String) -> Entry? { entries.first { $0.id == id } }

  /// Removes a backend; a card that uses it loses its link.
  package func remove(_ id: String) {
    guard let index = entries.firstIndex(where: { $0.id == id }) else { return }
    let entry = entries.remove(at: index)
    for port in entry.backend.ports { port.disconnect() }
    entry.backend.close()
    ports.removeAll { port in entry.backend.ports.contains { $0 === port } }
    for (name, filter) in filters where filter.netdev == id {
      filter.close()
      filters[name] = nil
    }
  }

  /// Closes everything at the end of the process.
  package func shutDown() {
    for entry in entries { entry.backend.close() }
    for filter in filters.values { filter.close() }
    entries = []
    filters = [:]
  }

  /// A name for a backend without an id.
  package func anonymousName() -> String {
    while true {
      let digits = String(anonymousCount)
      anonymousCount += 1
      let name = "#net" + String(repeating: "0", count: max(0, 3 - digits.utf8.count)) + digits
      if entry(name) == nil { return name }
    }
  }

  // MARK: - Hubs

  package func hub(_ number: Int) -> Hub {
    if let hub = hubs[number] { return hub }
    let hub = Hub(number)
    hubs[number] = hub
    return hub
  }

  /// Makes a port of the hub for something that has none of its own, and plugs it in.
  package func join(_ port: NetPort, hub number: Int) {
    let member = hub(number).makePort(nil)
    member.port.connect(to: port)
  }

  /// Makes a port of the hub that something takes by its name, which is the answer.
  package func addHubPort(_ number: Int) -> String {
    let member = hub(number).makePort(nil)
    entries.append(
      Entry(id: member.port.name, kind: .hubport, backend: member, isRemovable: false))
    return member.port.name
  }

  /// The names of the backends that the command line asks for, in its order.
  package private(set) var launchNames: [String] = []

  /// Makes a backend of the command line; one without a name gets one, and one for a hub is plugged in there.
  package func launch(_ netdev: Netdev, isAnonymous: Bool, hub: Int?) throws(NetError) {
    var netdev = netdev
    if isAnonymous { netdev.id = anonymousName() }
    try add(netdev)
    launchNames.append(netdev.id)
    if let hub, let port = entry(netdev.id)?.backend.ports.first { join(port, hub: hub) }
  }

  // MARK: - Cards

  /// Plugs a card's ports into the backend `id`. Throws `isNotFound`, or a sentence about it being in use; both as property errors.
  package func connect(_ card: any NetCard, to id: String, property: String) throws(NetError) {
    guard let entry = entry(id) else {
      throw NetError("Property '\(property)' can't find value '\(id)'", isNotFound: true)
    }
    if entry.backend.ports.contains(where: { $0.peer != nil }) {
      throw NetError("Property '\(property)' can't take value '\(id)', it's in use")
    }
    for (mine, other) in zip(card.ports, entry.backend.ports) { mine.connect(to: other) }
  }

  /// How many queues the backend has.
  package func queueCount(_ id: String) -> Int { entry(id)?.backend.ports.count ?? 1 }

  package func register(_ card: any NetCard) {
    cards.append(card)
    ports += card.ports
  }

  package func unregister(_ card: any NetCard) {
    cards.removeAll { $0 === card }
    ports.removeAll { port in card.ports.contains { $0 === port } }
    for port in card.ports {
      if let peer = port.peer, let hub = hubs.values.first(where: { $0.owns(peer) }) {
        port.disconnect()
        hub.removePort(peer)
      } else {
        port.disconnect()
      }
    }
  }

  /// The lowest free address of the series that cards without `mac=` get, or the user's own, noted as used.
  package func claimAddress(_ wanted: MACAddress?) -> MACAddress {
    if let wanted {
      usedAddresses[wanted, default: 0] += 1
      return wanted
    }
    for offset in UInt64(0)..<(256 - 0x56) {
      let address = MACAddress(0x5254_0012_3456 + offset)
      if usedAddresses[address] == nil {
        usedAddresses[address] = 1
        return address
      }
    }
    return MACAddress(0x5254_0012_3456)
  }

  package func releaseAddress(_ address: MACAddress) {
    guard let count = usedAddresses[address] else { return }
    usedAddresses[address] = count > 1 ? count - 1 : nil
  }

  // MARK: - Monitors

  /// `set_link`: all ports of that name, and with a backend its card too. Throws when there is none.
  package func setLink(_ name: String, up: Bool) throws(NetError) {
    let all = allPorts.filter { $0.name == name }
    guard let first = all.first else {
      throw NetError("Device '\(name)' not found", isNotFound: true)
    }
    for port in all { port.isLinkUp = up }
    // A card with a backend of its own shows the backend's link as its own.
    if first.kind != "nic" {
      for port in all {
        if let peer = port.peer, peer.kind == "nic" { peer.isLinkUp = up }
      }
    }
    for port in all {
      port.announceLink()
      if let peer = port.peer { peer.announceLink() }
      port.linkTold()
    }
  }

  private var allPorts: [NetPort] {
    ports + hubs.values.sorted { $0.number < $1.number }.flatMap { $0.members.map(\.port) }
  }

  /// The text of `info network`, lines ending in newlines.
  package var text: String {
    var lines = ""
    for hub in hubs.values.sorted(by: { $0.number < $1.number }) {
      lines += "hub \(hub.number)\n"
      for member in hub.members.reversed() {
        lines += " \\ \(member.port.name)"
        if let peer = member.port.peer {
          lines += ": \(peer.text)\n" + filterLines(peer)
        } else {
          lines += "\n"
        }
      }
    }
    for port in ports {
      if let peer = port.peer, hubs.values.contains(where: { $0.owns(peer) }) { continue }
      let isCard = port.kind == "nic"
      if port.peer == nil || isCard { lines += port.text + "\n" + filterLines(port) }
      if isCard, let peer = port.peer { lines += " \\ \(peer.text)\n" + filterLines(peer) }
    }
    return lines
  }

  private func filterLines(_ port: NetPort) -> String {
    let mine = filters.sorted { $0.key < $1.key }.filter { $0.value.netdev == port.name }
    if mine.isEmpty { return "" }
    return "filters:\n"
      + mine.map { "  - \($0.key): type=filter-dump,file=\($0.value.path),\($0.value.details)\n" }
      .joined()
  }

  /// What QEMU warns of once everything is made.
  package var warnings: [String] {
    var lines: [String] = []
    for hub in hubs.values.sorted(by: { $0.number < $1.number }) {
      let peers = hub.members.compactMap(\.port.peer)
      let cards = peers.count { $0.kind == "nic" }
      if cards > 0, cards == peers.count {
        lines.append("hub \(hub.number) is not connected to host network")
      }
      if cards == 0, !peers.isEmpty { lines.append("hub \(hub.number) with no nics") }
    }
    for port in ports where port.peer == nil && port.index == 0 {
      lines.append("\(port.kind == "nic" ? "nic" : "netdev") \(port.name) has no peer")
    }
    return lines
  }

  /// The user backend of that id, or the only one there is, for port forwarding. Throws with QEMU's sentences.
  package func userBackend(_ id: String?) throws(NetError) -> UserBackend {
    if let id {
      guard let entry = entry(id) else { throw NetError("unrecognized netdev id '\(id)'") }
      guard let user = entry.backend as? UserBackend else {
        throw NetError("'\(id)' isn't a user-mode network")
      }
      return user
    }
    guard let user = entries.lazy.compactMap({ $0.backend as? UserBackend }).first else {
      throw NetError("user mode network stack not in use")
    }
    return user
  }

  /// Every user network: its name and its table of connections.
  package var userConnections: String {
    var text = ""
    for entry in entries {
      guard let user = entry.backend as? UserBackend else { continue }
      let hub = user.ports.first?.peer.flatMap { peer in
        hubs.values.first { $0.owns(peer) }?.number
      }
      text += "Hub \(hub ?? -1) (\(entry.id)):\n" + user.connections
    }
    return text
  }

  /// Starts (or, by its name, replaces) a series of announcements of cards.
  package func announce(_ parameters: AnnounceParameters) {
    let id = parameters.id ?? ""
    announcements[id]?.cancel()
    announcements[id] = Announcement(parameters, self) { [weak self] in
      self?.announcements[id] = nil
    }
  }

  /// Looks at all frames of a backend. Throws with QEMU's sentences.
  package func addDump(
    _ name: String, netdev: String, path: String, limit: UInt32
  ) throws(NetError) {
    guard let entry = entry(netdev) else {
      throw NetError("Parameter 'netdev' expects a network backend id", isNotFound: true)
    }
    guard entry.backend.ports.count == 1, let port = entry.backend.ports.first else {
      throw NetError("multiqueue is not supported")
    }
    let dump = try FrameDump(path, limit: Int(limit), netdev: netdev)
    dump.attach(to: port)
    filters[name] = dump
  }

  package func removeDump(_ name: String) {
    filters.removeValue(forKey: name)?.close()
  }
}

/// Something that takes and gives the bytes of a forwarded connection: a character device.
@MainLoop
package protocol ForwardTarget: AnyObject {
  /// Takes bytes from the guest, all of them.
  func write(_ bytes: [UInt8])
  /// So much waits to go out that the guest should send no more; `drained` follows.
  var isFull: Bool { get }
  /// Bytes for the guest: `room` says how many it takes now.
  func attach(
    room: @escaping @MainLoop () -> Int, deliver: @escaping @MainLoop ([UInt8]) -> Void,
    drained: @escaping @MainLoop () -> Void)
  /// The guest may take more than when `room` was last asked.
  func roomMayHaveGrown()
  func close()
}
