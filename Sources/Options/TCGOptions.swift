// -accel tcg: its properties, and the debugging ones that tests and bug reports need.

/// Properties of `-accel tcg`. No property changes what a guest computes.
package struct TCGConfiguration: Sendable, Equatable {
  /// `tb-size`: bound of all vCPUs' caches of decoded and translated code together, in MiB; nil: chosen by the accelerator.
  package var codeCacheMiB: UInt32?
  /// `thread=single`: one vCPU executes at a time.
  package var takesTurns = false
  /// `one-insn-per-tb=on`, `-singlestep`: each block has one guest instruction.
  package var oneInstructionPerBlock = false

  // Debugging; nil: what the accelerator chooses.

  /// `x-translate`: false: the interpreter executes everything.
  package var translates: Bool?
  /// `x-threshold`: how often a block is interpreted before it is translated.
  package var threshold: UInt32?
  /// `x-exact-flags`: arithmetic flags that nothing reads are exact in page faults too.
  package var exactFlags: Bool?
  /// `x-max-insns`: guest instructions of a block.
  package var maximumInstructions: UInt32?
  /// `x-code-cache`: bytes of host code that each vCPU keeps.
  package var codeCacheBytes: UInt32?
  /// `x-tlb-entries`: entries of each TLB in use, a power of two; 0: all.
  package var tlbEntries: UInt32?
  /// `x-flush-every`: caches are flushed after so many returns to the dispatcher; 0: never.
  package var flushEvery: UInt32?
  /// `x-request-every`: translated code is interrupted for nothing about every so many entries; 0: never.
  package var requestEvery: UInt32?
  /// `x-seed`: where the pseudo-random numbers of the forced modes start.
  package var seed: UInt64?
  /// `x-without`: CPU features that the host is taken not to have, with `+` between.
  package var without: [String] = []

  /// The defaults.
  package init() {}
}

/// The table behind `-accel tcg,…` and its help.
enum TCGOptions {
  /// How a value is written and where it goes.
  enum Kind: Sendable {
    case boolean(@Sendable (inout TCGConfiguration, Bool) -> Void)
    case word(@Sendable (inout TCGConfiguration, UInt32) -> Void)
    case long(@Sendable (inout TCGConfiguration, UInt64) -> Void)
    case thread
    case names(@Sendable (inout TCGConfiguration, [String]) -> Void)
  }

  struct Property: Sendable {
    let name: String
    let summary: String
    let kind: Kind

    /// The type's name in the help.
    var type: String {
      switch kind {
      case .boolean: "bool"
      case .word: "uint32"
      case .long: "uint64"
      case .thread: "single|multi"
      case .names: "string"
      }
    }
  }

  static let properties: [Property] = [
    Property(
      name: "one-insn-per-tb", summary: "one guest instruction in each block",
      kind: .boolean { $0.oneInstructionPerBlock = $1 }),
    // Code is never writable where it is executable; there is no other way to ask for.
    Property(
      name: "split-wx", summary: "accepted; the code cache is always mapped twice",
      kind: .boolean { _, _ in }),
    Property(
      name: "tb-size", summary: "MiB for decoded and translated code, 0 for the default",
      kind: .word { $0.codeCacheMiB = $1 == 0 ? nil : $1 }),
    Property(name: "thread", summary: "whether vCPUs execute at the same time", kind: .thread),
    Property(
      name: "x-code-cache", summary: "debugging: bytes of host code that each vCPU keeps",
      kind: .word { $0.codeCacheBytes = $1 }),
    Property(
      name: "x-exact-flags", summary: "debugging: exact flags in every page fault",
      kind: .boolean { $0.exactFlags = $1 }),
    Property(
      name: "x-flush-every",
      summary: "debugging: flush the caches after so many returns to the dispatcher",
      kind: .word { $0.flushEvery = $1 }),
    Property(
      name: "x-max-insns", summary: "debugging: guest instructions of a block, from 1",
      kind: .word { $0.maximumInstructions = $1 }),
    Property(
      name: "x-request-every",
      summary: "debugging: interrupt translated code about every so many entries",
      kind: .word { $0.requestEvery = $1 }),
    Property(
      name: "x-seed", summary: "debugging: start of the pseudo-random numbers of these modes",
      kind: .long { $0.seed = $1 }),
    Property(
      name: "x-threshold", summary: "debugging: times that a block is interpreted first",
      kind: .word { $0.threshold = $1 }),
    Property(
      name: "x-tlb-entries", summary: "debugging: TLB entries in use, a power of two, 0 for all",
      kind: .word { $0.tlbEntries = $1 }),
    Property(
      name: "x-translate", summary: "debugging: off leaves everything to the interpreter",
      kind: .boolean { $0.translates = $1 }),
    Property(
      name: "x-without",
      summary: "debugging: CPU features that the host is taken not to have, as in avx+avx2",
      kind: .names { $0.without = $1 }),
  ]

  /// The lines of `-accel tcg,help`.
  static var help: [String] {
    ["tcg-accel options:"]
      + properties.map { property in
        let name = "  \(property.name)=<\(property.type)>"
        let padding = String(repeating: " ", count: max(0, 28 - name.utf8.count))
        return "\(name)\(padding) - \(property.summary)"
      }
  }

  static func configure(_ entries: [OptionEntry]) throws(OptionError) -> TCGConfiguration {
    var tcg = TCGConfiguration()
    for entry in entries {
      guard let property = properties.first(where: { $0.name == entry.key }) else {
        throw OptionError(
          .unknownParameter, entry.origin, "Property 'tcg-accel.\(entry.key)' not found",
          suggestion: Spelling.nearest(to: entry.key, among: properties.map(\.name)))
      }
      switch property.kind {
      case .boolean(let set):
        set(&tcg, try OptionValues.boolean(entry.value, of: entry.key, entry.origin))
      case .word(let set):
        let value = try number(entry)
        guard let value = UInt32(exactly: value) else {
          throw OptionError(
            .invalidValue, entry.origin, "Parameter '\(entry.key)' expects uint32_t")
        }
        try check(entry, value)
        set(&tcg, value)
      case .long(let set): set(&tcg, try number(entry))
      case .thread:
        guard ["single", "multi"].contains(entry.value) else {
          throw OptionError(
            .invalidValue, entry.origin, "Invalid 'thread' setting \(entry.value)")
        }
        tcg.takesTurns = entry.value == "single"
      case .names(let set): set(&tcg, entry.value.split(separator: "+").map(String.init))
      }
    }
    return tcg
  }

  private static func check(_ entry: OptionEntry, _ value: UInt32) throws(OptionError) {
    if entry.key == "x-max-insns", value == 0 {
      throw OptionError(
        .invalidValue, entry.origin, "Parameter 'x-max-insns' expects a number from 1")
    }
    if entry.key == "x-tlb-entries", value & (value &- 1) != 0 {
      throw OptionError(
        .invalidValue, entry.origin, "Parameter 'x-tlb-entries' expects a power of two or 0")
    }
  }

  private static func number(_ entry: OptionEntry) throws(OptionError) -> UInt64 {
    guard case .value(let value) = OptionText.number(entry.value) else {
      throw OptionError(.invalidValue, entry.origin, "Parameter '\(entry.key)' expects uint64")
    }
    return value
  }
}
