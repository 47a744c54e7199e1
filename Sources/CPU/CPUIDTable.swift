/// The answers of CPUID: one entry a leaf and subleaf.
///
/// Leaves that hold a vCPU's own APIC ID are stored for APIC ID 0 and completed by `lookup`; so are the bits that follow
/// from CR4 and XCR0.
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
  /// In any order; `lookup` is a search from the front, the table has about forty entries.
  package var entries: [Entry]
  package init(_ entries: [Entry] = []) { self.entries = entries }

  /// What two tables that say the same have in common: all entries in order, in hexadecimal, folded to 16 digits (FNV-1a).
  package var digest: String {
    var hash: UInt64 = 0xCBF2_9CE4_8422_2325
    for entry in entries.sorted(by: { ($0.leaf, $0.subleaf) < ($1.leaf, $1.subleaf) }) {
      for word in [entry.leaf, entry.subleaf, entry.eax, entry.ebx, entry.ecx, entry.edx] {
        for shift in [0, 8, 16, 24] as [UInt32] {
          hash = (hash ^ UInt64(word >> shift & 0xFF)) &* 0x100_0000_01B3
        }
      }
    }
    let text = String(hash, radix: 16)
    return String(repeating: "0", count: 16 - text.utf8.count) + text
  }

  /// The stored entry; all zero when there is none.
  package func entry(_ leaf: UInt32, _ subleaf: UInt32 = 0) -> Entry {
    for entry in entries where entry.leaf == leaf {
      if !entry.hasSubleaves || entry.subleaf == subleaf { return entry }
    }
    return Entry(leaf, subleaf: subleaf)
  }

  /// What CPUID answers on the vCPU with this APIC ID (SDM vol. 2A, CPUID).
  ///
  /// A leaf above the highest of its range is answered with the highest basic leaf. `cr4` gives OSXSAVE, `xcr0` and `xss`
  /// the sizes of leaf 0xD.
  package func lookup(
    leaf: UInt32, subleaf: UInt32, apicID: UInt32, cr4: UInt64 = 0, xcr0: UInt64 = 1,
    xss: UInt64 = 0
  ) -> Entry {
    let base = leaf & 0xF000_0000
    let highest = entry(base).eax
    let isKnown = (base == 0 || highest >= base) && leaf <= highest
    var result = isKnown ? entry(leaf, subleaf) : entry(entry(0).eax, subleaf)
    switch result.leaf {
    case 1:
      result.ebx |= apicID << 24
      if cr4 & 1 << 18 != 0 { result.ecx |= 1 << 27 } else { result.ecx &= ~(1 << 27) }
    case 0xB, 0x1F:
      if subleaf > 1, result.ebx == 0 { result.ecx = subleaf & 0xFF }
      result.edx = apicID
    case 0xD where subleaf == 0:
      result.ebx = areaSize(components: xcr0, isCompacted: false)
    case 0xD where subleaf == 1 && result.eax & 0xA != 0:
      result.ebx = areaSize(components: xcr0 | xss, isCompacted: true)
    case 0x8000_001E:
      result.eax = apicID
      result.ebx |= apicID >> (result.edx & 31) & (result.edx >> 8)
      result.edx = 0
    default: break
    }
    return result
  }

  /// All entries as the vCPU with this APIC ID sees them, for KVM_SET_CPUID2.
  package func entries(apicID: UInt32) -> [Entry] {
    entries.map { entry in
      var result = lookup(leaf: entry.leaf, subleaf: entry.subleaf, apicID: apicID)
      result.subleaf = entry.subleaf
      result.hasSubleaves = entry.hasSubleaves
      return result
    }
  }

  /// Bytes of an XSAVE area that holds these components (SDM vol. 1, 13.4.2 and 13.4.3).
  private func areaSize(components: UInt64, isCompacted: Bool) -> UInt32 {
    var size: UInt32 = 576
    for entry in entries where entry.leaf == 0xD && entry.subleaf >= 2 && entry.subleaf < 63 {
      if components >> UInt64(entry.subleaf) & 1 == 0 { continue }
      if isCompacted {
        if entry.ecx & 2 != 0 { size = (size &+ 63) & ~63 }
        size &+= entry.eax
      } else {
        size = max(size, entry.ebx &+ entry.eax)
      }
    }
    return size
  }
}
