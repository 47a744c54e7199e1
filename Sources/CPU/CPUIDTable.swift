/// The answers of CPUID: one entry a leaf and subleaf.
///
/// Leaves that hold a vCPU's own APIC ID are stored for APIC ID 0 and completed by `lookup`.
package struct CPUIDTable: Equatable, Sendable {
  package struct Entry: Equatable, Sendable {
    package var leaf: UInt32
    package var subleaf: UInt32
    /// Whether the subleaf matters (leaves 4, 7, 0xB, 0xD…).
    package var hasSubleaves: Bool
    package var eax: UInt32
    package var ebx: UInt32
    package var ecx: UInt32
    package var edx: UInt32

    package init(
      _ leaf: UInt32, subleaf: UInt32? = nil, eax: UInt32 = 0, ebx: UInt32 = 0, ecx: UInt32 = 0,
      edx: UInt32 = 0
    ) {
      self.leaf = leaf
      self.subleaf = subleaf ?? 0
      hasSubleaves = subleaf != nil
      self.eax = eax
      self.ebx = ebx
      self.ecx = ecx
      self.edx = edx
    }
  }
  package var entries: [Entry]
  package init(_ entries: [Entry] = []) { self.entries = entries }
}
