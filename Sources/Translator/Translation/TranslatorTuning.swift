/// How the translator of one machine works: limits for production, and the forced modes in which its tests compare it with the
/// interpreter. A plain value; every vCPU has its copy, read by its own thread.
///
/// No mode changes what a guest computes. What may differ is said at each member.
package struct TranslatorTuning: Sendable, Equatable {
  /// False: the interpreter executes everything.
  package var isEnabled = true

  /// Times that a block is interpreted before it is translated; 0 and 1 translate at once.
  package var threshold: UInt32 = 3

  /// Every arithmetic flag counts as live at every instruction. When false, a flag that is overwritten before anything reads it may be
  /// stale in the image of RFLAGS that a page fault in between pushes.
  package var exactFlags = false

  /// Guest instructions that a block may have, at least 1 (that is `one-insn-per-tb`).
  package var maximumInstructions: UInt32 = 200

  /// Bytes of host code that each vCPU's cache holds before something is evicted. Small values are raised to what the largest block needs.
  package var codeCacheBytes = 32 << 20

  /// Entries of each TLB that are used, a power of two; 0 for all. Few entries make addresses displace each other.
  package var tlbLimit: UInt32 = 0

  /// The TLB and the code cache are flushed after this many returns from translated code to the dispatcher; 0: never.
  package var flushEvery: UInt32 = 0

  /// About this many entries into translated code apart, one is made to leave again at its first look at the request word, with
  /// nothing to do; 0: never. Which ones is random but the same in every run (`seed`).
  package var requestEvery: UInt32 = 0

  /// Where the pseudo-random numbers of the forced modes start.
  package var seed: UInt64 = 1

  /// What `-accel tcg` uses.
  package init() {}

  /// The interpreter alone.
  package static var interpreter: TranslatorTuning {
    var tuning = TranslatorTuning()
    tuning.isEnabled = false
    return tuning
  }
}
