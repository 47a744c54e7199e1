/// The members of a JSON object in the order in which they were set, with one value for each name.
///
/// Names are compared byte by byte, not by Unicode equivalence, as every JSON peer does. Look-up is
/// linear for small objects and goes through an index for large ones, so that an object with a
/// million members from a hostile client costs linear time.
package struct JSONObject: Sendable {
  /// One member.
  package typealias Member = (name: String, value: JSONValue)

  private var names: [String] = []
  private var contents: [JSONValue] = []
  /// Position of each name; kept only above `linearLimit` members.
  private var index: [NameKey: Int] = [:]

  private static let linearLimit = 16

  /// An object without members.
  package init() {}

  /// An object of the given members; of two with one name the later value wins.
  package init(_ members: [(String, JSONValue)]) {
    for (name, value) in members { self[name] = value }
  }

  /// How many members there are.
  package var count: Int { names.count }

  /// Whether there are no members.
  package var isEmpty: Bool { names.isEmpty }

  /// The member names in order.
  package var keys: [String] { names }

  /// The value of a member; setting nil removes it, setting an existing one keeps its place.
  package subscript(name: String) -> JSONValue? {
    get {
      guard let position = position(of: name) else { return nil }
      return contents[position]
    }
    set {
      switch (position(of: name), newValue) {
      case (let position?, let value?): contents[position] = value
      case (let position?, nil): remove(at: position)
      case (nil, let value?): append(name, value)
      case (nil, nil): break
      }
    }
  }

  /// The member at a position in order, 0 to `count` - 1.
  package func member(at position: Int) -> Member { (names[position], contents[position]) }

  /// The position of a member, or nil.
  package func position(of name: String) -> Int? {
    if names.count > Self.linearLimit { return index[NameKey(name)] }
    for position in names.indices where NameKey.same(names[position], name) { return position }
    return nil
  }

  /// Adds a member unless one of that name exists; false when it does.
  package mutating func insertNew(_ name: String, _ value: JSONValue) -> Bool {
    guard position(of: name) == nil else { return false }
    append(name, value)
    return true
  }

  // MARK: -

  private mutating func append(_ name: String, _ value: JSONValue) {
    names.append(name)
    contents.append(value)
    if names.count == Self.linearLimit + 1 {
      rebuildIndex()
    } else if names.count > Self.linearLimit {
      index[NameKey(name)] = names.count - 1
    }
  }

  private mutating func remove(at position: Int) {
    names.remove(at: position)
    contents.remove(at: position)
    rebuildIndex()
  }

  private mutating func rebuildIndex() {
    index.removeAll()
    guard names.count > Self.linearLimit else { return }
    for position in names.indices { index[NameKey(names[position])] = position }
  }
}

extension JSONObject: Equatable {
  /// Whether both have the same members, in any order.
  package static func == (left: JSONObject, right: JSONObject) -> Bool {
    guard left.count == right.count else { return false }
    for position in left.names.indices {
      guard let other = right[left.names[position]], other == left.contents[position] else {
        return false
      }
    }
    return true
  }
}

extension JSONObject: Sequence {
  /// The members in order.
  package func makeIterator() -> AnyIterator<Member> {
    var position = 0
    return AnyIterator {
      guard position < self.count else { return nil }
      defer { position += 1 }
      return self.member(at: position)
    }
  }
}

extension JSONObject: ExpressibleByDictionaryLiteral {
  package init(dictionaryLiteral elements: (String, JSONValue)...) { self.init(elements) }
}

/// A member name that hashes and compares by its bytes.
struct NameKey: Hashable {
  let text: String
  init(_ text: String) { self.text = text }

  static func same(_ left: String, _ right: String) -> Bool {
    left.utf8.elementsEqual(right.utf8)
  }

  static func == (left: NameKey, right: NameKey) -> Bool { same(left.text, right.text) }

  func hash(into hasher: inout Hasher) {
    for byte in text.utf8 { hasher.combine(byte) }
    hasher.combine(0xFF as UInt8)
  }
}
