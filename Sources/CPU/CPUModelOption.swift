// The grammar of `-cpu`: MODEL[,+FEATURE][,-FEATURE][,FEATURE[=on|off]][,PROPERTY=VALUE]…, with QEMU's messages.

extension CPUModel {
  /// Reads the argument of `-cpu`. As with QEMU, `+` and `-` are applied after everything else.
  ///
  /// Throws for an unknown model or property, or a value that the property does not take.
  package static func parse(_ option: String) throws(CPUModelError) -> CPUModel {
    let parts = option.split(separator: ",", omittingEmptySubsequences: true).map(String.init)
    guard let name = parts.first else {
      throw CPUModelError(message: "-cpu option cannot be empty")
    }
    guard var result = named(name) else {
      let hint = nearest(to: name, among: names).map { "; did you mean '\($0)'?" } ?? ""
      throw CPUModelError(message: "unable to find CPU model '\(name)'\(hint)")
    }
    var signed: [(name: String, isOn: Bool)] = []
    for part in parts.dropFirst() {
      if part.hasPrefix("+") || part.hasPrefix("-") {
        signed.append((String(part.dropFirst()), part.hasPrefix("+")))
      } else if let split = part.firstIndex(of: "=") {
        let value = String(part[part.index(after: split)...])
        try result.set(String(part[..<split]), value)
      } else {
        try result.set(part, "on")
      }
    }
    for (name, isOn) in signed.filter(\.isOn) + signed.filter({ !$0.isOn }) {
      try checkFixed(CPUFeature.canonical(name), isOn)
      guard result.setFeature(name, isOn) else { throw result.notFound(name, prefix: "") }
    }
    return result
  }

  /// False if there is no such feature.
  private mutating func setFeature(_ name: String, _ isOn: Bool) -> Bool {
    let canonical = CPUFeature.canonical(name)
    if let feature = CPUFeature.named(canonical) {
      added[feature] = isOn
      removed[feature] = !isOn
      return true
    }
    if Self.vmxFeatures.contains(canonical) {
      unavailableNames.removeAll { $0 == canonical }
      if isOn { unavailableNames.append(canonical) }
      return true
    }
    if Self.fixedSwitches[canonical] != nil { return true }
    if let property = Self.switches[canonical] {
      self[keyPath: property] = isOn
      return true
    }
    return false
  }

  private mutating func set(_ given: String, _ value: String) throws(CPUModelError) {
    let name = CPUFeature.canonical(given)
    try set(name, value, prefix: "can't apply global \(typeName).\(name)=\(value): ")
  }

  /// Sets a property by its canonical name; error texts begin with `prefix`.
  mutating func set(
    _ name: String, _ value: String, prefix: String
  ) throws(CPUModelError) {
    if CPUFeature.named(name) != nil || Self.vmxFeatures.contains(name)
      || Self.switches[name] != nil || Self.fixedSwitches[name] != nil
    {
      guard let isOn = Self.boolean(value) else {
        throw CPUModelError(message: "\(prefix)Parameter '\(name)' expects 'on' or 'off'")
      }
      try Self.checkFixed(name, isOn)
      _ = setFeature(name, isOn)
      return
    }
    func number(_ lowest: UInt64 = 0, _ highest: UInt64 = .max) throws(CPUModelError) -> UInt64 {
      guard let number = Self.unsigned(value) else {
        throw CPUModelError(message: "\(prefix)Parameter '\(name)' expects uint64")
      }
      guard number >= lowest, number <= highest else {
        let text = "Property .\(name) doesn't take value \(number)"
        throw CPUModelError(message: "\(prefix)\(text) (minimum: \(lowest), maximum: \(highest))")
      }
      return number
    }
    func word() throws(CPUModelError) -> UInt32 { UInt32(try number(0, UInt64(UInt32.max))) }
    switch name {
    case "level", "min-level":
      level = name == "level" ? try word() : max(level, try word())
      hasLevel = name == "level"
    case "level-func7": level7 = try word()
    case "xlevel", "min-xlevel":
      extendedLevel = name == "xlevel" ? try word() : max(extendedLevel, try word())
      hasExtendedLevel = name == "xlevel"
      // QEMU adds the base to a small number.
      if extendedLevel != 0, extendedLevel < 0x8000_0000 { extendedLevel += 0x8000_0000 }
    case "xlevel2", "min-xlevel2": extendedLevel2 = try word()
    case "family":
      family = UInt32(try number(0, 0xFF + 0xF))
      identity.insert(.family)
    case "model":
      model = UInt32(try number(0, 0xFF))
      identity.insert(.model)
    case "stepping":
      stepping = UInt32(try number(0, 15))
      identity.insert(.stepping)
    case "vendor":
      guard value.utf8.count == 12 else {
        throw CPUModelError(message: "\(prefix)Property '.vendor' doesn't take value '\(value)'")
      }
      vendor = value
      identity.insert(.vendor)
    case "model-id":
      modelID = String(decoding: value.utf8.prefix(48), as: UTF8.self)
      identity.insert(.modelID)
    case "phys-bits":
      physicalBits = try word()
      if physicalBits != 0, physicalBits < 32 || physicalBits > 52 {
        throw CPUModelError(
          message: "phys-bits should be between 32 and 52  (but is \(physicalBits))")
      }
    case "host-phys-bits-limit": hostPhysicalBitsLimit = try word()
    case "tsc-frequency":
      guard let frequency = Self.unsigned(value), frequency <= UInt64(Int64.max) else {
        throw CPUModelError(message: "\(prefix)Parameter 'tsc-frequency' expects int64")
      }
      tscFrequency = frequency
    case "tsc-freq":
      guard let frequency = Self.metric(value) else {
        throw CPUModelError(message: "bad numerical value \(value)")
      }
      tscFrequency = frequency
    case "ucode-rev": microcodeRevision = try number()
    case "apic-id", "socket-id", "die-id", "core-id", "thread-id", "node-id":
      throw CPUModelError(
        message: "'\(name)' belongs to one CPU of a machine: set -smp, or -numa cpu, instead")
    default:
      if name.hasPrefix("hv-") || name == "lbr-fmt" || name.hasPrefix("x-") {
        throw CPUModelError(
          message: "\(prefix)'\(name)' is not supported; no guest of this machine needs it")
      }
      throw notFound(name, prefix: prefix)
    }
  }

  private func notFound(_ name: String, prefix: String) -> CPUModelError {
    let known =
      CPUFeature.all.map(\.name) + Array(Self.switches.keys) + [
        "level", "xlevel", "family", "model", "stepping", "vendor", "model-id", "phys-bits",
        "tsc-frequency",
      ]
    let hint = Self.nearest(to: CPUFeature.canonical(name), among: known)
    let text = "\(prefix)Property '\(typeName).\(name)' not found"
    return CPUModelError(message: hint.map { "\(text); did you mean '\($0)'?" } ?? text)
  }

  /// Properties that are on or off and no feature bits.
  static let switches: [String: any WritableKeyPath<CPUModel, Bool> & Sendable] = [
    "check": \.checks, "enforce": \.enforces, "kvm": \.showsKVM, "tcg-cpuid": \.showsTCG,
    "cpuid-0xb": \.hasTopologyLeaf, "l3-cache": \.hasL3Cache,
    "full-cpuid-auto-level": \.automaticLevel, "legacy-cache": \.usesLegacyCache,
    "migratable": \.isMigratable, "host-phys-bits": \.usesHostPhysicalBits, "pmu": \.wantsPMU,
    "host-cache-info": \.wantsHostCaches, "lmce": \.wantsLMCE,
  ]

  /// Properties that have one value only, the one that QEMU has by default.
  static let fixedSwitches: [String: Bool] = [
    "fill-mtrr-mask": true, "vmware-cpuid-freq": true, "kvm-pv-enforce-cpuid": false,
    "kvm-no-smi-migration": false, "start-powered-off": false,
  ]

  private static func checkFixed(_ name: String, _ isOn: Bool) throws(CPUModelError) {
    guard let value = fixedSwitches[name], value != isOn else { return }
    throw CPUModelError(
      message: "'\(name)=\(isOn ? "on" : "off")' is not supported; leave it out")
  }

  static let vmxFeatures: Set<String> = Set(
    CPUModelTable.vmxFeatures.split { $0 == " " || $0 == "\n" }.map(String.init))

  private static func boolean(_ value: String) -> Bool? {
    switch value {
    case "on", "yes", "true", "y": true
    case "off", "no", "false", "n": false
    default: nil
    }
  }

  private static func unsigned(_ value: String) -> UInt64? {
    if value.hasPrefix("0x") || value.hasPrefix("0X") {
      return UInt64(value.dropFirst(2), radix: 16)
    }
    return UInt64(value)
  }

  /// A number with a decimal suffix k, M, G or T.
  private static func metric(_ value: String) -> UInt64? {
    let scales: [Character: UInt64] = [
      "k": 1000, "K": 1000, "M": 1_000_000, "G": 1_000_000_000, "T": 1_000_000_000_000,
    ]
    guard let last = value.last, let scale = scales[last] else { return unsigned(value) }
    guard let number = unsigned(String(value.dropLast())) else { return nil }
    let product = number.multipliedReportingOverflow(by: scale)
    return product.overflow ? nil : product.partialValue
  }

  /// The candidate with the smallest edit distance, if it is near enough to be meant.
  static func nearest(to word: String, among candidates: [String]) -> String? {
    let source = Array(word.lowercased().utf8.prefix(64))
    var best: (name: String, distance: Int)?
    for candidate in candidates {
      let distance = editDistance(source, Array(candidate.lowercased().utf8))
      if distance < best?.distance ?? Int.max { best = (candidate, distance) }
    }
    guard let best, best.distance <= (source.count < 4 ? 1 : max(2, source.count / 3)) else {
      return nil
    }
    return best.name
  }

  private static func editDistance(_ a: [UInt8], _ b: [UInt8]) -> Int {
    var row = Array(0...b.count)
    for (i, x) in a.enumerated() {
      var diagonal = row[0]
      row[0] = i + 1
      for (j, y) in b.enumerated() {
        let substitution = diagonal + (x == y ? 0 : 1)
        diagonal = row[j + 1]
        row[j + 1] = min(substitution, row[j] + 1, row[j + 1] + 1)
      }
    }
    return row[b.count]
  }
}
