package import JSON

/// Takes options out of a tree one by one, so that what is left over at the end is unknown. Values may be JSON's or a command line's words.
package struct OptionReader: Sendable {
  private var tree: JSONObject

  /// Keys with dots become objects and lists: `file.filename`, `inject-error.0.event`. Throws when a key is both a value and an object.
  package init(_ options: JSONObject) throws(BlockError) {
    tree = JSONObject()
    for (key, value) in options {
      let path = key.split(separator: ".", omittingEmptySubsequences: false).map(String.init)
      tree = try OptionReader.inserted(value, path[...], tree, key)
    }
  }

  private static func inserted(
    _ value: JSONValue, _ path: ArraySlice<String>, _ object: JSONObject, _ key: String
  ) throws(BlockError) -> JSONObject {
    guard let first = path.first else { return object }
    var result = object
    if path.count == 1 {
      if let old = result[first] {
        guard case .object(var merged) = old, case .object(let new) = value else {
          throw BlockError(22, "Cannot mix scalar and non-scalar keys")
        }
        for (name, member) in new {
          merged = try inserted(member, [name], merged, key)
        }
        result[first] = .object(merged)
      } else {
        result[first] = value
      }
      return result
    }
    let below: JSONObject
    switch result[first] {
    case nil: below = JSONObject()
    case .object(let object): below = object
    default: throw BlockError(22, "Cannot mix scalar and non-scalar keys")
    }
    result[first] = .object(try inserted(value, path.dropFirst(), below, key))
    return result
  }

  /// What has not been taken.
  package var rest: JSONObject { tree }
  /// The first key that nobody took, with dots; nil when there is none.
  package var firstLeftover: String? {
    guard tree.count > 0 else { return nil }
    var (key, value) = tree.member(at: 0)
    while case .object(let below) = value, below.count > 0 {
      let next = below.member(at: 0)
      key += ".\(next.name)"
      value = next.value
    }
    return key
  }

  package func contains(_ key: String) -> Bool { tree[key] != nil }

  package subscript(key: String) -> JSONValue? { tree[key] }

  /// Sets an option unless it is there.
  package mutating func setDefault(_ key: String, _ value: JSONValue) {
    if tree[key] == nil { tree[key] = value }
  }

  package mutating func take(_ key: String) -> JSONValue? {
    let value = tree[key]
    tree[key] = nil
    return value
  }

  /// The text of an option; numbers and truth values as they are written.
  package mutating func string(_ key: String) throws(BlockError) -> String? {
    switch take(key) {
    case nil, .null: return nil
    case .string(let text): return text
    case .int(let number): return String(number)
    case .uint(let number): return String(number)
    case .bool(let value): return value ? "on" : "off"
    default: throw OptionReader.invalid(key, "string")
    }
  }

  package mutating func bool(_ key: String) throws(BlockError) -> Bool? {
    switch take(key) {
    case nil, .null: return nil
    case .bool(let value): return value
    case .string("on"), .string("yes"), .string("true"), .string("y"): return true
    case .string("off"), .string("no"), .string("false"), .string("n"): return false
    case .string: throw BlockError(22, "Parameter '\(key)' expects 'on' or 'off'")
    default: throw OptionReader.invalid(key, "boolean")
    }
  }

  /// A number; a word may have a suffix (`64k`, `10G`).
  package mutating func size(_ key: String) throws(BlockError) -> UInt64? {
    switch take(key) {
    case nil, .null: return nil
    case .int(let number) where number >= 0: return UInt64(number)
    case .uint(let number): return number
    case .string(let text):
      guard let value = OptionReader.parseSize(text) else {
        throw BlockError(22, "Parameter '\(key)' expects a size")
      }
      return value
    default: throw BlockError(22, "Parameter '\(key)' expects a non-negative number below 2^64")
    }
  }

  package mutating func integer(_ key: String) throws(BlockError) -> Int64? {
    switch take(key) {
    case nil, .null: return nil
    case .int(let number): return number
    case .string(let text):
      guard let value = Int64(text) else {
        throw BlockError(22, "Parameter '\(key)' expects a number")
      }
      return value
    default: throw OptionReader.invalid(key, "integer")
    }
  }

  /// An object below.
  package mutating func object(_ key: String) throws(BlockError) -> JSONObject? {
    switch take(key) {
    case nil, .null: return nil
    case .object(let object): return object
    default: throw OptionReader.invalid(key, "object")
    }
  }

  /// A list; an object with the keys `0`, `1`… counts as one.
  package mutating func list(_ key: String) throws(BlockError) -> [JSONValue]? {
    switch take(key) {
    case nil, .null: return nil
    case .array(let elements): return elements
    case .object(let object):
      var result: [JSONValue] = []
      for index in 0..<object.count {
        guard let element = object[String(index)] else { throw OptionReader.invalid(key, "array") }
        result.append(element)
      }
      return result
    default: throw OptionReader.invalid(key, "array")
    }
  }

  private static func invalid(_ key: String, _ type: String) -> BlockError {
    BlockError(22, "Invalid parameter type for '\(key)', expected: \(type)")
  }

  /// A number with an optional suffix of `BKMGTPE`; nil for anything else.
  package static func parseSize(_ text: String) -> UInt64? {
    var digits = text
    var shift: UInt64 = 0
    if let last = text.utf8.last, !(UInt8(ascii: "0")...UInt8(ascii: "9")).contains(last) {
      let suffixes = Array("bkmgtpe".utf8)
      guard let place = suffixes.firstIndex(of: last | 0x20) else { return nil }
      shift = UInt64(place) * 10
      digits.removeLast()
    }
    guard let number = UInt64(digits) else {
      guard shift > 0, let real = Double(digits), real >= 0 else { return nil }
      let scaled = real * Double(UInt64(1) << shift)
      return scaled < 18_446_744_073_709_551_616 ? UInt64(scaled) : nil
    }
    let (result, overflow) = number.multipliedReportingOverflow(by: 1 << shift)
    return overflow ? nil : result
  }
}
