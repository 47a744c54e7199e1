// -cluster, -local-cpu and -shm-path: one machine on several nodes.

internal import Cluster
internal import Host
internal import QAPI

/// One node of a machine that runs on several, from three options.
///
/// `-cluster` says everything. `-local-cpu` and `-shm-path` are the spelling of distributed QEMU: they are translated, and `-cluster` beside them
/// may say the rest (credentials, policies), but not what they say.
enum ClusterOptions {
  private static let how =
    "Give credentials (-cluster tls-creds=ID or -cluster psk=ID, with the object), or say"

  /// The name of a shared-memory object.
  static let sharedMemory: OptionDescriptor.Handler = { state, text, origin throws(OptionError) in
    var name = Substring(text)
    if name.hasPrefix("/dev/shm/") { name = name.dropFirst(9) }
    if name.hasPrefix("/") { name = name.dropFirst() }
    guard !name.isEmpty, !name.contains("/"), name != ".", name != "..", name.utf8.count < 250
    else {
      throw OptionError(
        .invalidValue, origin,
        "'\(text)' is no name of a shared-memory object; give one without slashes inside, such as"
          + " /goliath")
    }
    state.sharedMemory = (String(name), origin)
  }

  /// Fills in `configuration.cluster`, and leaves what belongs to node 0 to node 0.
  static func resolve(
    _ state: ParserState, _ board: HelpCatalog.Machine,
    into configuration: inout LaunchConfiguration
  ) throws(OptionError) {
    let legacy = state.merged(.localCPU)
    let values = state.merged(.cluster)
    guard let origin = (legacy ?? values)?.origin else {
      guard let (_, origin) = state.sharedMemory else { return }
      throw OptionError(
        .conflict, origin, "there is one node only; -local-cpu or -cluster says which ones share it"
      )
    }
    guard board.isPC else {
      throw OptionError(
        .conflict, origin, "machine '\(board.name)' has no vCPUs for several nodes; use a PC")
    }
    var cluster: ClusterConfiguration
    if let legacy {
      cluster = try translate(legacy, values, state, configuration)
    } else if let values {
      cluster = try read(values, state, configuration)
    } else {
      return
    }
    if let values { try refine(&cluster, values, configuration) }
    if let entry = values?["check"], OptionText.boolean(entry.value) != false {
      configuration.clusterCheck = entry.value == "json" ? .json : .on
      guard entry.value == "json" || OptionText.boolean(entry.value) == true else {
        throw OptionError(
          .invalidValue, entry.origin,
          "Parameter 'check' does not accept value '\(entry.value)'; it is on, off or json")
      }
      guard cluster.addresses.count > 1 else {
        throw OptionError(
          .conflict, entry.origin, "the machine runs on one node; there is nothing to compare")
      }
    }
    if cluster.addresses.count == 1 { return }
    try checkCredentials(&cluster, values, legacy)
    configuration.cluster = cluster
    if cluster.memory == .dsm, cluster.homePolicy == .numa { separate(&configuration.smp) }
    if cluster.node != .devices { leaveDevices(&configuration) }
  }

  /// Where nothing else is said, each vCPU has a socket of its own: kernels doubt a socket, and its last cache, that spans nodes of NUMA.
  private static func separate(_ smp: inout SMPConfiguration) {
    if smp.isTopologyGiven { return }
    smp.sockets = smp.maxCPUs
    smp.cores = 1
  }

  // MARK: - Distributed QEMU's spelling

  private static func translate(
    _ legacy: OptionValues, _ values: OptionValues?, _ state: ParserState,
    _ configuration: LaunchConfiguration
  ) throws(OptionError) -> ClusterConfiguration {
    let origin = legacy.origin
    for key in ["node", "vcpus", "peers", "shm-path"] {
      if let entry = values?[key] {
        throw OptionError(
          .conflict, entry.origin, "'\(key)' and -local-cpu exclude each other; leave one out")
      }
    }
    let total = configuration.smp.cpus
    guard let count = legacy.number("cpus"), count > 0 else {
      throw OptionError(
        .invalidValue, origin, "the number of this node's vCPUs is missing; give \(upTo(total))")
    }
    guard count <= UInt64(total) else {
      throw OptionError(
        .invalidValue, legacy["cpus"]?.origin,
        "\(count) vCPUs on this node, and the machine has \(total); give \(upTo(total)), or raise -smp"
      )
    }
    let share = Int(count)
    guard total % share == 0 else {
      throw OptionError(
        .invalidValue, origin,
        "\(total) vCPUs cannot be split into nodes of \(share); uneven splits are written with"
          + " -cluster node=,vcpus=,peers=")
    }
    let nodes = total / share
    let start = legacy.number("start") ?? 0
    guard start < UInt64(total), start % UInt64(share) == 0 else {
      throw OptionError(
        .invalidValue, legacy["start"]?.origin ?? origin,
        "'start' is the first vCPU of this node: one of "
          + list((0..<nodes).map { String($0 * share) }))
    }
    guard nodes <= NodeID.limit else { throw tooMany(nodes, origin) }
    let node = NodeID(rawValue: UInt8(Int(start) / share))
    let id = state.sharedMemory?.name ?? configuration.name.guest ?? "goliath"
    let addresses: [SocketAddress]
    if let entry = legacy["iplist"] {
      // The quotation marks of distributed QEMU's examples are still there when no shell takes them away.
      let peers = entry.value.split { " \t\"".contains($0) }.map(String.init)
      guard peers.count == nodes else {
        throw OptionError(
          .invalidValue, entry.origin,
          "'iplist' has \(peers.count) addresses for \(nodes) nodes (\(total) vCPUs, \(share) each);"
            + " name every node, this one too, in the order of 'start'")
      }
      addresses = try ClusterAddressText.addresses(peers, entry.origin)
    } else {
      // Both ends work it out alone: nothing but the name goes in.
      let folder = "\(PrivateFolder.runtimePath)/\(try folderName(id, origin))"
      addresses = (0..<nodes).map { .unix(path: "\(folder)/node-\($0)") }
    }
    var cluster = ClusterConfiguration(
      id: id, node: node, addresses: addresses,
      vcpus: (0..<share).map { UInt32(Int(start) + $0) }, vcpuCount: total,
      memory: state.sharedMemory == nil ? .dsm : .shm)
    cluster.sharedMemoryName = state.sharedMemory.map { "/\($0.name)" }
    return cluster
  }

  /// The id as a name in a folder, short enough for a socket's path.
  private static func folderName(_ id: String, _ origin: OptionOrigin) throws(OptionError) -> String
  {
    let isPlain =
      id.utf8.count <= 40
      && id.utf8.allSatisfy { byte in
        (0x30...0x39).contains(byte) || (0x41...0x5A).contains(byte) || (0x61...0x7A).contains(byte)
          || byte == UInt8(ascii: "-") || byte == UInt8(ascii: "_") || byte == UInt8(ascii: ".")
      } && !id.hasPrefix(".")
    return isPlain ? id : "x" + SHA256.text(SHA256.hash([UInt8](id.utf8))).prefix(24)
  }

  // MARK: - Our spelling

  private static func read(
    _ values: OptionValues, _ state: ParserState, _ configuration: LaunchConfiguration
  ) throws(OptionError) -> ClusterConfiguration {
    let origin = values.origin
    guard let peers = values["peers"] else {
      throw OptionError(
        .invalidValue, origin,
        "Parameter 'peers' is missing: where each node listens, this one too, as in"
          + " peers=10.0.0.1+10.0.0.2")
    }
    let names = peers.value.split(separator: "+", omittingEmptySubsequences: false).map(String.init)
    guard names.count <= NodeID.limit else { throw tooMany(names.count, peers.origin) }
    let addresses = try ClusterAddressText.addresses(names, peers.origin)
    guard let node = values["node"] else {
      throw OptionError(
        .invalidValue, origin,
        "Parameter 'node' is missing: which of the peers this is, 0 to \(names.count - 1); node 0 has"
          + " the devices")
    }
    guard let number = values.number("node"), number < UInt64(names.count) else {
      throw OptionError(
        .invalidValue, node.origin,
        "there is no node \(node.value); 'peers' names \(names.count), numbered from 0")
    }
    let total = configuration.smp.cpus
    var vcpus: [UInt32] = []
    if let entry = values["vcpus"] {
      vcpus = try ranges(entry, below: total)
    } else {
      guard total % names.count == 0 else {
        throw OptionError(
          .invalidValue, origin,
          "\(total) vCPUs cannot be split evenly over \(names.count) nodes; say which ones are here:"
            + " vcpus=FIRST-LAST")
      }
      let share = total / names.count
      vcpus = (0..<share).map { UInt32(Int(number) * share + $0) }
    }
    let id = configuration.name.guest ?? "goliath"
    var cluster = ClusterConfiguration(
      id: id, node: NodeID(rawValue: UInt8(number)), addresses: addresses, vcpus: vcpus,
      vcpuCount: total, memory: .dsm)
    if let (name, _) = state.sharedMemory {
      cluster.memory = .shm
      cluster.sharedMemoryName = "/\(name)"
    }
    return cluster
  }

  /// `0-1+4`: numbers and ranges of vCPUs.
  private static func ranges(
    _ entry: OptionEntry, below total: Int
  ) throws(OptionError) -> [UInt32] {
    var result: [UInt32] = []
    for part in entry.value.split(separator: "+", omittingEmptySubsequences: false) {
      let ends = part.split(separator: "-", omittingEmptySubsequences: false).map { UInt32($0) }
      guard (1...2).contains(ends.count), let first = ends[0], let last = ends[ends.count - 1],
        first <= last
      else {
        throw OptionError(
          .invalidValue, entry.origin,
          "'\(part)' is no range of vCPUs; write FIRST-LAST or a number, several with '+'")
      }
      guard last < total else {
        throw OptionError(
          .invalidValue, entry.origin,
          "there is no vCPU \(last); -smp makes \(total), numbered from 0")
      }
      for number in first...last {
        guard !result.contains(number) else {
          throw OptionError(.invalidValue, entry.origin, "vCPU \(number) is there twice")
        }
        result.append(number)
      }
    }
    return result.sorted()
  }

  /// What `-cluster` says whichever spelling names the nodes.
  private static func refine(
    _ cluster: inout ClusterConfiguration, _ values: OptionValues,
    _ configuration: LaunchConfiguration
  ) throws(OptionError) {
    if let entry = values["id"] {
      guard OptionText.isIdentifier(entry.value), entry.value.utf8.count <= 63 else {
        throw OptionError(
          .invalidValue, entry.origin,
          "'\(entry.value)' is no name of a cluster: letters, digits, '-', '.', '_', beginning with a"
            + " letter, up to 63")
      }
      cluster.id = entry.value
    }
    if let entry = values["shm-path"] {
      var state = ParserState(catalog: HelpCatalog(machines: []))
      try sharedMemory(&state, entry.value, entry.origin)
      cluster.sharedMemoryName = state.sharedMemory.map { "/\($0.name)" }
      cluster.memory = .shm
    }
    if let entry = values["memory"] {
      cluster.memory = try choice(entry)
      if cluster.memory == .shm, cluster.sharedMemoryName == nil {
        cluster.sharedMemoryName = "/\(cluster.id)"
      } else if cluster.memory == .dsm, cluster.sharedMemoryName != nil {
        throw OptionError(
          .conflict, entry.origin,
          "-shm-path names memory that all nodes share; leave it out, or say memory=shm")
      }
    }
    if let entry = values["transport"] { try checkTransport(entry, cluster) }
    if let entry = values["home"] { cluster.homePolicy = try choice(entry) }
    if let entry = values["on-node-loss"] {
      cluster.lossPolicy = try choice(entry)
      // Better none than one that does something else when it matters.
      guard cluster.lossPolicy != .restore else {
        throw OptionError(
          .invalidValue, entry.origin,
          "on-node-loss=restore needs snapshots of the whole cluster, which cannot be made yet; it is"
            + " 'pause' or 'shutdown'")
      }
    }
    cluster.heartbeatMilliseconds = try number(
      values["heartbeat-ms"], 10...10_000, cluster.heartbeatMilliseconds)
    cluster.leaseMilliseconds = try number(
      values["lease-ms"], 100...600_000, cluster.leaseMilliseconds)
    guard cluster.leaseMilliseconds >= 3 * cluster.heartbeatMilliseconds else {
      throw OptionError(
        .conflict, values["lease-ms"]?.origin ?? values["heartbeat-ms"]?.origin,
        "a lease of \(cluster.leaseMilliseconds) ms ends before three heartbeats of"
          + " \(cluster.heartbeatMilliseconds) ms can be missed; give lease-ms="
          + "\(3 * cluster.heartbeatMilliseconds) or more")
    }
    cluster.joinTimeoutSeconds = try number(
      values["join-timeout"], 1...86_400, cluster.joinTimeoutSeconds)
    cluster.credentials = try credentials(values, configuration) ?? cluster.credentials
  }

  private static func checkTransport(
    _ entry: OptionEntry, _ cluster: ClusterConfiguration
  ) throws(OptionError) {
    let isUnix = cluster.addresses.map { if case .unix = $0 { true } else { false } }
    switch entry.value {
    case "tcp":
      guard !isUnix.contains(true) else {
        throw OptionError(
          .conflict, entry.origin, "a peer is a unix socket; give HOST:PORT, or transport=unix")
      }
    case "unix":
      guard !isUnix.contains(false) else {
        throw OptionError(
          .conflict, entry.origin, "a peer is no unix socket; give unix:PATH, or transport=tcp")
      }
    case "ucx":
      throw OptionError(
        .unsupported, entry.origin, "transport 'ucx' is not supported yet; use tcp or unix")
    default:
      throw OptionError(
        .invalidValue, entry.origin,
        "Parameter 'transport' does not accept value '\(entry.value)'; it is tcp or unix",
        suggestion: Spelling.nearest(to: entry.value, among: ["tcp", "unix"]))
    }
  }

  private static func credentials(
    _ values: OptionValues, _ configuration: LaunchConfiguration
  ) throws(OptionError) -> ClusterConfiguration.Credentials? {
    let given = ["tls-creds", "psk", "insecure"].compactMap { values[$0] }.filter {
      $0.key != "insecure" || values.boolean("insecure") == true
    }
    guard given.count < 2 else {
      throw OptionError(
        .conflict, given[1].origin,
        "'\(given[0].key)' and '\(given[1].key)' exclude each other; leave one out")
    }
    guard let entry = given.first, entry.key != "insecure" else { return nil }
    let wanted = entry.key == "psk" ? "tls-creds-psk" : "tls-creds-x509"
    let object = configuration.objects.first { $0.options.id == entry.value }
    guard let object else {
      throw OptionError(
        .invalidValue, entry.origin,
        "there is no object '\(entry.value)'; make it with -object \(wanted),id=\(entry.value),dir="
      )
    }
    let kind = object.options.branch.kind.rawValue
    guard kind == wanted else {
      throw OptionError(
        .invalidValue, entry.origin,
        "object '\(entry.value)' is a \(kind); '\(entry.key)' takes a \(wanted)")
    }
    return entry.key == "psk" ? .psk(entry.value) : .x509(entry.value)
  }

  /// Refuses a cluster that anybody could join, unless that was asked for.
  private static func checkCredentials(
    _ cluster: inout ClusterConfiguration, _ values: OptionValues?, _ legacy: OptionValues?
  ) throws(OptionError) {
    guard cluster.credentials == .insecure, values?.boolean("insecure") != true else { return }
    let origin = values?["peers"]?.origin ?? legacy?["iplist"]?.origin ?? legacy?.origin
    for (number, address) in cluster.addresses.enumerated() {
      switch address {
      case .inet(let inet) where ClusterAddressText.isLoopback(inet.host): continue
      case .unix(let path):
        if legacy != nil && legacy?["iplist"] == nil { continue }
        let folder = ClusterOptions.folder(of: path)
        if PrivateFolder.isOurs(folder) { continue }
        throw OptionError(
          .conflict, origin,
          "node \(number) listens at '\(path)', whose folder others can enter",
          hints: [
            "Make \(folder) a folder of your own with mode 0700. \(how)",
            "-cluster insecure=on to let everybody who reaches it control the guest.",
          ])
      default:
        throw OptionError(
          .conflict, origin,
          "node \(number) is at \(address.text), and nothing says who may join",
          hints: [
            how, "-cluster insecure=on to let everybody who reaches it control the guest.",
          ])
      }
    }
  }

  private static func folder(of path: String) -> String {
    guard let slash = path.lastIndex(of: "/") else { return "." }
    return slash == path.startIndex ? "/" : String(path[..<slash])
  }

  // MARK: - Values

  private static func choice<Choice: RawRepresentable & CaseIterable>(
    _ entry: OptionEntry
  ) throws(OptionError) -> Choice where Choice.RawValue == String {
    if let choice = Choice(rawValue: entry.value) { return choice }
    let names = Choice.allCases.map(\.rawValue)
    throw OptionError(
      .invalidValue, entry.origin,
      "Parameter '\(entry.key)' does not accept value '\(entry.value)'; it is \(list(names))",
      suggestion: Spelling.nearest(to: entry.value, among: names))
  }

  private static func number(
    _ entry: OptionEntry?, _ range: ClosedRange<UInt64>, _ usual: Int
  ) throws(OptionError) -> Int {
    guard let entry else { return usual }
    guard case .value(let value) = OptionText.number(entry.value), range.contains(value) else {
      throw OptionError(
        .invalidValue, entry.origin,
        "Parameter '\(entry.key)' takes a number from \(range.lowerBound) to \(range.upperBound)")
    }
    return Int(value)
  }

  private static func tooMany(_ count: Int, _ origin: OptionOrigin) -> OptionError {
    OptionError(
      .invalidValue, origin, "\(count) nodes are too many; a cluster has up to \(NodeID.limit)")
  }

  private static func upTo(_ count: Int) -> String { count == 1 ? "1" : "1 to \(count)" }

  private static func list(_ words: [String]) -> String {
    guard words.count > 1, let last = words.last else { return words.first ?? "" }
    return words.dropLast().joined(separator: ", ") + " or " + last
  }

  // MARK: - Nodes other than 0

  /// Devices are node 0's. What the command line says of them here is checked and left out, so that the same options can be given to
  /// all nodes; character devices that no monitor uses would be opened twice.
  private static func leaveDevices(_ configuration: inout LaunchConfiguration) {
    configuration.serials = []
    configuration.parallels = []
    configuration.debugConsole = nil
    configuration.netdevs = []
    configuration.nics = []
    configuration.devices = []
    configuration.blockdevs = []
    configuration.drives = []
    var used = Set(configuration.monitors.map(\.chardev))
    for device in configuration.chardevs.reversed() {
      if case .mux(let mux) = device.backend, used.contains(device.label) {
        used.insert(mux.chardev)
      }
    }
    configuration.chardevs.removeAll { !used.contains($0.label) }
  }
}
