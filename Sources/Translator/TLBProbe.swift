import CX86

/// What the TLB holds for a page after an access, and what the access met: for checks of the two page walks against each other.
package struct TLBProbe: Equatable, Sendable {
  /// How an access is made.
  package enum Path: Sendable {
    /// By `x86_tlb_fill`, which may decline.
    case refill
    /// By the walk for all modes.
    case walk
  }
  /// The error code of the page fault; nil when there was none.
  package var faultCode: UInt32?
  /// Whether the entry now allows reads.
  package var reads: Bool
  /// Whether the entry now allows writes.
  package var writes: Bool
  /// Offset of the page in host memory; 0 without an entry.
  package var host: UInt64
  /// The entry's guest-physical page and its bits; 0 without an entry.
  package var physical: UInt64
  /// Places in the fill log.
  package var logged: UInt32
}

extension TCGVCPU {
  /// Empties the TLB, makes an access with the rights of a TLB class (0 supervisor, 1 user, 2 supervisor with AC), and tells what is
  /// in the TLB now. Nil: the path declined. The vCPU must not run. Accessed and dirty bits are set as by a guest's access.
  package func probeTLB(
    linear: UInt64, write: Bool, class access: Int, by path: TLBProbe.Path
  ) -> TLBProbe? {
    let core = environment.core
    environment.takeInvalidations()
    core.flushTLB(includingGlobal: true)
    var probe = TLBProbe(
      faultCode: nil, reads: false, writes: false, host: 0, physical: 0, logged: 0)
    switch path {
    case .refill:
      var page = X86Page()
      // SAFETY: the own state.
      if unsafe x86_tlb_fill(
        core.s, linear, write ? 1 : 0, Int32(truncatingIfNeeded: access), &page)
        == 0
      {
        return nil
      }
    case .walk:
      do throws(GuestFault) {
        _ = try core.resolveByWalk(linear, write: write, class: access)
      } catch {
        probe.faultCode = core.faultCode
      }
    }
    let tag = linear & ~Core.pageMask
    // SAFETY: an entry of the own TLB.
    let e = unsafe core.tlbEntry(linear, class: access).pointee
    probe.reads = e.readTag == tag
    probe.writes = e.writeTag == tag
    if probe.reads {
      probe.host = e.host
      probe.physical = e.physical
    }
    probe.logged = core.tlbLogCount(access)
    return probe
  }
}
