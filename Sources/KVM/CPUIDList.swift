import CKVM
import CPU
import Host

/// `struct kvm_cpuid2`: a count in 8 bytes, then entries of 40 bytes, as words.
struct CPUIDList {
  /// KVM_MAX_CPUID_ENTRIES.
  static let most = 256

  private var words: [UInt32]

  /// Room for `capacity` entries, to be filled by the kernel.
  init(capacity: Int) {
    words = [UInt32](repeating: 0, count: 2 + 10 * capacity)
    words[0] = UInt32(capacity)
  }

  /// The list that gives `entries` to a vCPU.
  init(_ entries: [CPUIDTable.Entry]) {
    words = [UInt32(min(entries.count, CPUIDList.most)), 0]
    for entry in entries.prefix(CPUIDList.most) {
      let flags = entry.hasSubleaves ? UInt32(KVM_CPUID_FLAG_SIGNIFCANT_INDEX) : 0
      words += [entry.leaf, entry.subleaf, flags, entry.eax, entry.ebx, entry.ecx, entry.edx]
      words += [0, 0, 0]
    }
  }

  var entries: [CPUIDTable.Entry] {
    (0..<min(Int(words[0]), (words.count - 2) / 10)).map { index in
      let at = 2 + 10 * index
      let significant = words[at + 2] & UInt32(KVM_CPUID_FLAG_SIGNIFCANT_INDEX) != 0
      return CPUIDTable.Entry(
        words[at], subleaf: significant ? words[at + 1] : nil, eax: words[at + 3],
        ebx: words[at + 4], ecx: words[at + 5], edx: words[at + 6])
    }
  }

  mutating func exchange(
    _ name: String, _ descriptor: Int32, _ request: UInt
  ) throws(SystemError) {
    try kvmExchange(name, descriptor, request, array: &words)
  }
}
