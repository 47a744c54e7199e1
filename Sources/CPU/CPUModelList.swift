/// One line of `query-cpu-definitions`.
package struct CPUDefinition: Equatable, Sendable {
  package let name: String
  package let typeName: String
  package let aliasOf: String?
  package let isStatic: Bool
  package let isMigrationSafe: Bool
  package let isDeprecated: Bool
  /// Features of the model that the accelerator cannot offer.
  package let unavailableFeatures: [String]
}

extension CPUModel {
  /// Finds a model by name; case matters, as with QEMU. Reads one record of the table, not all: programs start with this.
  package static func named(_ name: String) -> CPUModel? {
    if let special = special(name) { return special }
    if name.utf8.contains(UInt8(ascii: "|")) { return nil }
    func lines(_ table: String) -> [Substring.UTF8View] {
      table.utf8.split(separator: UInt8(ascii: "\n"))
    }
    let alias = lines(CPUModelTable.aliases).first { $0.starts(with: "\(name) ".utf8) }
    let target = alias.map { String($0.dropFirst(name.utf8.count + 1)) ?? name } ?? name
    let records = lines(CPUModelTable.records)
    guard let index = records.firstIndex(where: { $0.starts(with: "\(target)|".utf8) }),
      index + 1 < records.count
    else { return nil }
    return parseRecord(Substring(records[index]), Substring(records[index + 1]), name: name)
  }

  /// All names, in the order of `query-cpu-definitions`.
  package static var names: [String] { catalog.order }

  /// What `query-cpu-definitions` answers.
  package static func definitions(_ capabilities: CPUCapabilities) -> [CPUDefinition] {
    names.compactMap { name in
      guard let model = catalog.models[name] else { return nil }
      let fixed = model.basis == .named || model.basis == .empty
      let wanted = model.basis == .named ? model.features : FeatureSet()
      let missing = wanted.subtracting(neverPassedOn)
      return CPUDefinition(
        name: name, typeName: model.typeName, aliasOf: catalog.aliases[name],
        isStatic: model.basis == .empty, isMigrationSafe: fixed, isDeprecated: model.isDeprecated,
        unavailableFeatures: missing.subtracting(capabilities.features).names)
    }
  }

  /// The text of `-cpu help`.
  package static var help: String {
    var text = "Available CPUs:\n"
    let special = ["base", "host", "max"]
    for name in names.sorted() where !special.contains(name) {
      guard let model = catalog.models[name] else { continue }
      let note = catalog.aliases[name].map { target in
        target.hasPrefix(name + "-v")
          ? "(alias configured by machine type)" : "(alias of \(target))"
      }
      text += "x86 \(padded(name))  \(note ?? model.summary)\n"
    }
    for name in special { text += "x86 \(padded(name))  \(named(name)?.summary ?? "")\n" }
    text += "\nRecognized CPUID flags:\n"
    var line = " "
    let flags = CPUFeature.all.map(\.name).filter { $0 != "kvmclock2" }
    for flag in flags.sorted() {
      if line.count + flag.count + 1 > 76 {
        text += line + "\n"
        line = " "
      }
      line += " " + flag
    }
    return text + line + "\n"
  }

  private static func padded(_ name: String) -> String {
    name + String(repeating: " ", count: max(0, 20 - name.count))
  }

  struct Catalog: Sendable {
    var order: [String]
    var models: [String: CPUModel]
    var aliases: [String: String]
  }

  static let catalog: Catalog = {
    var models: [String: CPUModel] = [:]
    var order = ["max", "host", "base"]  // special(_:) makes them
    for name in order { models[name] = special(name) }
    var aliases: [String: String] = [:]
    var aliasesOf: [String: [String]] = [:]
    for line in CPUModelTable.aliases.split(separator: "\n") {
      let words = line.split(separator: " ").map(String.init)
      guard words.count == 2 else { continue }
      aliases[words[0]] = words[1]
      aliasesOf[words[1], default: []].append(words[0])
    }
    let lines = CPUModelTable.records.split(separator: "\n")
    var index = 0
    while index + 1 < lines.count {
      if let model = parseRecord(lines[index], lines[index + 1], name: nil) {
        models[model.name] = model
        order.append(model.name)
        for alias in aliasesOf[model.name] ?? [] {
          models[alias] = parseRecord(lines[index], lines[index + 1], name: alias)
          order.append(alias)
        }
      }
      index += 2
    }
    // QEMU lists names from Z to A, by bytes, behind the special ones.
    let first = order.prefix(3)
    order = first + order.dropFirst(3).sorted { $1.utf8.lexicographicallyPrecedes($0.utf8) }
    return Catalog(order: order, models: models, aliases: aliases)
  }()

  private static func special(_ name: String) -> CPUModel? {
    switch name {
    case "max":
      special(
        "max", .everything,
        "Enables all features supported by the accelerator in the current host")
    case "host": special("host", .host, "processor with all supported host features ")
    case "base": special("base", .empty, "base CPU model type with no features enabled")
    default: nil
    }
  }

  private static func special(_ name: String, _ basis: Basis, _ summary: String) -> CPUModel {
    CPUModel(
      name: name, basis: basis, isDeprecated: false, summary: summary,
      level: basis == .empty ? 0 : 13, level7: 0, extendedLevel: basis == .empty ? 0 : 0x8000_0008,
      vendor: "", family: 0, model: 0, stepping: 0, modelID: "", caches: .generic,
      features: FeatureSet())
  }

  private static func parseRecord(
    _ head: Substring, _ words: Substring, name: String?
  ) -> CPUModel? {
    let fields = head.split(separator: "|", omittingEmptySubsequences: false).map(String.init)
    guard fields.count == 12, let level = UInt32(fields[1]), let level7 = UInt32(fields[2]),
      let extended = UInt32(fields[3], radix: 16), let family = UInt32(fields[5]),
      let model = UInt32(fields[6]), let stepping = UInt32(fields[7])
    else { return nil }
    var features = FeatureSet()
    for word in words.split(separator: " ") {
      let parts = word.split(separator: "=")
      guard parts.count == 2, let bits = UInt32(parts[1], radix: 16),
        let index = FeatureWord.tableKeys.firstIndex(of: String(parts[0])),
        let key = FeatureWord(rawValue: index)
      else { continue }
      features[key] = bits
    }
    features["hypervisor"] = true
    var result = CPUModel(
      name: name ?? fields[0], basis: .named, isDeprecated: fields[10] == "deprecated",
      summary: fields[11], level: level, level7: level7, extendedLevel: extended,
      vendor: fields[4], family: family, model: model, stepping: stepping, modelID: fields[8],
      caches: CPUCaches(rawValue: fields[9]) ?? .generic, features: features)
    result.usesLegacyCache = result.caches == .generic
    return result
  }
}
