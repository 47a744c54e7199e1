import JSON

/// `-audiodev`: with no sound card, the one back end that can be told the truth about is `none`, which plays to nobody.
enum AudioOptions {
  private static let backends = [
    "none", "alsa", "dbus", "jack", "oss", "pa", "sdl", "spice", "wav",
  ]

  /// Checks the option as QEMU does; nothing is left to make.
  static func audiodev(
    _ state: inout ParserState, _ text: String, _ origin: OptionOrigin
  ) throws(OptionError) {
    var members: [(key: String, value: JSONValue)] = []
    if text.hasPrefix("{") {
      do throws(JSONError) {
        members = (try JSONValue(parsing: text).objectValue ?? [:]).map { ($0.name, $0.value) }
      } catch { throw OptionError(.invalidValue, origin, error.text) }
    } else {
      for pair in try KeyValueText.splitStrict(text, impliedKey: "driver", origin: origin) {
        members.append((pair.key, .string(pair.value)))
      }
    }
    func string(_ key: String) throws(OptionError) -> String {
      guard let value = members.last(where: { $0.key == key })?.value else {
        throw OptionError(.missingArgument, origin, "Parameter '\(key)' is missing")
      }
      guard let text = value.stringValue else {
        throw OptionError(
          .invalidValue, origin, "Invalid parameter type for '\(key)', expected: string")
      }
      return text
    }
    _ = try string("id")
    let driver = try string("driver")
    guard backends.contains(driver) else {
      throw OptionError(
        .invalidValue, origin, "Parameter 'driver' does not accept value '\(driver)'")
    }
    guard driver == "none" else {
      throw OptionError(
        .unsupported, origin, "sound is not supported yet; leave the option out, or use driver=none"
      )
    }
    if let unknown = members.first(where: { !["id", "driver", "timer-period"].contains($0.key) }) {
      throw OptionError(
        .unknownParameter, origin, "Parameter '\(unknown.key)' is unexpected")
    }
  }
}
