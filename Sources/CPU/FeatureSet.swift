/// One feature bit: where it stands and what it is called.
package struct CPUFeature: Equatable, Sendable {
  package let name: String
  package let word: FeatureWord
  package let bit: UInt32

  /// As QEMU's messages name it: `CPUID.07H:EBX.avx512f [bit 16]`.
  package var description: String { "\(word.label).\(name) [bit \(bit)]" }

  /// All named features, in the order of words and bits.
  package static let all: [CPUFeature] = {
    var list: [CPUFeature] = []
    for word in FeatureWord.allCases {
      var bit: UInt32 = 0
      for name in FeatureWord.bitNames[word.rawValue].split(separator: " ") {
        if name != "-" { list.append(CPUFeature(name: String(name), word: word, bit: bit)) }
        bit &+= 1
      }
    }
    return list
  }()

  private static let byName: [String: CPUFeature] = {
    var table: [String: CPUFeature] = [:]
    table.reserveCapacity(all.count)
    for feature in all { table[feature.name] = feature }
    return table
  }()

  /// Other spellings that QEMU accepts, after `_` has become `-`.
  private static let aliases: [String: String] = [
    "sse3": "pni", "pclmuldq": "pclmulqdq", "sse4-1": "sse4.1", "sse4-2": "sse4.2", "xd": "nx",
    "ffxsr": "fxsr-opt", "i64": "lm", "kvmclock2": "kvmclock",
  ]

  /// The spelling that `CPUFeature.name` uses.
  package static func canonical(_ name: String) -> String {
    let dashed = String(name.map { $0 == "_" ? "-" : $0 })
    return aliases[dashed] ?? dashed
  }

  /// Finds a feature by any of its spellings.
  package static func named(_ name: String) -> CPUFeature? { byName[canonical(name)] }
}

/// A set of feature bits, one word for each `FeatureWord`.
package struct FeatureSet: Equatable, Sendable {
  private var words: [UInt32]

  package init() { words = [UInt32](repeating: 0, count: FeatureWord.allCases.count) }

  /// The features that `list` names, separated by blanks; unknown names are left out.
  package init(names list: String) {
    self.init()
    for name in list.split(separator: " ") { self[String(name)] = true }
  }

  /// The set as `registers` gave it; what is missing at the end is empty.
  package init(registers: [UInt32]) {
    self.init()
    for (index, word) in registers.prefix(words.count).enumerated() { words[index] = word }
  }

  /// All words in order.
  package var registers: [UInt32] { words }

  package subscript(word: FeatureWord) -> UInt32 {
    get { words[word.rawValue] }
    set { words[word.rawValue] = newValue }
  }

  package subscript(feature: CPUFeature) -> Bool {
    get { self[feature.word] >> feature.bit & 1 != 0 }
    set {
      if newValue {
        self[feature.word] |= 1 << feature.bit
        if feature.name == "kvmclock" { self[.kvmEAX] |= 1 << 3 }
      } else {
        self[feature.word] &= ~(1 << feature.bit)
        if feature.name == "kvmclock" { self[.kvmEAX] &= ~(1 << 3) }
      }
    }
  }

  /// By name, any spelling. False and without effect for a name that does not exist.
  package subscript(name: String) -> Bool {
    get { CPUFeature.named(name).map { self[$0] } ?? false }
    set { if let feature = CPUFeature.named(name) { self[feature] = newValue } }
  }

  package func intersection(_ other: FeatureSet) -> FeatureSet { combine(other, &) }
  package func union(_ other: FeatureSet) -> FeatureSet { combine(other, |) }
  package func subtracting(_ other: FeatureSet) -> FeatureSet { combine(other) { $0 & ~$1 } }

  /// The names in the set, by word and bit.
  package var names: [String] {
    CPUFeature.all.filter { self[$0] && $0.name != "kvmclock2" }.map(\.name)
  }

  private func combine(_ other: FeatureSet, _ body: (UInt32, UInt32) -> UInt32) -> FeatureSet {
    var result = self
    for index in result.words.indices {
      result.words[index] = body(words[index], other.words[index])
    }
    return result
  }
}

extension FeatureSet {
  /// The feature words that a CPUID table holds: the host's own, or what KVM_GET_SUPPORTED_CPUID lists.
  package init(table: CPUIDTable) {
    self.init()
    let leaf1 = table.entry(1)
    self[.leaf1EDX] = leaf1.edx
    self[.leaf1ECX] = leaf1.ecx & ~(1 << 27)
    let leaf7 = table.entry(7)
    self[.leaf7EBX] = leaf7.ebx
    self[.leaf7ECX] = leaf7.ecx & ~(1 << 4)
    self[.leaf7EDX] = leaf7.edx
    self[.leaf7Sub1EAX] = table.entry(7, 1).eax
    let extended1 = table.entry(0x8000_0001)
    self[.extended1EDX] = extended1.edx & ~CPUModel.amdAliases
    self[.extended1ECX] = extended1.ecx
    self[.extended7EDX] = table.entry(0x8000_0007).edx
    self[.extended8EBX] = table.entry(0x8000_0008).ebx
    self[.kvmEAX] = table.entry(0x4000_0001).eax
    self[.kvmEDX] = table.entry(0x4000_0001).edx
    self[.svmEDX] = table.entry(0x8000_000A).edx
    self[.xsaveEAX] = table.entry(0xD, 1).eax
    self[.leaf6EAX] = table.entry(6).eax
  }

  /// What the software CPU can offer on a host whose own CPUID is `host`: what the interpreter executes by itself, and of
  /// the instructions that it lets the host execute those that the host has.
  package static func softwareCPU(host: CPUIDTable) -> FeatureSet {
    let native = FeatureSet(table: host).intersection(FeatureSet(names: nativeNames))
    var result = FeatureSet(names: emulatedNames).union(native)
    if !result["avx"] || !result["xsave"] {
      result = result.subtracting(FeatureSet(names: needsAVX))
    }
    if !result["avx2"] { result["vaes"] = false }
    return result
  }

  /// Executed by the interpreter itself, whatever the host is.
  private static let emulatedNames = """
    fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush acpi mmx fxsr sse \
    sse2 ss ht pni cx16 x2apic tsc-deadline movbe popcnt xsave hypervisor fsgsbase tsc-adjust smep \
    smap erms fsrm clflushopt syscall nx pdpe1gb rdtscp lm lahf-lm cmp-legacy cr8legacy abm \
    3dnowprefetch mmxext invtsc topoext xsaveopt xsavec xgetbv1 arat umip rdpid invpcid
    """

  /// Executed by the host on the guest's registers, so only where the host has them.
  private static let nativeNames = """
    pclmulqdq ssse3 fma sse4.1 sse4.2 aes avx f16c rdrand rdseed bmi1 bmi2 avx2 adx sha-ni
    """

  private static let needsAVX = "avx avx2 fma f16c"
}
