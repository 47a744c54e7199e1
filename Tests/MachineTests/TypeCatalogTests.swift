import Foundation
import JSON
import Machine
import QAPI
import Testing

/// The folder of the repository.
private let repository = URL(filePath: #filePath).deletingLastPathComponent()
  .deletingLastPathComponent().deletingLastPathComponent()

/// What QEMU 7.2 answered, when the recordings are at hand.
private func recorded(_ name: String) throws -> JSONValue? {
  let path = repository.deletingLastPathComponent().appending(
    path: "shared/compat/qemu-7.2/\(name)")
  guard let data = try? Data(contentsOf: path) else { return nil }
  return try JSONValue(parsing: Array(data))
}

@Suite struct TypeCatalogTests {
  let catalog = TypeCatalog.standard

  /// Every type is one of QEMU's, with QEMU's parent.
  @Test func typesAreThoseOfQEMU() throws {
    guard let recorded = try recorded("qom-list-types-abstract.json")?.arrayValue else { return }
    var parents: [String: String] = [:]
    for type in recorded {
      parents[type["name"]?.stringValue ?? ""] = type["parent"]?.stringValue ?? ""
    }
    let types = catalog.list(implementing: nil, abstract: true)
    #expect(types.count > 150)
    for type in types {
      #expect(parents[type.name] == (type.parent ?? ""), "\(type.name)")
    }
  }

  @Test func whatClientsAskForIsThere() {
    let names = Set(catalog.list(implementing: nil, abstract: false).map(\.name))
    for name in [
      "tcg-accel", "kvm-accel", "none-machine", "pc-i440fx-7.2-machine", "max-x86_64-cpu",
      "host-x86_64-cpu", "Haswell-x86_64-cpu", "memory-backend-file", "memory-backend-memfd",
      "rng-random", "isa-serial", "mc146818rtc", "chardev-socket",
    ] { #expect(names.contains(name), "\(name)") }
    #expect(!names.contains("device"))
    #expect(!names.contains("e1000"))
  }

  @Test func typesAreFilteredByAncestorAndInterface() {
    let isa = catalog.list(implementing: "isa-device", abstract: false).map(\.name)
    #expect(isa.contains("isa-serial"))
    #expect(!isa.contains("hpet"))
    let objects = Set(catalog.list(implementing: "user-creatable", abstract: false).map(\.name))
    #expect(objects == Set(ObjectType.allCases.map { TypeCatalog.typeName($0) }))
    #expect(catalog.list(implementing: "zork", abstract: true) == [])
    #expect(
      catalog.list(implementing: "nmi", abstract: false).map(\.name) == ["pc-i440fx-7.2-machine"])
  }

  /// Names, types and defaults of all properties of every device that the recordings have.
  @Test func devicePropertiesAreThoseOfQEMU() throws {
    guard let devices = try recorded("device-list-properties-all.json")?["devices"]?.objectValue
    else { return }
    var compared = 0
    for (name, properties) in devices {
      guard catalog.isConcrete(name), let theirs = properties.arrayValue else { continue }
      compared += 1
      let ours = try catalog.devicePropertyList(of: name)
      let wanted = Set(theirs.map { "\($0["name"]?.text ?? "") \($0["type"]?.text ?? "")" })
      let listed = Set(
        ours.map { "\(JSONValue.string($0.name).text) \(JSONValue.string($0.type).text)" })
      #expect(listed == wanted, "\(name)")
      for property in theirs {
        let name = property["name"]?.stringValue
        #expect(
          ours.first { $0.name == name }?.defaultValue?.text == property["default-value"]?.text,
          "\(name ?? "")")
      }
    }
    #expect(compared > 20)
  }

  @Test func objectPropertiesAreThoseOfQEMU() throws {
    guard let objects = try recorded("object-properties.json")?.objectValue else { return }
    for type in ObjectType.allCases {
      let name = TypeCatalog.typeName(type)
      let theirs = objects[name]?.arrayValue?.compactMap { $0["name"]?.stringValue } ?? []
      // What QEMU's recording of options leaves out cannot be written.
      let ours = try catalog.propertyList(of: name).map(\.name)
      #expect(Set(theirs).subtracting(["opened"]).isSubset(of: ours), "\(name)")
    }
  }

  @Test func questionsForTypesThatAreNotThereFailAsInQEMU() {
    #expect(throws: QAPIError(.deviceNotFound, "Device 'zork' not found")) {
      try catalog.devicePropertyList(of: "zork")
    }
    #expect(throws: QAPIError(.deviceNotFound, "Class 'zork' not found")) {
      try catalog.propertyList(of: "zork")
    }
    #expect(throws: QAPIError("Parameter 'typename' expects a QOM type")) {
      try catalog.propertyList(of: "nmi")
    }
    for name in ["device", "container", "tcg-accel"] {
      #expect(throws: QAPIError("Parameter 'typename' expects a non-abstract device type")) {
        try catalog.devicePropertyList(of: name)
      }
    }
  }
}
