package import JSON

/// A path to a value inside a reply: member names and list positions joined by dots; `*` stands for every element or member.
/// `[2]` is the same as `.2`.
package struct ValuePath: Equatable, Sendable {
  package let steps: [String]

  package init(_ text: String) {
    var plain = ""
    for character in text {
      switch character {
      case "[": plain.append(".")
      case "]": continue
      default: plain.append(character)
      }
    }
    steps = plain.split(separator: ".").map(String.init)
  }

  /// The values at the path, one unless it has a `*`; nil when there is none.
  package func values(in value: JSONValue) -> [JSONValue]? {
    var current = [value]
    for step in steps {
      var next: [JSONValue] = []
      for value in current {
        switch (value, step) {
        case (.array(let elements), "*"): next += elements
        case (.object(let object), "*"): next += object.map(\.value)
        default:
          if let member = value[step] {
            next.append(member)
          } else if let position = Int(step), let element = value[position] {
            next.append(element)
          }
        }
      }
      if next.isEmpty { return nil }
      current = next
    }
    return current
  }
}

extension JSONValue {
  /// A string as it is, anything else as JSON: what `--select` prints and `expect` compares.
  package var plainText: String {
    if case .string(let text) = self { return text }
    return text
  }
}
