/// A `-cpu` option is wrong, or asks for what cannot be had.
package struct CPUModelError: Error, Equatable, Sendable {
  /// The sentence for the user, in QEMU's words where it has some.
  package let message: String
}

/// A CPU model as a `-cpu` option or `query-cpu-definitions` names it, with the option's changes.
///
/// `parse` reads the option; `cpuidTable` makes what CPUID answers, cut down to what an accelerator can do.
package struct CPUModel: Equatable, Sendable {
  /// Where the features come from.
  package enum Basis: Equatable, Sendable {
    /// `base`: nothing but what the option adds.
    case empty
    /// `max`: everything that the accelerator can offer, under QEMU's name.
    case everything
    /// `host`: everything that the accelerator can offer, under the host's name.
    case host
    /// A named model's table.
    case named
  }

  /// The name as given, which may be an alias such as `Haswell`.
  package let name: String
  package let basis: Basis
  package let isDeprecated: Bool
  /// The text of `-cpu help`.
  package let summary: String

  var level: UInt32
  var level7: UInt32
  var extendedLevel: UInt32
  var extendedLevel2: UInt32 = 0
  var vendor: String
  var family: UInt32
  var model: UInt32
  var stepping: UInt32
  var modelID: String
  var caches: CPUCaches
  var features: FeatureSet

  /// Bits that the option sets or clears itself.
  var added = FeatureSet()
  var removed = FeatureSet()
  /// Sub-features that are known by name only and asked for: never available.
  var unavailableNames: [String] = []
  var hasLevel = false
  var hasExtendedLevel = false
  var identity: Set<IdentityField> = []
  var checks = true
  var enforces = false
  var showsKVM = true
  var showsTCG = true
  var hasTopologyLeaf = true
  var hasL3Cache = true
  var automaticLevel = true
  var usesLegacyCache = true
  var isMigratable = true
  var wantsPMU = false
  var wantsHostCaches = false
  var wantsLMCE = false
  var physicalBits: UInt32 = 0
  var usesHostPhysicalBits = false
  var hostPhysicalBitsLimit: UInt32 = 0
  /// `tsc-frequency` in Hz, 0 when not given.
  package var tscFrequency: UInt64 = 0
  package internal(set) var microcodeRevision: UInt64 = 0

  enum IdentityField: Hashable, Sendable { case vendor, family, model, stepping, modelID }

  /// CPUID.80000001:EDX bits that AMD processors repeat from leaf 1.
  static let amdAliases: UInt32 = 0x0183_F3FF

  /// The class name, as in QEMU's messages and `qom-list-types`.
  package var typeName: String { "\(name)-x86_64-cpu" }

  /// The CPUID signature (leaf 1 EAX) of this model where it does not follow the host.
  package static func signature(family: UInt32, model: UInt32, stepping: UInt32) -> UInt32 {
    let base = min(family, 15)
    let extended = family > 15 ? family - 15 : 0
    return extended << 20 | (model >> 4) << 16 | base << 8 | (model & 15) << 4 | stepping & 15
  }
}

/// A cache for the leaves that describe them.
struct CacheDescription: Equatable, Sendable {
  enum Kind: UInt32, Sendable { case data = 1, instruction = 2, unified = 3 }
  var kind: Kind
  var level: UInt32
  var kibibytes: UInt32
  var ways: UInt32
  var isSelfInitializing = true
  var isInclusive = false
  var hasComplexIndex = false
  var noInvalidateSharing = false

  /// With lines of 64 bytes.
  var sets: UInt32 { kibibytes * 1024 / 64 / ways }
}

/// The cache descriptions that models choose from: QEMU's generic ones, or a processor's own.
enum CPUCaches: String, Equatable, Sendable {
  case generic = "-"
  case epyc
  case rome
  case milan

  /// L1D, L1I, L2, L3 for leaf 4 (Intel) or leaves 0x80000005, 6 and 0x8000001D (AMD).
  func list(forAMD: Bool) -> [CacheDescription] {
    typealias Cache = CacheDescription
    switch self {
    case .generic:
      let l3 = Cache(
        kind: .unified, level: 3, kibibytes: 16384, ways: 16, isInclusive: true,
        hasComplexIndex: true)
      if forAMD {
        return [
          Cache(kind: .data, level: 1, kibibytes: 64, ways: 2, noInvalidateSharing: true),
          Cache(kind: .instruction, level: 1, kibibytes: 64, ways: 2, noInvalidateSharing: true),
          Cache(kind: .unified, level: 2, kibibytes: 512, ways: 16, isSelfInitializing: false), l3,
        ]
      }
      return [
        Cache(kind: .data, level: 1, kibibytes: 32, ways: 8, noInvalidateSharing: true),
        Cache(kind: .instruction, level: 1, kibibytes: 32, ways: 8, noInvalidateSharing: true),
        Cache(kind: .unified, level: 2, kibibytes: 4096, ways: 16, noInvalidateSharing: true), l3,
      ]
    case .epyc, .rome, .milan:
      let l3: UInt32 = self == .epyc ? 8192 : self == .rome ? 16384 : 32768
      let l1i: (UInt32, UInt32) = self == .epyc ? (64, 4) : (32, 8)
      return [
        Cache(kind: .data, level: 1, kibibytes: 32, ways: 8, noInvalidateSharing: true),
        Cache(
          kind: .instruction, level: 1, kibibytes: l1i.0, ways: l1i.1, noInvalidateSharing: true),
        Cache(kind: .unified, level: 2, kibibytes: 512, ways: 8, isInclusive: true),
        Cache(
          kind: .unified, level: 3, kibibytes: l3, ways: 16, isInclusive: true,
          hasComplexIndex: true),
      ]
    }
  }
}
