internal import CJansson

/// The text of one JSON value as the framer cut it: every token is well formed and brackets balance
/// in number; whether the grammar holds shows when it is parsed.
package struct JSONText: Equatable, Sendable {
  /// The tokens, with at most one blank between two of them.
  package let bytes: [UInt8]
  /// Nothing in it is read by libjansson otherwise than by QEMU.
  let isPlain: Bool

  /// The value. Throws what QEMU 7.2 says about a text that is no value.
  ///
  /// The quick parser reads the common case, libjansson most of the rest. What it refuses (grammar errors, integers above 2^63-1,
  /// numbers too large for a double) and what it reads by other rules (single quotes, `\u` escapes,
  /// non-ASCII text) goes to `ExactParser`.
  package func parse() throws(JSONError) -> JSONValue {
    if isPlain, let value = QuickParser.parse(bytes) ?? JanssonParser.parse(bytes) { return value }
    return try ExactParser.parse(bytes)
  }
}

extension JSONValue {
  /// Parses a text that must hold exactly one value, as on a command line.
  /// Throws the sentence that QEMU 7.2 prints.
  package init(parsing text: some Collection<UInt8>) throws(JSONError) {
    var framer = JSONFramer()
    framer.feed(text)
    var value: JSONValue?
    while let item = framer.next() ?? framer.finish() {
      let found = try item.get().parse()
      if value != nil { throw JSONError(text: "Expecting at most one JSON value") }
      value = found
    }
    guard let value else { throw JSONError(text: "Expecting a JSON value") }
    self = value
  }

  /// Parses a text that must hold exactly one value.
  package init(parsing text: String) throws(JSONError) { try self.init(parsing: text.utf8) }
}
