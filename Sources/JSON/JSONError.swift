/// Why some input is not acceptable JSON; `text` is the sentence that a QMP client of QEMU 7.2 reads
/// in `desc` (for example `JSON parse error, expecting value`).
package struct JSONError: Error, Equatable, Sendable {
  /// The complete sentence.
  package let text: String

  package init(text: String) { self.text = text }

  /// An error of the grammar.
  static func parse(_ rest: String) -> JSONError { JSONError(text: "JSON parse error, " + rest) }

  /// A byte that starts no token, or breaks one; `token` is the token so far with that byte.
  static func stray(_ token: ArraySlice<UInt8>) -> JSONError {
    let visible = token.prefix { $0 != 0 }
    return parse("stray '\(ModifiedUTF8.lossyString(visible))'")
  }

  /// More than `JSONFramer.nestingLimit` open brackets.
  static let nesting = JSONError(text: "JSON nesting depth limit exceeded")
  /// More than `JSONFramer.tokenLimit` tokens in one value.
  static let tokenCount = JSONError(text: "JSON token count limit exceeded")
  /// More than `JSONFramer.sizeLimit` bytes of tokens in one value.
  static let tokenSize = JSONError(text: "JSON token size limit exceeded")
}
