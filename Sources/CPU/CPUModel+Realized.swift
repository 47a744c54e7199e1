// A CPU made of a model, as its object shows it.

extension CPUModel {
  /// What a virtual processor of the machine has.
  package struct Realized: Sendable {
    /// All properties under QEMU's names, but places in the machine.
    package let properties: [(name: String, value: Property)]
    /// Features that the model asks for and the accelerator has not.
    package let unavailable: [String]
    /// The bits of each feature word: what the guest has, and what was left out.
    package let words: [FeatureWordValue]
  }

  /// A feature word with its place in CPUID.
  package struct FeatureWordValue: Sendable {
    package let register: String
    package let leaf: UInt32
    package let subleaf: UInt32?
    package let features: UInt32
    package let filtered: UInt32
  }

  /// What CPUs of this model have under this accelerator.
  package func realized(_ capabilities: CPUCapabilities) -> Realized {
    var model = identified(capabilities)
    let wanted = wantedFeatures(capabilities)
    var missing = wanted.subtracting(capabilities.features)
    missing = missing.subtracting(Self.neverPassedOn.subtracting(added))
    var features = wanted.intersection(capabilities.features)
    Self.dropDependents(&features)
    Self.dropUntold(&features, capabilities)
    if basis == .everything || basis == .host { missing = FeatureSet() }
    model.features = features
    model.raiseLevels(capabilities)
    var list: [String: Property] = [:]
    for (name, value) in Self.otherProperties { list[name] = value }
    for (name, value) in model.ownProperties(capabilities) { list[name] = value }
    for feature in CPUFeature.all where feature.name != "kvmclock2" {
      list[feature.name] = .bool(features[feature])
    }
    for name in Self.vmxFeatures { list[name] = .bool(false) }
    for name in Self.otherFeatureNames { list[name] = .bool(features[name]) }
    let isAMD = model.vendor == "AuthenticAMD" || model.vendor == "HygonGenuine"
    let level7 = model.level >= 7 ? UInt64(model.level7) : 0
    let numbers: [(String, UInt64)] = [
      ("level", UInt64(model.level)), ("min-level", UInt64(model.level)),
      ("xlevel", UInt64(model.extendedLevel)), ("min-xlevel", UInt64(model.extendedLevel)),
      ("xlevel2", UInt64(model.extendedLevel2)), ("min-xlevel2", UInt64(model.extendedLevel2)),
      ("level-func7", level7), ("family", UInt64(model.family)), ("model", UInt64(model.model)),
      ("stepping", UInt64(model.stepping)),
      ("phys-bits", UInt64((try? resolvedPhysicalBits(capabilities)) ?? 40)),
      (
        "ucode-rev",
        model.microcodeRevision != 0
          ? model.microcodeRevision : isAMD ? 0x0100_0065 : 0x1_0000_0000
      ),
    ]
    for (name, value) in numbers { list[name] = .unsigned(value) }
    list["vendor"] = .text(model.vendor)
    list["model-id"] = .text(model.modelID)
    list["lmce"] = .bool(model.wantsLMCE)
    list["hv-vendor-id"] = .text("Microsoft Hv")
    list["realized"] = .bool(true)
    return Realized(
      properties: list.map { ($0.key, $0.value) }, unavailable: missing.names + unavailableNames,
      words: Self.words(features, missing))
  }

  private static func words(_ has: FeatureSet, _ filtered: FeatureSet) -> [FeatureWordValue] {
    places.reversed().map { word, leaf, subleaf, register in
      FeatureWordValue(
        register: register, leaf: leaf, subleaf: subleaf, features: has[word],
        filtered: filtered[word])
    }
  }

  private static let places: [(FeatureWord, UInt32, UInt32?, String)] = [
    (.leaf1EDX, 1, nil, "EDX"), (.leaf1ECX, 1, nil, "ECX"), (.leaf7EBX, 7, 0, "EBX"),
    (.leaf7ECX, 7, 0, "ECX"), (.leaf7EDX, 7, 0, "EDX"), (.leaf7Sub1EAX, 7, 1, "EAX"),
    (.extended1EDX, 0x8000_0001, nil, "EDX"), (.extended1ECX, 0x8000_0001, nil, "ECX"),
    (.extended7EDX, 0x8000_0007, nil, "EDX"), (.extended8EBX, 0x8000_0008, nil, "EBX"),
    (.centaurEDX, 0xC000_0001, nil, "EDX"), (.kvmEAX, 0x4000_0001, nil, "EAX"),
    (.kvmEDX, 0x4000_0001, nil, "EDX"), (.svmEDX, 0x8000_000A, nil, "EDX"),
    (.xsaveEAX, 13, 1, "EAX"), (.leaf6EAX, 6, nil, "EAX"),
  ]
}
