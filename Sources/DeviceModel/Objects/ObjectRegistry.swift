package import Host
package import QAPI

/// An object that a user makes, with `-object` or `object-add`.
///
/// Its initializer takes its part of `ObjectOptions` and checks it; `complete` does what may need other objects, files or memory.
@MainLoop
package protocol UserObject: AnyObject {
  /// The type's name.
  var typeName: String { get }
  /// The properties without `type`, for `qom-list`, `qom-get`, `qom-set`.
  var objectProperties: [ObjectProperty] { get }
  /// The objects below it.
  var objectChildren: ObjectNode.Children { get }
  /// What takes long and needs no other object, such as touching gigabytes: others go on meanwhile. `complete` follows; it does all by
  /// itself where nobody prepared. Throws what the user is to read.
  func prepare() async throws(QAPIError)
  /// Opens and allocates; the object is in the registry already. Throws what the user is to read, and the object is gone.
  func complete(in registry: ObjectRegistry) throws(QAPIError)
  /// Whether nothing uses it.
  var canBeDeleted: Bool { get }
  /// It has left the registry.
  func deleted()
}

extension UserObject {
  package var objectProperties: [ObjectProperty] { [] }
  package var objectChildren: ObjectNode.Children { [] }
  package func prepare() async throws(QAPIError) {}
  package func complete(in registry: ObjectRegistry) throws(QAPIError) {}
  package var canBeDeleted: Bool { true }
  package func deleted() {}
}

/// The objects below `/objects`, in order of creation.
@MainLoop
package final class ObjectRegistry {
  /// Makes an object of the class that the options ask for; it completes it not yet.
  package typealias Factory =
    @MainLoop (ObjectOptions, ObjectRegistry) throws(QAPIError) -> any UserObject

  /// The objects with their ids.
  package private(set) var list: [(id: String, object: any UserObject, node: ObjectNode)] = []
  private let make: Factory

  /// An empty registry; `make` knows the classes.
  package init(make: @escaping Factory) { self.make = make }

  /// The object of that id.
  package subscript(id: String) -> (any UserObject)? { list.first { $0.id == id }?.object }

  /// The object of that id if it is of class `Class`.
  package func find<Class: UserObject>(_ id: String, _: Class.Type) -> Class? {
    self[id] as? Class
  }

  /// All objects of class `Class`.
  package func all<Class: UserObject>(_: Class.Type) -> [(id: String, object: Class)] {
    list.compactMap { entry in (entry.object as? Class).map { (entry.id, $0) } }
  }

  /// `object-add` and `-object`: makes, adds and completes an object. Throws with QEMU's sentences; nothing is left then.
  package func add(_ options: ObjectOptions) throws(QAPIError) {
    guard ObjectRegistry.isIdentifier(options.id) else { throw .expects("id", "an identifier") }
    try add(try make(options, self), id: options.id)
  }

  /// `object-add` while the machine runs: what takes long holds nobody up. Throws as `add`.
  package func addPrepared(_ options: ObjectOptions) async throws(QAPIError) {
    guard ObjectRegistry.isIdentifier(options.id) else { throw .expects("id", "an identifier") }
    let object = try make(options, self)
    // There it would fail in the end.
    if self[options.id] == nil { try await object.prepare() }
    try add(object, id: options.id)
  }

  /// Adds and completes an object that something else made, such as the board its memory.
  package func add(_ object: any UserObject, id: String) throws(QAPIError) {
    if self[id] != nil {
      throw QAPIError("attempt to add duplicate property '\(id)' to object (type 'container')")
    }
    let node = ObjectNode(
      object.typeName, properties: { [unowned object] in object.objectProperties },
      children: { [unowned object] in object.objectChildren })
    list.append((id, object, node))
    do throws(QAPIError) { try object.complete(in: self) } catch {
      list.removeAll { $0.id == id }
      throw error
    }
  }

  /// `object-del`. Throws when there is no such object or something uses it.
  package func delete(_ id: String) throws(QAPIError) {
    guard let position = list.firstIndex(where: { $0.id == id }) else {
      throw QAPIError("object '\(id)' not found")
    }
    guard list[position].object.canBeDeleted else {
      throw QAPIError("object '\(id)' is in use, can not be deleted")
    }
    list.remove(at: position).object.deleted()
  }

  /// `/objects`.
  package var node: ObjectNode {
    .container { [unowned self] in list.map { ($0.id, $0.node) } }
  }

  /// Letters, digits, `-`, `.`, `_`, beginning with a letter.
  package static func isIdentifier(_ text: String) -> Bool {
    var isFirst = true
    for byte in text.utf8 {
      switch byte {
      case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"): break
      case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "."),
        UInt8(ascii: "_"):
        if isFirst { return false }
      default: return false
      }
      isFirst = false
    }
    return !isFirst
  }
}
