import CX86

extension CPUIDTable {
  /// What CPUID answers on this host, the leaves that CPU models and accelerators look at. Read once: it traps on some hosts.
  package static let ofThisHost: CPUIDTable = {
    var entries: [Entry] = []
    func add(_ leaf: UInt32, _ subleaf: UInt32? = nil) {
      let answer = x86_host_cpuid(leaf, subleaf ?? 0)
      entries.append(
        Entry(
          leaf, subleaf: subleaf, eax: answer.eax, ebx: answer.ebx, ecx: answer.ecx,
          edx: answer.edx))
    }
    let highest = x86_host_cpuid(0, 0).eax
    for leaf in 0...min(highest, 0x20) {
      switch leaf {
      case 4, 7, 0xB, 0x12, 0x14, 0x17, 0x18, 0x1F:
        for subleaf: UInt32 in 0...3 { add(leaf, subleaf) }
      case 0xD: for subleaf: UInt32 in 0...9 { add(leaf, subleaf) }
      default: add(leaf)
      }
    }
    let extended = x86_host_cpuid(0x8000_0000, 0).eax
    if extended > 0x8000_0000 {
      for leaf in 0x8000_0000...min(extended, 0x8000_0021) {
        if leaf == 0x8000_001D {
          for subleaf: UInt32 in 0...3 { add(leaf, subleaf) }
        } else {
          add(leaf)
        }
      }
    }
    return CPUIDTable(entries)
  }()

  /// CPUID.1:EAX.
  package var signature: UInt32 { entry(1).eax }
}
