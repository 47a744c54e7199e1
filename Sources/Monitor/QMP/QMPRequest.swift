package import JSON
package import QAPI

/// One request of a QMP client, checked as far as it can be without looking at its arguments.
package struct QMPRequest: Sendable {
  /// What the client gave to recognise the reply by; nil when it gave nothing.
  package let id: JSONValue?
  /// The command and its arguments, or why there is none.
  package let call: Result<Call, QAPIError>

  /// A command with its arguments.
  package struct Call: Sendable {
    /// The command.
    package let command: Command
    /// Its arguments, not looked at yet.
    package let arguments: JSONObject
  }

  /// Name of the command as the client gave it, if it did.
  var commandName: String? {
    if case .success(let call) = call { return call.command.rawValue }
    return object.flatMap { $0["execute"]?.stringValue ?? $0["exec-oob"]?.stringValue }
  }

  /// The arguments as the client gave them, if it did.
  var arguments: JSONObject? {
    if case .success(let call) = call { return call.arguments }
    return object?["arguments"]?.objectValue
  }

  /// The request itself; kept of one that is refused.
  private let object: JSONObject?

  /// A request that was no JSON at all.
  init(_ error: JSONError) {
    id = nil
    object = nil
    call = .failure(QAPIError(error.text))
  }

  /// Checks a request in the order in which QEMU 7.2 does. `commands` finds a command by name among
  /// those that exist at this stage.
  init(
    _ value: JSONValue, outOfBandEnabled: Bool, commands: (String) -> Command?
  ) {
    guard case .object(let object) = value else {
      id = nil
      self.object = nil
      call = .failure(QAPIError("QMP input must be a JSON object"))
      return
    }
    id = object["id"]
    do throws(QAPIError) {
      let (name, isOutOfBand) = try Self.check(object, outOfBandEnabled: outOfBandEnabled)
      guard let command = commands(name) else {
        throw QAPIError(.commandNotFound, "The command \(name) has not been found")
      }
      if isOutOfBand && !command.allowsOutOfBand {
        throw QAPIError("The command \(name) does not support OOB")
      }
      let arguments = object["arguments"]?.objectValue ?? [:]
      call = .success(Call(command: command, arguments: arguments))
      self.object = nil
    } catch {
      call = .failure(error)
      self.object = object
    }
  }

  /// Whether a request overtakes those that wait.
  static func isOutOfBand(_ value: JSONValue) -> Bool {
    value["exec-oob"] != nil && value["execute"] == nil
  }

  /// Looks at the members, in the order of QEMU's dictionary; gives the command's name.
  private static func check(
    _ object: JSONObject, outOfBandEnabled: Bool
  ) throws(QAPIError) -> (name: String, isOutOfBand: Bool) {
    // The usual request has no fault, and then the order in which one looks makes no difference.
    if object.count <= 3, case .string(let name)? = object["execute"] {
      var known = 1
      if object.position(of: "id") != nil { known += 1 }
      if case .object? = object["arguments"] { known += 1 }
      if known == object.count { return (name, false) }
    }
    var found: (key: String, name: String)?
    for position in object.wireOrder {
      let (key, value) = object.member(at: position)
      switch key {
      case "execute",
        "exec-oob" where outOfBandEnabled:
        guard case .string(let name) = value else {
          throw QAPIError("QMP input member '\(key)' must be a string")
        }
        if let found {
          throw QAPIError("QMP input member '\(key)' clashes with '\(found.key)'")
        }
        found = (key, name)
      case "arguments":
        guard case .object = value else {
          throw QAPIError("QMP input member 'arguments' must be an object")
        }
      case "id": break
      default: throw QAPIError("QMP input member '\(key)' is unexpected")
      }
    }
    guard let found else { throw QAPIError("QMP input lacks member 'execute'") }
    return (found.name, found.key == "exec-oob")
  }
}
