// What `query-cpu-model-expansion` tells: a model's properties with their values, under QEMU 7.2's names.

extension CPUModel {
  /// The value of a CPU property.
  package enum Property: Equatable, Sendable {
    case bool(Bool)
    case unsigned(UInt64)
    case signed(Int64)
    case text(String)
    /// A value that no property has.
    case other

    /// How error texts call the type.
    var typeName: String {
      switch self {
      case .bool: "boolean"
      case .unsigned, .signed: "integer"
      case .text: "string"
      case .other: "null"
      }
    }
  }

  /// A model written out, with `changes` to it: feature bits and identification, or with `isFull` all properties.
  ///
  /// As in QEMU, what the model asks for is told, not what of it the accelerator grants; `max` and `host` ask for what it grants.
  /// Throws QEMU's sentences for a model or property that does not exist and for a value that the property cannot have.
  package static func properties(
    ofModel name: String, changes: [(name: String, value: Property)], isFull: Bool,
    _ capabilities: CPUCapabilities
  ) throws(CPUModelError) -> [(name: String, value: Property)] {
    guard var model = named(name) else {
      throw CPUModelError(message: "CPU model '\(name)' not found")
    }
    var others: [String: Property] = [:]
    for (name, value) in changes { try model.change(name, value, &others) }
    var expanded = model.identified(capabilities)
    expanded.features = model.wantedFeatures(capabilities)
    dropUntold(&expanded.features, capabilities)
    if expanded.features[.leaf1EDX] | expanded.features[.leaf1ECX] != 0 {
      expanded.level = max(expanded.level, 1)
    }
    expanded.raiseLevels(capabilities)
    let asked = Set(model.unavailableNames)
    var list: [(name: String, value: Property)] =
      CPUFeature.all.filter { $0.name != "kvmclock2" }.map {
        ($0.name, .bool(expanded.features[$0]))
      } + vmxFeatures.map { ($0, .bool(asked.contains($0))) }
    list += [
      ("min-level", .unsigned(UInt64(expanded.level))),
      ("min-xlevel", .unsigned(UInt64(expanded.extendedLevel))),
      ("vendor", .text(expanded.vendor)), ("family", .unsigned(UInt64(expanded.family))),
      ("model", .unsigned(UInt64(expanded.model))),
      ("stepping", .unsigned(UInt64(expanded.stepping))), ("model-id", .text(expanded.modelID)),
      ("lmce", .bool(expanded.wantsLMCE)),
    ]
    guard isFull else { return list }
    list += expanded.ownProperties(capabilities).map { ($0.name, others[$0.name] ?? $0.value) }
    for name in otherFeatureNames { list.append((name, .bool(expanded.features[name]))) }
    for (name, value) in otherProperties { list.append((name, others[name] ?? value)) }
    return list
  }

  /// Feature words that QEMU empties when what they belong to is missing.
  static func dropUntold(_ set: inout FeatureSet, _ capabilities: CPUCapabilities) {
    if capabilities.kind != .kvm {
      set[.kvmEAX] = 0
      set[.kvmEDX] = 0
    }
    if !set["svm"] { set[.svmEDX] = 0 }
    if !set["arch-capabilities"] { set[.archCapabilities] = 0 }
    if !set["core-capability"] { set[.coreCapability] = 0 }
    if !set["intel-pt"] { set[.leaf14ECX] = 0 }
  }

  /// Properties that this type keeps, beyond those of `static` expansion.
  func ownProperties(
    _ capabilities: CPUCapabilities
  ) -> [(name: String, value: Property)] {
    var list: [(name: String, value: Property)] = [
      ("level", .unsigned(UInt64(level))), ("level-func7", .unsigned(UInt64(level7))),
      ("xlevel", .unsigned(UInt64(extendedLevel))), ("xlevel2", .unsigned(UInt64(extendedLevel2))),
      ("min-xlevel2", .unsigned(UInt64(extendedLevel2))),
      ("phys-bits", .unsigned(UInt64(physicalBits))),
      ("host-phys-bits-limit", .unsigned(UInt64(hostPhysicalBitsLimit))),
      ("tsc-frequency", .unsigned(tscFrequency)), ("ucode-rev", .unsigned(microcodeRevision)),
    ]
    let followsHost = basis == .host || basis == .everything
    for (name, path) in Self.switches where name != "lmce" {
      if !followsHost, name == "migratable" || name == "host-cache-info" { continue }
      let isOn =
        name == "host-phys-bits" && basis == .host && capabilities.kind == .kvm
        ? true : self[keyPath: path]
      list.append((name, .bool(isOn)))
    }
    return list
  }

  /// Makes one change. What has no meaning for this type is only kept in `others`, to be told again.
  private mutating func change(
    _ name: String, _ value: Property, _ others: inout [String: Property]
  ) throws(CPUModelError) {
    let canonical = CPUFeature.canonical(name)
    func expect(_ type: Property) throws(CPUModelError) {
      if type.typeName == value.typeName { return }
      throw CPUModelError(
        message: "Invalid parameter type for '\(name)', expected: \(type.typeName)")
    }
    if let other = Self.otherProperties.first(where: { $0.name == name }) {
      try expect(other.value)
      others[name] = value
      return
    }
    let isSwitch =
      CPUFeature.named(canonical) != nil || Self.vmxFeatures.contains(canonical)
      || Self.switches[canonical] != nil
    if isSwitch {
      try expect(.bool(true))
    } else if ["vendor", "model-id"].contains(name) {
      try expect(.text(""))
    } else if Self.numbers.contains(name) {
      try expect(.unsigned(0))
    } else {
      throw CPUModelError(message: "Property '\(typeName).\(name)' not found")
    }
    switch (name, value) {
    // Checked and completed when a CPU is made of the model.
    case ("phys-bits", .unsigned), ("level", .unsigned), ("xlevel", .unsigned):
      others[name] = value
      return
    case (_, .signed(let number)):
      guard let highest = ["family": 270, "model": 255, "stepping": 15][name] else {
        throw CPUModelError(message: "Parameter '\(name)' expects uint32_t")
      }
      let text = "Property .\(name) doesn't take value \(number)"
      throw CPUModelError(message: "\(text) (minimum: 0, maximum: \(highest))")
    default: break
    }
    let text =
      switch value {
      case .bool(let isOn): isOn ? "on" : "off"
      case .unsigned(let number): String(number)
      case .text(let text): text
      case .signed, .other: ""
      }
    try set(canonical, text, prefix: "")
  }

  private static let numbers: Set<String> = [
    "level", "min-level", "level-func7", "xlevel", "min-xlevel", "xlevel2", "min-xlevel2",
    "family", "model", "stepping", "phys-bits", "host-phys-bits-limit", "tsc-frequency",
    "ucode-rev",
  ]

  /// Second names of features that are properties of their own.
  static let otherFeatureNames = """
    cmp_legacy ds_cpl ffxsr fxsr_opt i64 kvm_asyncpf kvm_asyncpf_int kvm_mmu kvm_nopiodelay \
    kvm_poll_control kvm_pv_eoi kvm_pv_unhalt kvm_steal_time lahf_lm nodeid_msr nrip_save \
    pause_filter pclmuldq perfctr_core perfctr_nb sse3 sse4-1 sse4-2 sse4_1 sse4_2 svm_lock \
    tsc_adjust tsc_scale vmcb_clean xd
    """.split(separator: " ").map(String.init)

  /// QEMU's further properties with their defaults. Hyper-V's interface, migration from old versions and places of hot-plugged
  /// processors: none of them changes a CPU here.
  static let otherProperties: [(name: String, value: Property)] =
    """
    hv-apicv hv-avic hv-crash hv-emsr-bitmap hv-enforce-cpuid hv-evmcs hv-frequencies hv-ipi \
    hv-passthrough hv-reenlightenment hv-relaxed hv-reset hv-runtime hv-stimer hv-stimer-direct \
    hv-syndbg hv-synic hv-time hv-tlbflush hv-tlbflush-direct hv-tlbflush-ext hv-vapic hv-vpindex \
    hv-xmm-input kvm-no-smi-migration kvm-pv-enforce-cpuid realized start-powered-off \
    x-force-features x-hv-synic-kvm-only
    """.split(separator: " ").map { (String($0), .bool(false)) }
    + [
      "fill-mtrr-mask", "vmware-cpuid-freq", "x-intel-pt-auto-level", "x-migrate-smi-count",
      "x-vendor-cpuid-only",
    ].map { ($0, .bool(true)) }
    + ["core-id", "die-id", "node-id", "socket-id", "thread-id", "x-hv-max-vps"].map {
      ($0, .signed(-1))
    }
    + [
      ("apic-id", .unsigned(0xFFFF_FFFF)), ("hv-no-nonarch-coresharing", .text("off")),
      ("hv-spinlocks", .unsigned(0xFFFF_FFFF)), ("hv-vendor-id", .text("")),
      ("hv-version-id-build", .unsigned(14393)), ("hv-version-id-major", .unsigned(10)),
      ("hv-version-id-minor", .unsigned(0)), ("hv-version-id-sbranch", .unsigned(0)),
      ("hv-version-id-snumber", .unsigned(0)), ("hv-version-id-spack", .unsigned(0)),
      ("lbr-fmt", .unsigned(~63)), ("lbr_fmt", .unsigned(~63)),
      ("memory", .text("/machine/unattached/system[0]")),
    ]
}
