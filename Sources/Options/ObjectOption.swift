// -object.

package import QAPI
internal import JSON

/// One `-object`, decoded; nothing has been made.
package struct ObjectConfiguration: Sendable, Equatable {
  package var options: ObjectOptions
  /// The option it came from.
  package var origin: OptionOrigin

  /// Whether it is made before the character devices, which may use it. What looks at networks comes after them, memory comes late: it may take long, and clients wait for their
  /// sockets.
  package var isEarly: Bool {
    !options.branch.kind.rawValue.hasPrefix("memory-backend-")
      && options.branch.kind != .filterDump
  }
}

extension ObjectConfiguration {
  /// Bytes of a memory backend; nil for other objects.
  var memorySize: UInt64? {
    switch options.branch {
    case .memoryBackendRam(let ram): ram.size
    case .memoryBackendFile(let file): file.size
    case .memoryBackendMemfd(let memfd): memfd.size
    default: nil
    }
  }
}

enum ObjectOption {
  static let object: OptionDescriptor.Handler = { state, text, origin throws(OptionError) in
    if text.hasPrefix("{") {
      let value: JSONValue
      do throws(JSONError) { value = try JSONValue(parsing: text) } catch {
        throw OptionError(.invalidValue, origin, error.text)
      }
      let options = try decode(value, .json, origin)
      state.jsonObjects[state.list(.object).count] = options
      return try state.add([], to: .object, origin)
    }
    let pairs = KeyValueText.split(text, impliedKey: "qom-type")
    let type = pairs.last { $0.key == "qom-type" }?.value
    if let type, OptionText.isHelp(type) {
      state.help = .objects
      return
    }
    if let type, pairs.contains(where: { OptionText.isHelp($0.shortForm ?? "") }) {
      state.help = .objectProperties(type: type, origin: origin)
      return
    }
    try state.add(text, to: .object, origin: origin)
    // Decoded once more in the end: -set and later lines of a section may add to it.
    _ = try options(state, state.list(.object).count - 1)
  }

  /// Fills in the objects in order.
  static func resolve(
    _ state: ParserState, into configuration: inout LaunchConfiguration
  ) throws(OptionError) {
    for (position, values) in state.list(.object).enumerated() {
      configuration.objects.append(
        ObjectConfiguration(options: try options(state, position), origin: values.origin))
    }
  }

  private static func options(
    _ state: ParserState, _ position: Int
  ) throws(OptionError) -> ObjectOptions {
    if let options = state.jsonObjects[position] { return options }
    let values = state.list(.object)[position]
    var object = JSONValue.object(JSONObject())
    for entry in values.entries {
      set(entry.value, at: entry.key.split(separator: ".").map(String.init)[...], in: &object)
    }
    if let id = values.id { set(id, at: ["id"], in: &object) }
    return try decode(object, .keyValue, values.origin)
  }

  private static func decode(
    _ value: JSONValue, _ place: Place, _ origin: OptionOrigin
  ) throws(OptionError) -> ObjectOptions {
    do throws(QAPIError) {
      return try ObjectOptions(decoding: value, at: place)
    } catch {
      var reason = error.description
      var suggestion: String?
      if error.description.hasPrefix("Parameter 'qom-type' does not accept value '") {
        suggestion = Spelling.nearest(
          to: value["qom-type"]?.stringValue ?? "", among: ObjectType.allCases.map(\.rawValue))
      }
      if place.isKeyValue { reason = keyValueReason(reason) }
      throw OptionError(.invalidValue, origin, reason, suggestion: suggestion)
    }
  }

  /// For lists of `key=value` QEMU has sentences of their own.
  static func keyValueReason(_ reason: String) -> String {
    let words = reason.split(separator: "'", omittingEmptySubsequences: false)
    guard words.count == 3 else { return reason }
    let name = words[1]
    if words[2] == " is unexpected" { return "Invalid parameter '\(name)'" }
    if words[2].hasPrefix(", expected: integer") || words[2].hasPrefix(" expects uint") {
      let kind = ["size", "align", "hugetlbsize", "sndbuf"].contains(name) ? "size" : "uint64"
      return "Parameter '\(name)' expects a \(kind) value"
    }
    return reason
  }

  /// Puts text at `rules.0.match`; numbers index arrays. Of equal keys the last one counts, but lists of numbers grow.
  static func set(
    _ text: String, at path: ArraySlice<String>, in value: inout JSONValue
  ) {
    guard let key = path.first else {
      value = .string(text)
      return
    }
    let rest = path.dropFirst()
    if rest.isEmpty, key == "host-nodes", let before = value[key]?.stringValue {
      return set("\(before),\(text)", at: rest, in: &value, member: key)
    }
    if let index = Int(key), index >= 0, !value.isObjectWithMembers {
      var elements = value.arrayValue ?? []
      // What is left out has no value; the decoder says so.
      while elements.count <= min(index, 1024) { elements.append(.object(JSONObject())) }
      if index < elements.count { set(text, at: rest, in: &elements[index]) }
      value = .array(elements)
      return
    }
    set(text, at: rest, in: &value, member: key)
  }

  private static func set(
    _ text: String, at rest: ArraySlice<String>, in value: inout JSONValue, member key: String
  ) {
    var object = value.objectValue ?? JSONObject()
    var member = object[key] ?? .object(JSONObject())
    set(text, at: rest, in: &member)
    object[key] = member
    value = .object(object)
  }
}

extension JSONValue {
  fileprivate var isObjectWithMembers: Bool { objectValue.map { !$0.isEmpty } ?? false }
}
