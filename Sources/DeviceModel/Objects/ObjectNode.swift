package import Host
package import JSON
package import QAPI

/// An object of the tree that monitors see: a type, properties, objects below it.
///
/// A node is a view, made when somebody asks; what it shows lives elsewhere. Properties are made once, at first use; the objects below are
/// asked for every time, since they come and go.
@MainLoop
package final class ObjectNode {
  package typealias Children = [(name: String, node: ObjectNode)]

  /// The type's name.
  package let type: String
  private let makeProperties: @MainLoop () -> [ObjectProperty]
  private let makeChildren: @MainLoop () -> Children
  private var made: (list: [ObjectProperty], positions: [String: Int])?

  /// An object; both closures run when somebody asks for the first time, `children` every time.
  package init(
    _ type: String, properties: @escaping @MainLoop () -> [ObjectProperty] = { [] },
    children: @escaping @MainLoop () -> Children = { [] }
  ) {
    self.type = type
    makeProperties = properties
    makeChildren = children
  }

  /// The properties without `type` and without the objects below, in order.
  package var properties: [ObjectProperty] { content.list }

  /// The objects below, in order.
  package var children: Children { makeChildren() }

  /// The property of that name.
  package func property(_ name: String) -> ObjectProperty? {
    content.positions[name].map { content.list[$0] }
  }

  /// The object below of that name.
  package func child(_ name: String) -> ObjectNode? {
    makeChildren().first { $0.name == name }?.node
  }

  private var content: (list: [ObjectProperty], positions: [String: Int]) {
    if let made { return made }
    let list = makeProperties()
    var positions: [String: Int] = [:]
    for (position, property) in list.enumerated() { positions[property.name] = position }
    made = (list, positions)
    return (list, positions)
  }
}

extension ObjectNode {
  /// A node of type `container`.
  package static func container(
    _ children: @escaping @MainLoop () -> Children
  ) -> ObjectNode { ObjectNode("container", children: children) }

  /// What `qom-list` answers: `type`, the properties, the objects below.
  package var list: [ObjectPropertyInfo] {
    var list = [ObjectPropertyInfo(name: "type", type: "string")]
    for property in properties {
      list.append(ObjectPropertyInfo(name: property.name, type: property.type))
    }
    for child in children {
      list.append(ObjectPropertyInfo(name: child.name, type: "child<\(child.node.type)>"))
    }
    return list
  }

  /// What `qom-get` answers; `path` is this object's own. Throws when the property is absent or cannot be read.
  package func value(of name: String, path: String) throws(QAPIError) -> JSONValue {
    if name == "type" { return .string(type) }
    guard let property = property(name) else {
      if child(name) != nil { return .string(path == "/" ? "/\(name)" : "\(path)/\(name)") }
      throw missing(name)
    }
    guard let get = property.get else {
      throw QAPIError("Property '\(type).\(name)' is not readable")
    }
    return try get()
  }

  /// What `qom-set` does. Throws when the property is absent, cannot be written, or does not take the value.
  package func set(_ name: String, to value: JSONValue) throws(QAPIError) {
    let property = property(name)
    if property == nil, name != "type", child(name) == nil { throw missing(name) }
    guard let set = property?.set else {
      throw QAPIError("Property '\(type).\(name)' is not writable")
    }
    try set(value)
  }

  private func missing(_ name: String) -> QAPIError {
    QAPIError("Property '\(type).\(name)' not found")
  }
}
