/// What one vCPU's translator has done since the machine was made, for `info jit`.
///
/// Plain counters in memory of the vCPU's own thread, added to with wrapping arithmetic. Others read them without a lock: a number
/// may be a moment old, never torn.
package struct TranslationCounters: Sendable, Equatable {
  /// Blocks translated.
  package var blocks: UInt64 = 0
  /// Guest instructions in them.
  package var guestInstructions: UInt64 = 0
  /// Guest bytes in them.
  package var guestBytes: UInt64 = 0
  /// Bytes of host code made of them, exit stubs included.
  package var hostBytes: UInt64 = 0
  /// Time spent translating: in ticks of the host's TSC while it is counted, in nanoseconds where it is reported.
  package var nanoseconds: UInt64 = 0
  /// Exits patched to jump directly to the next block.
  package var links: UInt64 = 0
  /// Times that control came back to the dispatcher to look up a block.
  package var dispatches: UInt64 = 0
  /// Instructions that the interpreter executed.
  package var interpreted: UInt64 = 0
  /// Entries that page walks put into the TLB.
  package var refills: UInt64 = 0
  /// Translated code left for the interpreter to execute one instruction.
  package var slowExits: UInt64 = 0
  /// Blocks dropped because their guest bytes were overwritten.
  package var invalidatedBlocks: UInt64 = 0
  /// Times that the code cache was full and was emptied.
  package var cacheFlushes: UInt64 = 0
  /// Times that the TLB was emptied.
  package var tlbFlushes: UInt64 = 0

  package init() {}

  /// The sum over vCPUs.
  package static func += (sum: inout TranslationCounters, other: TranslationCounters) {
    sum.blocks &+= other.blocks
    sum.guestInstructions &+= other.guestInstructions
    sum.guestBytes &+= other.guestBytes
    sum.hostBytes &+= other.hostBytes
    sum.nanoseconds &+= other.nanoseconds
    sum.links &+= other.links
    sum.dispatches &+= other.dispatches
    sum.interpreted &+= other.interpreted
    sum.refills &+= other.refills
    sum.slowExits &+= other.slowExits
    sum.invalidatedBlocks &+= other.invalidatedBlocks
    sum.cacheFlushes &+= other.cacheFlushes
    sum.tlbFlushes &+= other.tlbFlushes
  }
}
