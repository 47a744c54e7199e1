// Errors and warnings about the command line, and how they are printed.

/// Where a value was written: an option and its argument, or a line of a configuration file.
package struct OptionOrigin: Sendable, Hashable {
  /// The option as typed (`-m`, `--smp`), or `FILE:LINE`.
  package let option: String
  /// Its argument; nil for options without one.
  package let argument: String?

  package init(option: String, argument: String?) {
    self.option = option
    self.argument = argument
  }

  /// `-m 1x`: how messages name this place.
  package var text: String {
    if let argument { "\(option) \(argument)" } else { option }
  }

  /// A startup error about what was asked for here.
  package func failure(_ reason: String) -> OptionError { OptionError(.failed, self, reason) }
}

/// Why a command line cannot be carried out. `lines(program:)` is what the user reads.
package struct OptionError: Error, Sendable, Equatable {
  /// What went wrong, for callers that switch on it.
  package enum Kind: Sendable, Equatable {
    /// No such option.
    case unknownOption
    /// The option needs an argument and the command line ends.
    case missingArgument
    /// No such parameter or property.
    case unknownParameter
    /// A value that does not parse or is out of range.
    case invalidValue
    /// Something QEMU has and Goliath does not have yet.
    case unsupported
    /// Two options that exclude each other, or a duplicate.
    case conflict
    /// A configuration file that cannot be read or parsed.
    case configurationFile
    /// Well-formed, but carrying it out failed (used by those who do).
    case failed
  }
  package let kind: Kind
  /// The option at fault; nil when the fault is in no single one.
  package let origin: OptionOrigin?
  /// One sentence without full stop, in QEMU's words where clients look for them.
  package let reason: String
  /// The nearest valid spelling, nil when nothing is near.
  package let suggestion: String?
  /// Lines printed as they are under the first.
  package let hints: [String]
  /// A second message about the same option (QEMU's short character device forms print two).
  package let consequence: String?

  package init(
    _ kind: Kind, _ origin: OptionOrigin?, _ reason: String, suggestion: String? = nil,
    hints: [String] = [], consequence: String? = nil
  ) {
    self.kind = kind
    self.origin = origin
    self.reason = reason
    self.suggestion = suggestion
    self.hints = hints
    self.consequence = consequence
  }

  /// The lines for stderr, without line ends: `PROGRAM: OPTION ARG: REASON` and what follows it.
  package func lines(program: String) -> [String] {
    let place = origin.map { "\($0.text): " } ?? ""
    let nearest = suggestion.map { "; did you mean '\($0)'?" } ?? ""
    var lines = ["\(program): \(place)\(reason)\(nearest)"]
    lines += hints
    if let consequence { lines.append("\(program): \(place)\(consequence)") }
    return lines
  }
}

/// Something that works but should be written differently.
package struct OptionWarning: Sendable, Equatable {
  package let origin: OptionOrigin?
  package let message: String
  package let hints: [String]

  init(_ origin: OptionOrigin?, _ message: String, hints: [String] = []) {
    self.origin = origin
    self.message = message
    self.hints = hints
  }

  /// The lines for stderr, without line ends.
  package func lines(program: String) -> [String] {
    let place = origin.map { "\($0.text): " } ?? ""
    return ["\(program): \(place)warning: \(message)"] + hints
  }
}
