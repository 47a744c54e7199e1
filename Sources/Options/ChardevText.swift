// A character device that is described while the program runs: the human monitor's chardev-add.

/// Reads one `-chardev` argument outside the command line.
package enum ChardevText {
  /// What a text means.
  package enum Meaning {
    /// Devices in order of creation: one, or a base and its multiplexer.
    case devices([ChardevConfiguration])
    /// Lines of help that it asks for.
    case help([String])
  }

  /// Why a text means nothing: QEMU's lines. The last is the error itself, those before it explain.
  package struct Failure: Error, Equatable {
    package let lines: [String]
  }

  /// - Parameter hasIdentifier: false when the text is for a device that exists and must not name one.
  package static func parse(
    _ text: String, hasIdentifier: Bool = true
  ) throws(Failure) -> Meaning {
    let origin = OptionOrigin(option: "chardev", argument: text)
    let pairs = KeyValueText.split(text, impliedKey: OptionGroup.chardev.impliedKey)
    if let backend = pairs.last(where: { $0.key == "backend" }), OptionText.isHelp(backend.value) {
      return .help(HelpText.chardevs)
    }
    if pairs.contains(where: { OptionText.isHelp($0.shortForm ?? "") }) {
      throw Failure(lines: HelpText.group("chardev") + ["Parsing chardev args failed"])
    }
    let id = pairs.last { $0.key == "id" }?.value
    var values: OptionValues
    do throws(OptionError) {
      if let id, !OptionText.isIdentifier(id) { throw ParserState.badIdentifier(origin) }
      values = OptionValues(.chardev, id: id ?? (hasIdentifier ? nil : "device"), origin: origin)
      for pair in pairs where pair.key != "id" {
        try values.set(pair.key, pair.value, origin: origin)
      }
    } catch {
      throw Failure(lines: [error.reason] + error.hints + ["Parsing chardev args failed"])
    }
    if !hasIdentifier, id != nil {
      throw Failure(lines: ["Unexpected 'id' parameter"])
    }
    do throws(OptionError) {
      var warnings: [OptionWarning] = []
      return .devices(try ChardevOptions.resolve(values, &warnings))
    } catch {
      throw Failure(lines: [error.reason])
    }
  }

  /// Devices that a short form (`tcp:HOST:PORT`, `unix:PATH,server=on`) makes, in order of creation; the last one has `label`.
  package static func shortForm(
    _ text: String, label: String
  ) throws(Failure) -> [ChardevConfiguration] {
    let origin = OptionOrigin(option: "chardev", argument: text)
    do throws(OptionError) {
      var values = OptionValues(.chardev, id: label, origin: origin)
      for entry in try ChardevShortForm.parameters(text, origin) {
        try values.set(entry.key, entry.value, origin: origin)
      }
      var warnings: [OptionWarning] = []
      return try ChardevOptions.resolve(values, &warnings)
    } catch {
      throw Failure(lines: [error.reason])
    }
  }
}
