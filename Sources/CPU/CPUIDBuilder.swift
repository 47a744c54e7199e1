/// Puts a model's values at their places in the leaves of CPUID.
struct CPUIDBuilder {
  let model: CPUModel
  let topology: CPUTopology
  let capabilities: CPUCapabilities
  let physicalBits: UInt32

  private var features: FeatureSet { model.features }
  private var isAMD: Bool { model.vendor == "AuthenticAMD" || model.vendor == "HygonGenuine" }

  func table() -> CPUIDTable {
    var entries = basicLeaves() + hypervisorLeaves() + extendedLeaves()
    entries.removeAll { entry in
      switch entry.leaf >> 28 {
      case 0: entry.leaf > model.level && entry.leaf != 0
      case 8: entry.leaf > model.extendedLevel && entry.leaf != 0x8000_0000
      default: false
      }
    }
    return CPUIDTable(entries)
  }

  // MARK: - Basic leaves

  private func basicLeaves() -> [CPUIDTable.Entry] {
    typealias Entry = CPUIDTable.Entry
    let name = words(model.vendor, count: 3)
    let logical = UInt32(truncatingIfNeeded: topology.threadsInPackage)
    var edx = features[.leaf1EDX]
    var ebx: UInt32 = 8 << 8
    edx &= ~(1 << 28)
    if logical > 1 {
      ebx |= min(logical, 255) << 16
      edx |= 1 << 28
    }
    var list = [
      Entry(0, eax: model.level, ebx: name[0], ecx: name[2], edx: name[1]),
      Entry(1, eax: signature, ebx: ebx, ecx: features[.leaf1ECX], edx: edx),
      Entry(6, eax: features[.leaf6EAX]),
      Entry(
        7, subleaf: 0, eax: model.level7, ebx: features[.leaf7EBX], ecx: features[.leaf7ECX],
        edx: features[.leaf7EDX]),
      Entry(7, subleaf: 1, eax: features[.leaf7Sub1EAX]),
    ]
    if !isAMD { list += cacheLeaves() }
    if model.hasTopologyLeaf {
      list.append(
        Entry(
          0xB, subleaf: 0, eax: topology.coreShift, ebx: UInt32(topology.threads), ecx: 0x100))
      list.append(
        Entry(0xB, subleaf: 1, eax: topology.packageShift, ebx: logical, ecx: 0x201))
      list.append(Entry(0xB, subleaf: 2, ecx: 2))
    }
    list += xsaveLeaves()
    if let tsc = capabilities.tscFrequency, let timer = capabilities.apicTimerFrequency,
      let crystal = UInt32(exactly: timer), let ratio = UInt32(exactly: tsc / 1000), crystal >= 1000
    {
      let megahertz = UInt32(truncatingIfNeeded: tsc / 1_000_000)
      list.append(Entry(0x15, eax: crystal / 1000, ebx: ratio, ecx: crystal))
      list.append(Entry(0x16, eax: megahertz, ebx: megahertz, ecx: 100))
    }
    return list
  }

  private var signature: UInt32 {
    CPUModel.signature(family: model.family, model: model.model, stepping: model.stepping)
  }

  private var caches: [CacheDescription] {
    let choice = model.usesLegacyCache ? CPUCaches.generic : model.caches
    let all = choice.list(forAMD: isAMD)
    return model.hasL3Cache ? all : all.filter { $0.level < 3 }
  }

  /// Leaves 2 (one-byte descriptors) and 4 (deterministic parameters).
  private func cacheLeaves() -> [CPUIDTable.Entry] {
    var list = [
      CPUIDTable.Entry(2, eax: 1, ecx: model.hasL3Cache ? 0x4D : 0, edx: 0x002C_307D)
    ]
    let cores = UInt32(truncatingIfNeeded: topology.cores * topology.dies)
    for (index, cache) in caches.enumerated() {
      let sharing: UInt32 =
        cache.level == 3 ? 1 << topology.dieShift : UInt32(truncatingIfNeeded: topology.threads)
      list.append(
        parameters(
          cache, leaf: 4, subleaf: UInt32(index), sharing: sharing,
          high: cores > 1 ? (min(cores, 64) - 1) << 26 : 0))
    }
    list.append(CPUIDTable.Entry(4, subleaf: UInt32(caches.count)))
    return list
  }

  private func parameters(
    _ cache: CacheDescription, leaf: UInt32, subleaf: UInt32, sharing: UInt32, high: UInt32
  ) -> CPUIDTable.Entry {
    var eax = cache.kind.rawValue | cache.level << 5 | (min(sharing, 4096) - 1) << 14 | high
    if cache.isSelfInitializing { eax |= 1 << 8 }
    var edx: UInt32 = cache.noInvalidateSharing ? 1 : 0
    if cache.isInclusive { edx |= 2 }
    if cache.hasComplexIndex { edx |= 4 }
    return CPUIDTable.Entry(
      leaf, subleaf: subleaf, eax: eax, ebx: 63 | (cache.ways - 1) << 22, ecx: cache.sets - 1,
      edx: edx)
  }

  private func xsaveLeaves() -> [CPUIDTable.Entry] {
    guard features["xsave"] else { return [CPUIDTable.Entry(0xD, subleaf: 0)] }
    let hasAVX = features["avx"]
    var list = [
      CPUIDTable.Entry(0xD, subleaf: 0, eax: hasAVX ? 7 : 3, ebx: 576, ecx: hasAVX ? 832 : 576),
      CPUIDTable.Entry(0xD, subleaf: 1, eax: features[.xsaveEAX]),
    ]
    if hasAVX { list.append(CPUIDTable.Entry(0xD, subleaf: 2, eax: 256, ebx: 576)) }
    return list
  }

  // MARK: - Leaves of the hypervisor

  private func hypervisorLeaves() -> [CPUIDTable.Entry] {
    typealias Entry = CPUIDTable.Entry
    switch capabilities.kind {
    case .kvm where model.showsKVM:
      let name = words("KVMKVMKVM", count: 3)
      return [
        Entry(0x4000_0000, eax: 0x4000_0001, ebx: name[0], ecx: name[1], edx: name[2]),
        Entry(0x4000_0001, eax: features[.kvmEAX], edx: features[.kvmEDX]),
      ]
    case .tcg where model.showsTCG:
      let name = words("TCGTCGTCGTCG", count: 3)
      return [
        Entry(0x4000_0000, eax: 0x4000_0001, ebx: name[0], ecx: name[1], edx: name[2]),
        Entry(0x4000_0001),
      ]
    default: return []
    }
  }

  // MARK: - Extended leaves

  private func extendedLeaves() -> [CPUIDTable.Entry] {
    typealias Entry = CPUIDTable.Entry
    guard model.extendedLevel >= 0x8000_0000 else { return [] }
    let name = words(model.vendor, count: 3)
    let logical = UInt32(truncatingIfNeeded: topology.threadsInPackage)
    var ecx = features[.extended1ECX]
    var edx = features[.extended1EDX]
    ecx &= ~2
    if isAMD {
      edx |= features[.leaf1EDX] & CPUModel.amdAliases
      if logical > 1 { ecx |= 2 }
    }
    var list = [
      Entry(
        0x8000_0000, eax: model.extendedLevel, ebx: name[0], ecx: name[2], edx: name[1]),
      Entry(0x8000_0001, eax: signature, ecx: ecx, edx: edx),
    ]
    let brand = words(model.modelID, count: 12)
    for index in 0..<3 {
      let at = index * 4
      list.append(
        Entry(
          0x8000_0002 + UInt32(index), eax: brand[at], ebx: brand[at + 1], ecx: brand[at + 2],
          edx: brand[at + 3]))
    }
    list += amdCacheLeaves()
    list.append(Entry(0x8000_0007, edx: features[.extended7EDX]))
    // With five-level paging 57: Linux judges by it which addresses are canonical.
    let linearBits: UInt32 = !features["lm"] ? 32 : features["la57"] ? 57 : 48
    let bits = features["lm"] ? physicalBits : (features["pse36"] ? 36 : 32)
    let counts = logical > 1 ? topology.packageShift << 12 | (min(logical, 256) - 1) : 0
    list.append(
      Entry(
        0x8000_0008, eax: linearBits << 8 | bits, ebx: features[.extended8EBX], ecx: counts))
    if features["topoext"] { list += amdTopologyLeaves() }
    return list
  }

  /// Leaves 0x80000005 and 6 describe AMD's caches whatever the vendor, as QEMU does.
  private func amdCacheLeaves() -> [CPUIDTable.Entry] {
    let choice = model.usesLegacyCache ? CPUCaches.generic : model.caches
    let list = choice.list(forAMD: true)
    func first(_ cache: CacheDescription) -> UInt32 {
      cache.kibibytes << 24 | cache.ways << 16 | 0x140
    }
    func associativity(_ ways: UInt32) -> UInt32 { ways == 8 ? 6 : ways == 16 ? 8 : 2 }
    let l2 = list[2]
    let l3 = list[3]
    let third = l3.kibibytes / 512 << 18 | associativity(l3.ways) << 12 | 0x140
    return [
      CPUIDTable.Entry(
        0x8000_0005, eax: 0x01FF_01FF, ebx: 0x01FF_01FF, ecx: first(list[0]), edx: first(list[1])),
      CPUIDTable.Entry(
        0x8000_0006, ebx: 0x4200_4200,
        ecx: l2.kibibytes << 16 | associativity(l2.ways) << 12 | 0x140,
        edx: model.hasL3Cache ? third : 0),
    ]
  }

  private func amdTopologyLeaves() -> [CPUIDTable.Entry] {
    var list: [CPUIDTable.Entry] = []
    for (index, cache) in caches.enumerated() {
      let sharing = cache.level == 3 ? topology.cores * topology.threads : topology.threads
      list.append(
        parameters(
          cache, leaf: 0x8000_001D, subleaf: UInt32(index),
          sharing: UInt32(truncatingIfNeeded: sharing), high: 0))
    }
    list.append(CPUIDTable.Entry(0x8000_001D, subleaf: UInt32(caches.count)))
    // `lookup` adds the core's number: EDX tells it shift and mask.
    let mask = UInt32(1) << (topology.dieShift - topology.coreShift) - 1
    list.append(
      CPUIDTable.Entry(
        0x8000_001E, ebx: (UInt32(topology.threads) - 1) << 8,
        ecx: (UInt32(topology.dies) - 1) << 8, edx: topology.coreShift | mask << 8))
    return list
  }

  /// Text as little-endian words, filled with zeros.
  private func words(_ text: String, count: Int) -> [UInt32] {
    var result = [UInt32](repeating: 0, count: count)
    for (index, byte) in text.utf8.prefix(count * 4).enumerated() {
      result[index / 4] |= UInt32(byte) << UInt32(index % 4 * 8)
    }
    return result
  }
}
