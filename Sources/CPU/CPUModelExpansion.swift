// From a model and an accelerator's abilities to the answers of CPUID (Intel SDM vol. 2A, AMD APM vol. 3 appendix E).

extension CPUModel {
  /// What CPUID answers under this accelerator, and the warnings to print.
  ///
  /// Nothing is offered that `capabilities` lacks. Throws when `enforce` is on and something was left out, or when the
  /// address width is wrong.
  package func cpuidTable(
    _ capabilities: CPUCapabilities, topology: CPUTopology
  ) throws(CPUModelError) -> (table: CPUIDTable, warnings: [String]) {
    var warnings: [String] = []
    let features = try resolvedFeatures(capabilities, &warnings)
    var resolved = identified(capabilities)
    if wantsPMU {
      warnings.append("\(capabilities.subject) has no PMU for this CPU: pmu=on ignored")
    }
    if wantsLMCE { warnings.append("lmce=on is not supported and ignored") }
    resolved.features = features
    resolved.raiseLevels(capabilities)
    let bits = try resolvedPhysicalBits(capabilities)
    let builder = CPUIDBuilder(
      model: resolved, topology: topology, capabilities: capabilities, physicalBits: bits)
    return (builder.table(), warnings)
  }

  /// What the model asks for with the option's changes and the accelerator's defaults.
  func wantedFeatures(_ capabilities: CPUCapabilities) -> FeatureSet {
    let offered = capabilities.features
    var wanted = features
    switch basis {
    case .everything, .host:
      wanted = offered
      // As with QEMU, what ties a guest to this host's clock needs migratable=off; the software CPU's clock is its own.
      if isMigratable, capabilities.kind == .kvm { wanted["invtsc"] = false }
      if wanted["topoext"], identified(capabilities).vendor != "AuthenticAMD" {
        wanted["topoext"] = false
      }
    case .named:
      // Defaults by accelerator, changed silently.
      if capabilities.kind == .kvm {
        for name in ["x2apic", "kvmclock", "kvm-nopiodelay", "kvm-steal-time"]
        where offered[name] { wanted[name] = true }
        if offered["kvmclock-stable-bit"] { wanted["kvmclock-stable-bit"] = true }
        for name in ["acpi", "monitor", "svm"] { wanted[name] = false }
      } else {
        wanted["vme"] = false
        if offered["x2apic"] { wanted["x2apic"] = true }
      }
    case .empty: break
    }
    wanted = wanted.union(added).subtracting(removed)
    if !showsKVM {
      wanted[.kvmEAX] = 0
      wanted[.kvmEDX] = 0
    }
    return wanted
  }

  private func resolvedFeatures(
    _ capabilities: CPUCapabilities, _ warnings: inout [String]
  ) throws(CPUModelError) -> FeatureSet {
    let offered = capabilities.features
    let wanted = wantedFeatures(capabilities)
    var missing = wanted.subtracting(offered)
    missing = missing.subtracting(Self.neverPassedOn.subtracting(added))
    if checks || enforces {
      for feature in CPUFeature.all where missing[feature] && feature.name != "kvmclock2" {
        warnings.append(
          "\(capabilities.subject) doesn't support requested feature: \(feature.description)")
      }
      for name in unavailableNames {
        warnings.append("\(capabilities.subject) doesn't support requested feature: \(name)")
      }
    }
    if enforces, missing != FeatureSet() || !unavailableNames.isEmpty {
      throw CPUModelError(
        message: "\(capabilities.capitalizedSubject) doesn't support requested features")
    }
    var result = wanted.intersection(offered)
    Self.dropDependents(&result)
    return result
  }

  /// What QEMU's models list for processors but a guest never gets by default: left out without a word unless asked for.
  static let neverPassedOn = FeatureSet(
    names: """
      monitor dtes64 ds ds-cpl tm tm2 pbe est xtpr ia64 vme svm npt nrip-save svme-addr-chk pdcm cid
      """.split { $0 == "\n" }.joined(separator: " "))

  /// Features that are useless or harmful without another one.
  static func dropDependents(_ set: inout FeatureSet) {
    if !set["xsave"] {
      for name in ["avx", "xsaveopt", "xsavec", "xgetbv1", "xsaves"] { set[name] = false }
    }
    if !set["avx"] { for name in ["avx2", "fma", "f16c"] { set[name] = false } }
    if !set["lm"] { set["pdpe1gb"] = false }
    if !set["apic"] { for name in ["x2apic", "tsc-deadline"] { set[name] = false } }
  }

  /// Vendor, family and so on of `host` and `max`, where the option does not say otherwise.
  func identified(_ capabilities: CPUCapabilities) -> CPUModel {
    var result = self
    guard basis == .host || basis == .everything else { return result }
    var vendor = "AuthenticAMD"
    var (family, model, stepping): (UInt32, UInt32, UInt32) = (15, 107, 1)
    var modelID = "QEMU TCG CPU version 2.5+"
    if basis == .host || capabilities.kind == .kvm {
      let host = capabilities.host
      let head = host.entry(0)
      vendor = Self.text([head.ebx, head.edx, head.ecx])
      let signature = host.entry(1).eax
      family = signature >> 8 & 15
      if family == 15 { family += signature >> 20 & 0xFF }
      model = signature >> 4 & 15 | signature >> 12 & 0xF0
      stepping = signature & 15
      modelID = Self.text(
        (2...4).flatMap { leaf -> [UInt32] in
          let entry = host.entry(0x8000_0000 + UInt32(leaf))
          return [entry.eax, entry.ebx, entry.ecx, entry.edx]
        })
    }
    if !identity.contains(.vendor) { result.vendor = vendor }
    if !identity.contains(.family) { result.family = family }
    if !identity.contains(.model) { result.model = model }
    if !identity.contains(.stepping) { result.stepping = stepping }
    if !identity.contains(.modelID) { result.modelID = modelID }
    return result
  }

  private static func text(_ words: [UInt32]) -> String {
    var bytes: [UInt8] = []
    for word in words {
      for shift in stride(from: UInt32(0), to: 32, by: 8) {
        bytes.append(UInt8(truncatingIfNeeded: word >> shift))
      }
    }
    return String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
  }

  /// Raises the highest leaves so that every feature present can be found, unless the option set them.
  mutating func raiseLevels(_ capabilities: CPUCapabilities) {
    func atLeast(_ value: UInt32, _ field: inout UInt32) { field = max(field, value) }
    if !hasLevel, automaticLevel {
      if features[.leaf6EAX] != 0 { atLeast(6, &level) }
      if features[.leaf7EBX] | features[.leaf7ECX] | features[.leaf7EDX] != 0 { atLeast(7, &level) }
      if features["xsave"] { atLeast(0xD, &level) }
      let follows = basis == .host || basis == .everything
      if follows, capabilities.tscFrequency != nil, capabilities.apicTimerFrequency != nil {
        atLeast(0x16, &level)
      }
    }
    if features[.leaf7Sub1EAX] != 0 { atLeast(1, &level7) }
    if !hasExtendedLevel, automaticLevel {
      if features[.extended1EDX] | features[.extended1ECX] != 0 {
        atLeast(0x8000_0001, &extendedLevel)
      }
      if features[.extended7EDX] != 0 { atLeast(0x8000_0007, &extendedLevel) }
      if features[.extended8EBX] != 0 || basis == .host { atLeast(0x8000_0008, &extendedLevel) }
      if features["topoext"] { atLeast(0x8000_001E, &extendedLevel) }
    }
  }

  func resolvedPhysicalBits(
    _ capabilities: CPUCapabilities
  ) throws(CPUModelError) -> UInt32 {
    let host = capabilities.host.entry(0x8000_0008).eax & 0xFF
    if physicalBits != 0 { return physicalBits }
    let follows = usesHostPhysicalBits || (basis == .host && capabilities.kind == .kvm)
    guard follows, host >= 32 else { return 40 }
    let bits = min(host, 52)
    return hostPhysicalBitsLimit == 0 ? bits : min(bits, max(32, hostPhysicalBitsLimit))
  }
}
