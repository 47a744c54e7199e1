// -netdev, -nic, -net.

internal import JSON
package import QAPI

enum NetOptions {
  static let netdev: OptionDescriptor.Handler = { state, text, origin throws(OptionError) in
    if text.hasPrefix("{") {
      let value: JSONValue
      do throws(JSONError) { value = try JSONValue(parsing: text) } catch {
        throw OptionError(.invalidValue, origin, error.text)
      }
      let netdev = try decode(value, .json, origin)
      state.jsonNetdevs[state.list(.netdev).count] = netdev
      return try state.add([], id: netdev.id, to: .netdev, origin)
    }
    if wantsHelp(text) {
      state.help = .netBackends
      return
    }
    try state.add(text, to: .netdev, origin: origin)
  }

  static let net: OptionDescriptor.Handler = { state, text, origin throws(OptionError) in
    if wantsHelp(text) {
      state.help = .netBackends
      return
    }
    if try asksForModels(text, &state) { return }
    try state.add(text, to: .net, origin: origin)
  }

  static let nic: OptionDescriptor.Handler = { state, text, origin throws(OptionError) in
    if wantsHelp(text) {
      state.help = .netBackends
      return
    }
    if try asksForModels(text, &state) { return }
    try state.add(text, to: .nic, origin: origin)
  }

  private static func wantsHelp(_ text: String) -> Bool {
    let first = KeyValueText.split(text, impliedKey: "type").first
    return OptionText.isHelp(first?.value ?? "") && first?.key == "type"
  }

  private static func asksForModels(
    _ text: String, _ state: inout ParserState
  ) throws(OptionError) -> Bool {
    let pairs = KeyValueText.split(text, impliedKey: "type")
    guard let model = pairs.last(where: { $0.key == "model" }), OptionText.isHelp(model.value)
    else { return false }
    state.help = .netModels
    return true
  }

  /// Fills in backends and cards in QEMU's order of making: `-netdev`, `-nic`, `-net`.
  static func resolve(
    _ state: ParserState, into configuration: inout LaunchConfiguration
  ) throws(OptionError) {
    for (position, values) in state.list(.netdev).enumerated() {
      let netdev: Netdev
      if let given = state.jsonNetdevs[position] {
        netdev = given
      } else {
        netdev = try decode(values)
      }
      configuration.netdevs.append(NetdevConfiguration(netdev: netdev, origin: values.origin))
    }
    for values in state.list(.nic) { try addCard(values, &configuration) }
    for values in state.list(.net) { try addToHub(values, &configuration) }
  }

  /// `-nic`: a backend and a card of its own.
  private static func addCard(
    _ values: OptionValues, _ configuration: inout LaunchConfiguration
  ) throws(OptionError) {
    if values.string("type") == "none" { return }
    let mac = values.string("mac")
    if let mac, !isAddress(mac) {
      throw OptionError(
        .invalidValue, values.origin, "invalid syntax for ethernet address")
    }
    let netdev = try decode(values, without: ["mac", "model"], isAnonymous: values.id == nil)
    if netdev.branch.kind == .nic {
      throw OptionError(
        .invalidValue, values.origin, "network backend 'nic' is not compiled into this binary")
    }
    configuration.netdevs.append(
      NetdevConfiguration(
        netdev: netdev, isAnonymous: values.id == nil, origin: values.origin))
    configuration.nics.append(
      NICConfiguration(
        model: values.string("model"), mac: mac,
        target: .backend(configuration.netdevs.count - 1), origin: values.origin))
  }

  /// `-net`: a backend or a card on hub 0.
  private static func addToHub(
    _ values: OptionValues, _ configuration: inout LaunchConfiguration
  ) throws(OptionError) {
    if values.string("type") == "none" { return }
    let netdev = try decode(values, without: ["name"], isAnonymous: values.id == nil)
    switch netdev.branch {
    case .nic(let nic):
      if let mac = nic.macaddr, !isAddress(mac) {
        throw OptionError(.invalidValue, values.origin, "invalid syntax for ethernet address")
      }
      configuration.nics.append(
        NICConfiguration(
          model: nic.model, mac: nic.macaddr,
          target: nic.netdev.map { .netdev($0) } ?? .hub(0),
          vectors: nic.vectors.map { UInt32(clamping: $0) },
          address: nic.addr, origin: values.origin))
    case .hubport:
      throw OptionError(
        .invalidValue, values.origin,
        "network backend 'hubport' is only supported with -netdev/-nic")
    default:
      configuration.netdevs.append(
        NetdevConfiguration(
          netdev: netdev, hub: 0, isAnonymous: values.id == nil, origin: values.origin))
    }
  }

  private static func isAddress(_ text: String) -> Bool {
    let parts = text.split(omittingEmptySubsequences: false) { $0 == ":" || $0 == "-" }
    return parts.count == 6 && parts.allSatisfy { UInt8($0, radix: 16) != nil && $0.utf8.count < 3 }
  }

  // MARK: - Decoding

  private static func decode(
    _ values: OptionValues, without ignored: [String] = [], isAnonymous: Bool = false
  ) throws(OptionError) -> Netdev {
    let pairs = values.entries.filter { !ignored.contains($0.key) }.map {
      KeyValuePair($0.key, $0.value)
    }
    guard values.id != nil || isAnonymous else {
      throw OptionError(.invalidValue, values.origin, "Parameter 'id' is missing")
    }
    do throws(QAPIError) {
      return try NetdevText.decode(pairs, id: values.id ?? "#net")
    } catch { throw OptionError(.invalidValue, values.origin, error.description) }
  }

  private static func decode(
    _ value: JSONValue, _ place: Place, _ origin: OptionOrigin
  ) throws(OptionError) -> Netdev {
    let netdev: Netdev
    do throws(QAPIError) { netdev = try Netdev(decoding: value, at: place) } catch {
      throw OptionError(.invalidValue, origin, error.description)
    }
    guard OptionText.isIdentifier(netdev.id) else { throw ParserState.badIdentifier(origin) }
    return netdev
  }
}

/// Network backends as text, for the command line and the human monitor.
package enum NetdevText {
  /// Members that are lists: each use adds one.
  private static let lists: Set<String> = ["hostfwd", "guestfwd", "dnssearch"]

  /// `type,id=ID,…` of `netdev_add`. Throws with QEMU's sentences.
  package static func parse(_ text: String) throws(QAPIError) -> Netdev {
    let pairs = KeyValueText.split(text, impliedKey: "type")
    guard let id = pairs.last(where: { $0.key == "id" })?.value else { throw .missing("id") }
    guard OptionText.isIdentifier(id) else { throw .expects("id", "an identifier") }
    return try decode(pairs.filter { $0.key != "id" }, id: id)
  }

  /// Throws with QEMU's sentences.
  static func decode(_ pairs: [KeyValuePair], id: String) throws(QAPIError) -> Netdev {
    var value = JSONValue.object(JSONObject())
    var counts: [String: Int] = [:]
    for pair in pairs {
      var path = pair.key.split(separator: ".", omittingEmptySubsequences: false).map(String.init)
      if lists.contains(pair.key) {
        path = [pair.key, String(counts[pair.key, default: 0]), "str"]
        counts[pair.key, default: 0] += 1
      }
      ObjectOption.set(pair.value, at: path[...], in: &value)
    }
    ObjectOption.set(id, at: ["id"], in: &value)
    do throws(QAPIError) {
      return try Netdev(decoding: value, at: .keyValue)
    } catch {
      throw QAPIError(ObjectOption.keyValueReason(error.description))
    }
  }
}
