// Lists of `key=value` in one argument, in the two dialects that QEMU has.

/// One `key=value`.
package struct KeyValuePair: Sendable, Equatable {
  package var key: String
  package var value: String
  /// The word that was written instead, when it was a bare `key` or `nokey`.
  package var shortForm: String?

  package init(_ key: String, _ value: String, shortForm: String? = nil) {
    self.key = key
    self.value = value
    self.shortForm = shortForm
  }
}

/// Splitting and joining of `key=value,…`. A comma inside a value is written twice.
package enum KeyValueText {
  private static let comma = UInt8(ascii: ",")
  private static let equals = UInt8(ascii: "=")

  /// The lenient dialect: the first word may be a value alone (`impliedKey`), later words without
  /// `=` are switches: `key` means `key=on`, `nokey` means `key=off`.
  package static func split(_ text: String, impliedKey: String?) -> [KeyValuePair] {
    var rest = Array(text.utf8)[...]
    var pairs: [KeyValuePair] = []
    while !rest.isEmpty {
      let name = rest.prefix { $0 != equals && $0 != comma }
      if name.endIndex < rest.endIndex, rest[name.endIndex] == equals {
        rest = rest[(name.endIndex + 1)...]
        pairs.append(KeyValuePair(string(name), takeValue(&rest)))
      } else if pairs.isEmpty, let impliedKey {
        pairs.append(KeyValuePair(impliedKey, takeValue(&rest)))
      } else {
        rest = rest[name.endIndex...]
        let word = string(name)
        let isNegated = word.hasPrefix("no") && word.utf8.count > 2
        pairs.append(
          KeyValuePair(
            isNegated ? String(word.dropFirst(2)) : word, isNegated ? "off" : "on", shortForm: word)
        )
      }
      rest = rest.dropFirst()
    }
    return pairs
  }

  /// The strict dialect (`-machine`, `-smp`, `-boot`): every word but an implied first one has a
  /// `=`, keys are names with dots between. Throws QEMU's sentence.
  package static func splitStrict(
    _ text: String, impliedKey: String?, origin: OptionOrigin
  ) throws(OptionError) -> [KeyValuePair] {
    var rest = Array(text.utf8)[...]
    var pairs: [KeyValuePair] = []
    while !rest.isEmpty {
      let name = rest.prefix { $0 != equals && $0 != comma }
      let hasValue = name.endIndex < rest.endIndex && rest[name.endIndex] == equals
      if !hasValue, pairs.isEmpty, let impliedKey {
        pairs.append(KeyValuePair(impliedKey, string(name)))
        rest = rest[name.endIndex...].dropFirst()
        continue
      }
      let key = string(name)
      if !hasValue, OptionText.isHelp(key) {
        pairs.append(KeyValuePair(key, "", shortForm: key))
        rest = rest[name.endIndex...].dropFirst()
        continue
      }
      guard isDottedName(key) else {
        throw OptionError(.unknownParameter, origin, "Invalid parameter '\(key)'")
      }
      guard hasValue else {
        throw OptionError(.invalidValue, origin, "Expected '=' after parameter '\(key)'")
      }
      rest = rest[(name.endIndex + 1)...]
      pairs.append(KeyValuePair(key, takeValue(&rest)))
      rest = rest.dropFirst()
    }
    return pairs
  }

  /// The text that `split` takes apart again; keys must be free of `=` and `,`.
  package static func join(_ pairs: [KeyValuePair]) -> String {
    pairs.map { "\($0.key)=\(escaped($0.value))" }.joined(separator: ",")
  }

  /// A value with its commas doubled.
  package static func escaped(_ value: String) -> String {
    value.utf8.contains(comma)
      ? value.split(separator: ",", omittingEmptySubsequences: false)
        .joined(separator: ",,") : value
  }

  /// Takes a value up to a single comma, which stays.
  private static func takeValue(_ rest: inout ArraySlice<UInt8>) -> String {
    var value: [UInt8] = []
    while let byte = rest.first {
      if byte == comma {
        guard rest.dropFirst().first == comma else { break }
        rest = rest.dropFirst()
      }
      value.append(byte)
      rest = rest.dropFirst()
    }
    return String(decoding: value, as: UTF8.self)
  }

  private static func isDottedName(_ key: String) -> Bool {
    key.split(separator: ".", omittingEmptySubsequences: false).allSatisfy {
      OptionText.isIdentifier(String($0))
    }
  }

  private static func string(_ bytes: ArraySlice<UInt8>) -> String {
    String(decoding: bytes, as: UTF8.self)
  }
}
