import CPU
import DeviceModel
import Options
import Virtio
package import JSON
package import QAPI

/// The object types that exist here, for `qom-list-types`, `qom-list-properties`, `device-list-properties` and `help`.
///
/// Read from the table when somebody asks for the first time.
package struct TypeCatalog: Sendable {
  /// A property of a type.
  package struct Property: Sendable {
    package let name: String
    package let type: String
    package let defaultValue: JSONValue?

    /// As `device-list-properties` shows it.
    var info: ObjectPropertyInfo {
      ObjectPropertyInfo(
        name: name, type: type, description: PropertyTexts.text(name, type),
        defaultValue: defaultValue)
    }
  }

  struct Entry: Sendable {
    let name: String
    let parent: String?
    let isAbstract: Bool
    let interface: String?
    let own: [Property]
  }

  private var entries: [String: Entry]
  private var order: [String]

  /// All types.
  package static let standard = TypeCatalog()

  private static let interfaces = ["interface", "user-creatable", "hotplug-handler", "nmi"]

  private init() {
    var entries: [String: Entry] = [:]
    var order: [String] = []
    func add(_ entry: Entry) {
      entries[entry.name] = entry
      order.append(entry.name)
    }
    for name in Self.interfaces {
      add(
        Entry(
          name: name, parent: name == "interface" ? nil : "interface", isAbstract: true,
          interface: nil, own: []))
    }
    for line in TypeTable.records.split(separator: "\n") {
      guard let entry = Self.parse(line) else { continue }
      add(entry)
      // The kinds of a virtio function that say by their names which interfaces they have.
      if entry.name.hasPrefix("virtio-"), entry.name.hasSuffix("-pci"), !entry.isAbstract {
        for variant in VirtioVariant.named {
          add(
            Entry(
              name: entry.name + variant.rawValue, parent: entry.parent, isAbstract: false,
              interface: entry.interface,
              own: entry.own.filter { !VirtioVariant.isImplied($0.name) }))
        }
      }
    }
    let model = entries.removeValue(forKey: "+cpu-model")?.own ?? []
    let following = entries.removeValue(forKey: "+max-cpu")?.own ?? []
    order.removeAll { $0.hasPrefix("+") }
    for name in CPUModel.names {
      let own = name == "max" ? model + following : name == "host" ? [] : model
      add(
        Entry(
          name: "\(name)-x86_64-cpu", parent: name == "host" ? "max-x86_64-cpu" : "x86_64-cpu",
          isAbstract: false, interface: nil, own: own))
    }
    self.entries = entries
    self.order = order
    // Of the objects that users make, those that are in the schema.
    let objects = Set(ObjectType.allCases.map { Self.typeName($0) })
    let absent = order.filter {
      isConcrete($0) && type($0, implements: "user-creatable") && !objects.contains($0)
    }
    for name in absent { self.entries[name] = nil }
    self.order.removeAll { absent.contains($0) }
  }

  /// The type of an object that users make: in one case the schema spells it differently.
  package static func typeName(_ type: ObjectType) -> String {
    type.rawValue == "authz-listfile" ? "authz-list-file" : type.rawValue
  }

  private static func parse(_ line: Substring) -> Entry? {
    let fields = line.split(separator: "|", maxSplits: 4, omittingEmptySubsequences: false)
    guard fields.count == 5 else { return nil }
    let own = fields[4].split(separator: ";").compactMap { property($0) }
    return Entry(
      name: String(fields[0]), parent: fields[1].isEmpty ? nil : String(fields[1]),
      isAbstract: fields[2] == "A", interface: fields[3].isEmpty ? nil : String(fields[3]),
      own: own)
  }

  private static func property(_ text: Substring) -> Property? {
    let text = text.drop { $0 == " " }
    if text.isEmpty { return nil }
    guard let colon = text.firstIndex(of: ":") else {
      return Property(name: String(text), type: "bool", defaultValue: nil)
    }
    let name = String(text[..<colon])
    let rest = text[text.index(after: colon)...]
    guard let equals = rest.firstIndex(of: "=") else {
      return Property(name: name, type: String(rest), defaultValue: nil)
    }
    return Property(
      name: name, type: String(rest[..<equals]),
      defaultValue: try? JSONValue(parsing: String(rest[rest.index(after: equals)...])))
  }

  /// What `-object TYPE,help` lists: what can be written.
  package func settableProperties(of name: String) -> [Property] {
    properties(of: name).filter { $0.name != "opened" }
  }

  // MARK: - Questions

  func entry(_ name: String) -> Entry? { entries[name] }

  /// Whether there is a type of that name that objects can be made of.
  package func isConcrete(_ name: String) -> Bool { entries[name].map { !$0.isAbstract } ?? false }

  /// Whether `name` is `ancestor` or extends it, or implements that interface.
  package func type(_ name: String, implements ancestor: String) -> Bool {
    var next: String? = name
    while let name = next, let entry = entries[name] {
      if name == ancestor || entry.interface == ancestor { return true }
      if ancestor == "interface", entry.interface != nil { return true }
      next = entry.parent
    }
    return false
  }

  /// All properties, those of the most basic type first; without `type`.
  package func properties(of name: String) -> [Property] {
    guard let entry = entries[name] else { return [] }
    return (entry.parent.map { properties(of: $0) } ?? []) + entry.own
  }

  /// `qom-list-types`.
  package func list(implementing ancestor: String?, abstract: Bool) -> [ObjectTypeInfo] {
    order.compactMap { name in
      guard let entry = entries[name], abstract || !entry.isAbstract,
        ancestor.map({ type(name, implements: $0) }) ?? true
      else { return nil }
      return ObjectTypeInfo(
        name: name, abstract: entry.isAbstract ? true : nil, parent: entry.parent)
    }
  }

  /// `qom-list-properties`. Throws for a type that does not exist or has none.
  package func propertyList(of name: String) throws(QAPIError) -> [ObjectPropertyInfo] {
    guard entries[name] != nil else {
      throw QAPIError(.deviceNotFound, "Class '\(name)' not found")
    }
    if type(name, implements: "object") {
      return [ObjectPropertyInfo(name: "type", type: "string")]
        + properties(of: name).map { ObjectPropertyInfo(name: $0.name, type: $0.type) }
    }
    throw .expects("typename", "a QOM type")
  }

  /// `device-list-properties`. Throws for what is no device type that devices can be made of.
  package func devicePropertyList(of name: String) throws(QAPIError) -> [ObjectPropertyInfo] {
    guard entries[name] != nil else {
      throw QAPIError(.deviceNotFound, "Device '\(name)' not found")
    }
    guard isConcrete(name), type(name, implements: "device") else {
      throw .expects("typename", "a non-abstract device type")
    }
    return properties(of: name).filter {
      !Self.everyDevice.contains($0.name) && !$0.name.hasPrefix("legacy-")
    }.map(\.info)
  }

  /// What the life of every device is told by.
  static let everyDevice: Set<String> = ["parent_bus", "realized", "hotplugged", "hotpluggable"]
}
