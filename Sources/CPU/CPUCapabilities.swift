/// What an accelerator can give its guests' CPUs, as the CPU models need it.
package struct CPUCapabilities: Sendable {
  package enum Kind: Sendable { case kvm, tcg }
  package let kind: Kind
  /// Everything that may be offered.
  package private(set) var features: FeatureSet
  /// The host's own CPUID: the source of `-cpu host` and `host-phys-bits`.
  package let host: CPUIDTable
  /// Ticks of the guest's TSC in a second, when known.
  package var tscFrequency: UInt64?
  /// Ticks of the local APIC's timer in a second before its divider, when known. With `tscFrequency`: leaf 0x15.
  package var apicTimerFrequency: UInt64?

  /// For the software CPU.
  package init(
    tcgOn host: CPUIDTable, tscFrequency: UInt64? = nil, apicTimerFrequency: UInt64? = nil
  ) {
    kind = .tcg
    features = .softwareCPU(host: host)
    self.host = host
    self.tscFrequency = tscFrequency
    self.apicTimerFrequency = apicTimerFrequency
  }

  /// For KVM with `supported` from KVM_GET_SUPPORTED_CPUID. The local APIC is ours, not KVM's: x2APIC and the TSC deadline
  /// are offered when `emulatesAPIC`, and what only KVM's own APIC can serve is not.
  package init(
    kvmSupporting supported: CPUIDTable, host: CPUIDTable, emulatesAPIC: Bool = true,
    tscFrequency: UInt64? = nil
  ) {
    kind = .kvm
    var set = FeatureSet(table: supported)
    set["hypervisor"] = true
    set["ht"] = true
    set["cmp-legacy"] = true
    set["topoext"] = true
    set["arat"] = true
    set["x2apic"] = emulatesAPIC
    set["tsc-deadline"] = emulatesAPIC
    set["apic"] = true
    for name in ["monitor", "svm", "vmx"] { set[name] = false }
    // KVM's paravirtual interrupt features work only with its own local APIC.
    let served = FeatureSet(names: "kvmclock kvm-nopiodelay kvm-steal-time kvmclock-stable-bit")
    set[.kvmEAX] &= served[.kvmEAX]
    set[.kvmEDX] = 0
    features = set
    self.host = host
    self.tscFrequency = tscFrequency
  }

  /// The same accelerator with another set of features.
  package func offering(_ features: FeatureSet) -> CPUCapabilities {
    var result = self
    result.features = features
    return result
  }

  /// As QEMU's warnings begin.
  var subject: String { kind == .tcg ? "TCG" : "host" }
  var capitalizedSubject: String { kind == .tcg ? "TCG" : "Host" }
}
