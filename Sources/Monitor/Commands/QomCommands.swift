import DeviceModel
import Host
package import JSON
import Machine
package import QAPI

// schemas/qom.json

extension MonitorCommands: @MainLoop QomCommands {
  package func qomList(path: String) throws(QAPIError) -> [ObjectPropertyInfo] {
    switch context.objectTree.resolve(path) {
    case .found(let node, _): return node.list
    case .ambiguous: throw QAPIError("Path '\(path)' is ambiguous")
    case .none: throw noObject(path)
    }
  }

  package func qomGet(path: String, property: String) throws(QAPIError) -> JSONValue {
    guard case .found(let node, let place) = context.objectTree.resolve(path) else {
      throw noObject(path)
    }
    return try node.value(of: property, path: place)
  }

  package func qomSet(path: String, property: String, value: JSONValue) throws(QAPIError) {
    guard case .found(let node, _) = context.objectTree.resolve(path) else {
      throw noObject(path)
    }
    try node.set(property, to: value)
  }

  package func qomListTypes(
    implements: String?, abstract: Bool?
  ) throws(QAPIError) -> [ObjectTypeInfo] {
    TypeCatalog.standard.list(implementing: implements, abstract: abstract ?? false)
  }

  package func qomListProperties(typename: String) throws(QAPIError) -> [ObjectPropertyInfo] {
    try TypeCatalog.standard.propertyList(of: typename)
  }

  package func objectAdd(_ arguments: ObjectOptions) async throws(QAPIError) {
    try await context.objects.addPrepared(arguments)
  }

  package func objectDel(id: String) throws(QAPIError) { try context.objects.delete(id) }

  private func noObject(_ path: String) -> QAPIError {
    QAPIError(.deviceNotFound, "Device '\(path)' not found")
  }
}
