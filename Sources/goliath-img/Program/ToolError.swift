package import Block

/// Why a verb ended early: what is printed on standard error, and the exit status.
package struct ToolError: Error, Equatable, Sendable {
  /// Sentences for the user, each printed behind the program's name; none when everything was said already.
  package var lines: [String]
  /// Text that follows as it is, such as a hint of what to do.
  package var hint = ""
  package var status: Int32 = 1

  package init(_ line: String, hint: String = "", status: Int32 = 1) {
    lines = [line]
    self.hint = hint
    self.status = status
  }

  package init(lines: [String], hint: String = "", status: Int32 = 1) {
    self.lines = lines
    self.hint = hint
    self.status = status
  }

  /// A failure of the block layer; `prefix` names what was tried, as in `Could not open 'x': `.
  package init(_ error: BlockError, _ prefix: String = "", status: Int32 = 1) {
    lines = [prefix + error.message]
    if let text = error.hint { hint = text.hasSuffix("\n") ? text : text + "\n" }
    self.status = status
  }

  /// The command line makes no sense: the sentence, and where help is.
  package static func usage(_ line: String) -> ToolError {
    ToolError(line, hint: "Try 'goliath-img --help' for more information\n")
  }

  /// The exit status without a word.
  package static func silent(_ status: Int32) -> ToolError { ToolError(lines: [], status: status) }
}
