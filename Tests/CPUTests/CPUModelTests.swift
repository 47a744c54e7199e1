import CPU
import Testing

/// A host with everything up to AVX2 and a few features that the software CPU never offers.
private let host: CPUIDTable = {
  typealias Entry = CPUIDTable.Entry
  return CPUIDTable([
    Entry(0, eax: 0xD, ebx: 0x6874_7541, ecx: 0x444D_4163, edx: 0x6974_6E65),
    Entry(1, eax: 0x00B0_0F21, ecx: 0xFFFF_FFFF, edx: 0xFFFF_FFFF),
    Entry(7, subleaf: 0, ebx: 0xFFFF_FFFF, ecx: 0xFFFF_FFFF, edx: 0xFFFF_FFFF),
    Entry(0xD, subleaf: 1, eax: 0xF),
    Entry(0x8000_0000, eax: 0x8000_001E),
    Entry(0x8000_0001, ecx: 0xFFFF_FFFF, edx: 0xFFFF_FFFF),
    Entry(0x8000_0002, eax: 0x2044_4D41, ebx: 0x4359_5045),
    Entry(0x8000_0008, eax: 0x3034),
  ])
}()
private let tcg = CPUCapabilities(tcgOn: host)

private func table(
  _ option: String, _ topology: CPUTopology = CPUTopology()
) throws -> (table: CPUIDTable, warnings: [String]) {
  try CPUModel.parse(option).cpuidTable(tcg, topology: topology)
}

private func message(_ option: String) -> String? {
  do {
    _ = try table(option)
    return nil
  } catch let error as CPUModelError {
    return error.message
  } catch {
    return nil
  }
}

@Test func namedModelReportsItsIdentity() throws {
  let cpuid = try table("qemu64").table
  let vendor = cpuid.entry(0)
  #expect(vendor.eax == 13)
  #expect(vendor.ebx == 0x6874_7541 && vendor.edx == 0x6974_6E65 && vendor.ecx == 0x444D_4163)
  #expect(cpuid.entry(1).eax == 0x0006_0FB1)
  #expect(cpuid.entry(1).edx & 0x0600_0000 == 0x0600_0000)
  // AMD repeats leaf 1's bits in 0x80000001.
  #expect(cpuid.entry(0x8000_0001).edx & 1 == 1)
  #expect(cpuid.entry(0x8000_0001).edx >> 29 & 1 == 1)
}

@Test func softwareCPUNeverOffersWhatItCannotExecute() throws {
  for name in ["max", "host", "EPYC-Milan", "Icelake-Server", "Skylake-Client"] {
    let cpuid = try table(name).table
    let set = FeatureSet(table: cpuid)
    for feature in [
      "avx512f", "avx512vl", "la57", "pku", "mpx", "sgx", "vmx", "svm", "rtm", "vaes",
    ] {
      #expect(!set[feature], "\(name) offers \(feature)")
    }
    #expect(set["avx2"])
  }
}

@Test func hostWithoutAVXOffersNone() throws {
  var old = host
  for index in old.entries.indices where old.entries[index].leaf == 1 {
    old.entries[index].ecx &= ~(1 << 28)
  }
  let cpuid = try CPUModel.parse("max")
    .cpuidTable(CPUCapabilities(tcgOn: old), topology: CPUTopology()).table
  let set = FeatureSet(table: cpuid)
  #expect(!set["avx"] && !set["avx2"] && !set["fma"] && !set["f16c"])
  #expect(set["sse4.2"] && set["sse2"])
  #expect(cpuid.entry(0xD).eax == 3)
}

@Test func signsAndValuesChangeFeatures() throws {
  let plus = FeatureSet(table: try table("qemu64,+avx,+xsave,+sse4_2").table)
  #expect(plus["avx"] && plus["xsave"] && plus["sse4.2"])
  let minus = FeatureSet(table: try table("max,-avx2,sse4a=off,aes=off").table)
  #expect(!minus["avx2"] && !minus["aes"] && minus["avx"])
  // Signs are applied last, minus after plus.
  let both = FeatureSet(table: try table("max,-bmi1,bmi1=on").table)
  #expect(!both["bmi1"])
}

@Test func missingFeatureWarnsAndEnforceRefuses() throws {
  let warnings = try table("qemu64,+avx512f").warnings
  #expect(
    warnings == ["TCG doesn't support requested feature: CPUID.07H:EBX.avx512f [bit 16]"])
  #expect(message("qemu64,+avx512f,enforce") == "TCG doesn't support requested features")
  #expect(message("qemu64,enforce") == nil)
}

@Test func mistakesAreNamed() {
  #expect(message("nope")?.hasPrefix("unable to find CPU model 'nope'") == true)
  #expect(
    message("haswell")
      == "unable to find CPU model 'haswell'; did you mean 'Haswell'?")
  #expect(
    message("qemu64,+avvx2")
      == "Property 'qemu64-x86_64-cpu.avvx2' not found; did you mean 'avx2'?")
  #expect(
    message("qemu64,avx=maybe")
      == "can't apply global qemu64-x86_64-cpu.avx=maybe: Parameter 'avx' expects 'on' or 'off'")
  #expect(
    message("qemu64,family=999")
      == "can't apply global qemu64-x86_64-cpu.family=999: Property .family doesn't take value 999 (minimum: 0, maximum: 270)"
  )
  #expect(
    message("qemu64,vendor=abc")
      == "can't apply global qemu64-x86_64-cpu.vendor=abc: Property '.vendor' doesn't take value 'abc'"
  )
  #expect(
    message("qemu64,phys-bits=70") == "phys-bits should be between 32 and 52  (but is 70)")
  #expect(message("qemu64,level=0xffffffffffffffffff") != nil)
}

@Test func identityCanBeSet() throws {
  let cpuid = try table(
    "qemu64,vendor=GenuineIntel,family=6,model=0x3c,stepping=4,model-id=Test CPU,level=7,phys-bits=46"
  ).table
  #expect(cpuid.entry(1).eax == 0x0003_06C4)
  #expect(cpuid.entry(0).eax == 7)
  #expect(cpuid.entry(0x8000_0002).eax == 0x7473_6554)
  #expect(cpuid.entry(0x8000_0008).eax & 0xFF == 46)
}

@Test func hypervisorLeavesNameTheAccelerator() throws {
  let cpuid = try table("max").table.lookup(leaf: 0x4000_0000, subleaf: 0, apicID: 0)
  #expect(cpuid.ebx == 0x5447_4354 && cpuid.ecx == 0x4354_4743 && cpuid.edx == 0x4743_5447)
  let kvm = CPUCapabilities(kvmSupporting: host, host: host)
  let shown = try CPUModel.parse("qemu64").cpuidTable(kvm, topology: CPUTopology()).table
  #expect(shown.entry(0x4000_0000).ebx == 0x4B4D_564B)
  let hidden = try CPUModel.parse("qemu64,kvm=off").cpuidTable(kvm, topology: CPUTopology()).table
  #expect(hidden.entry(0x4000_0000).ebx == 0)
}

@Test func apicIDsLeaveGapsWhereCountsAreNoPowersOfTwo() {
  let topology = CPUTopology(sockets: 2, cores: 3, threads: 2)
  #expect((0..<12).map(topology.apicID) == [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13])
  #expect(CPUTopology(sockets: 3).apicID(ofVCPU: 2) == 2)
  #expect(CPUTopology(sockets: 2, dies: 3, cores: 3).apicID(ofVCPU: 9) == 16)
}

@Test func topologyLeavesTellShiftsAndOwnID() throws {
  let cpuid = try table("Haswell", CPUTopology(sockets: 2, cores: 3, threads: 2)).table
  let smt = cpuid.lookup(leaf: 0xB, subleaf: 0, apicID: 9)
  #expect(smt.eax == 1 && smt.ebx == 2 && smt.ecx == 0x100 && smt.edx == 9)
  let core = cpuid.lookup(leaf: 0xB, subleaf: 1, apicID: 9)
  #expect(core.eax == 3 && core.ebx == 6 && core.ecx == 0x201)
  let leaf1 = cpuid.lookup(leaf: 1, subleaf: 0, apicID: 9)
  #expect(leaf1.ebx >> 24 == 9 && leaf1.ebx >> 16 & 0xFF == 6 && leaf1.edx >> 28 & 1 == 1)
  let l1 = cpuid.lookup(leaf: 4, subleaf: 0, apicID: 0)
  #expect(l1.eax & 0x1F == 1 && l1.eax >> 14 & 0xFFF == 1 && l1.eax >> 26 == 2)
  #expect((l1.ebx >> 22 + 1) * (l1.ecx + 1) * 64 > 0)
  #expect(cpuid.lookup(leaf: 4, subleaf: 9, apicID: 0).eax == 0)
}

@Test func amdTopologyLeafTellsTheCore() throws {
  let cpuid = try table("EPYC", CPUTopology(cores: 4, threads: 2)).table
  let leaf = cpuid.lookup(leaf: 0x8000_001E, subleaf: 0, apicID: 5)
  #expect(leaf.eax == 5 && leaf.ebx == 0x102 && leaf.edx == 0)
}

@Test func dynamicBitsFollowControlRegisters() throws {
  let cpuid = try table("max").table
  #expect(cpuid.lookup(leaf: 1, subleaf: 0, apicID: 0).ecx >> 27 & 1 == 0)
  #expect(cpuid.lookup(leaf: 1, subleaf: 0, apicID: 0, cr4: 1 << 18).ecx >> 27 & 1 == 1)
  #expect(cpuid.lookup(leaf: 0xD, subleaf: 0, apicID: 0, xcr0: 3).ebx == 576)
  #expect(cpuid.lookup(leaf: 0xD, subleaf: 0, apicID: 0, xcr0: 7).ebx == 832)
}

@Test func leavesBeyondTheHighestAnswerAsTheHighestBasicLeaf() throws {
  let cpuid = try table("qemu64,level=7").table
  let beyond = cpuid.lookup(leaf: 0x1234, subleaf: 0, apicID: 0)
  let highest = cpuid.lookup(leaf: 7, subleaf: 0, apicID: 0)
  #expect(beyond.ebx == highest.ebx)
  #expect(cpuid.lookup(leaf: 0x8765_4321, subleaf: 0, apicID: 0).ebx == highest.ebx)
}

@Test func everyListedModelExpands() throws {
  #expect(CPUModel.names.count == 132)
  for name in CPUModel.names {
    let model = try #require(CPUModel.named(name))
    _ = try model.cpuidTable(tcg, topology: CPUTopology(cores: 2))
  }
  let definitions = CPUModel.definitions(tcg)
  #expect(definitions.count == 132)
  #expect(definitions.first { $0.name == "Haswell" }?.aliasOf == "Haswell-v1")
  #expect(definitions.first { $0.name == "qemu64" }?.unavailableFeatures == [])
  #expect(CPUModel.help.contains("x86 Haswell               (alias configured by machine type)\n"))
}

@Test func randomOptionsNeverTrap() {
  var generator = SystemRandomNumberGenerator()
  let alphabet = Array("qemu64,+-=.axvhost0x9FON_kMG ")
  for _ in 0..<200 {
    let count = Int.random(in: 0...40, using: &generator)
    let text = String((0..<count).map { _ in alphabet.randomElement(using: &generator) ?? "," })
    _ = try? CPUModel.parse(text)
    _ = try? table("qemu64,level=" + text)
    _ = try? table("qemu64," + text)
  }
}

@Test func fiveLevelPagingWidensLinearAddresses() throws {
  let kvm = CPUCapabilities(kvmSupporting: host, host: host)
  for (option, bits): (String, UInt32) in [("host", 57), ("host,-la57", 48), ("qemu64", 48)] {
    let cpuid = try CPUModel.parse(option).cpuidTable(kvm, topology: CPUTopology()).table
    #expect(cpuid.entry(0x8000_0008).eax >> 8 & 0xFF == bits, "\(option)")
  }
}
