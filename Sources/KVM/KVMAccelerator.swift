import CKVM
package import CPU
import Glibc
import Host
package import Shm

/// Accelerator `kvm`: Linux' kernel virtual machine, used without its interrupt controllers.
package struct KVMAccelerator: Accelerator {
  package let name = "kvm"
  private let probes: Bool
  private let emulateOne: InstructionFallback?
  private let makeFallback: (@Sendable (GuestMemory, CPUIDTable) -> InstructionFallback)?

  /// `probe`: look whether this host's KVM can run a stock guest before a machine is made. `emulateOne` serves instructions
  /// that KVM's own emulator does not know; `makeFallback` makes such a function for each machine instead.
  package init(
    probe: Bool = true, emulateOne: InstructionFallback? = nil,
    makeFallback: (@Sendable (GuestMemory, CPUIDTable) -> InstructionFallback)? = nil
  ) {
    probes = probe
    self.emulateOne = emulateOne
    self.makeFallback = makeFallback
  }

  package func makeVM(
    memory: GuestMemory, cpuid: CPUIDTable
  ) throws(AcceleratorError) -> any VirtualMachine {
    let system = try KVMAccelerator.open()
    if probes { try KVMAccelerator.probe(system) }
    do throws(SystemError) {
      return try KVMVirtualMachine(
        system: system, memory: memory, cpuid: cpuid,
        emulateOne: emulateOne ?? makeFallback?(memory, cpuid))
    } catch {
      throw AcceleratorError(error)
    }
  }

  /// With the host's page tables as the rights to pages: `CoherentMapping`.
  package func makeVM(
    memory: GuestMemory, cpuid: CPUIDTable, coherent: CoherentMemory, vcpus: Int
  ) throws(AcceleratorError) -> any VirtualMachine {
    if let setting = KVMAccelerator.shadowPaging() {
      throw AcceleratorError(
        .unavailable,
        "memory of several nodes needs nested paging, which \(setting) turns off; use -accel tcg")
    }
    let mapping: CoherentMapping
    do throws(CoherentMappingError) {
      // Before the machine, whose slots are these mappings.
      mapping = try CoherentMapping(memory, regions: coherent.regions, vcpus: vcpus)
    } catch {
      throw AcceleratorError(.unavailable, "memory of several nodes: \(error.text)")
    }
    let vm = try makeVM(memory: memory, cpuid: cpuid)
    (vm as? KVMVirtualMachine)?.attach(mapping)
    do throws(SystemError) { try mapping.start() } catch { throw AcceleratorError(error) }
    return vm
  }

  /// What says that KVM keeps shadows of the guest's page tables, which it would not learn of when another node changes one; nil: nothing says so.
  private static func shadowPaging() -> String? {
    for (module, parameter) in [("kvm_amd", "npt"), ("kvm_intel", "ept")] {
      let path = "/sys/module/\(module)/parameters/\(parameter)"
      guard let bytes = try? FileDescriptor.contents(of: path, limit: 16) else { continue }
      if bytes.first == UInt8(ascii: "N") || bytes.first == UInt8(ascii: "0") {
        return "\(module).\(parameter)=\(String(decoding: bytes.prefix(1), as: UTF8.self))"
      }
    }
    return nil
  }

  /// Opens `/dev/kvm`. Throws `AcceleratorError.unavailable` with the sentence that QEMU users know.
  private static func open() throws(AcceleratorError) -> SystemFile {
    do throws(SystemError) {
      let system = try SystemFile()
      let version = try system.getAPIVersion()
      guard version == KVM_API_VERSION else {
        throw SystemError(call: "KVM_GET_API_VERSION", code: EINVAL)
      }
      return system
    } catch {
      throw AcceleratorError(.unavailable, "Could not access KVM kernel module: \(error.reason)")
    }
  }

  /// Looks whether this host has a KVM that can run a stock guest; takes a millisecond or two. Throws `AcceleratorError.unavailable`
  /// with the reason.
  package static func probe() throws(AcceleratorError) { try probe(open()) }

  private static func probe(_ system: borrowing SystemFile) throws(AcceleratorError) {
    for (capability, title) in [
      (KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"), (KVM_CAP_USER_NMI, "KVM_CAP_USER_NMI"),
      (KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"), (KVM_CAP_XSAVE, "KVM_CAP_XSAVE"),
    ] where system.checkExtension(capability) == 0 {
      throw AcceleratorError(
        .unavailable, "KVM on this host is too old: \(title) is missing; use -accel tcg")
    }
    let problems: [String]
    do throws(SystemError) { problems = try Probe.run(system) } catch {
      throw AcceleratorError(
        .unavailable, "KVM on this host refuses to make a guest: \(error); use -accel tcg")
    }
    guard problems.isEmpty else {
      throw AcceleratorError(
        .unavailable,
        "KVM on this host cannot run a stock guest: \(problems.joined(separator: ", ")); "
          + "use -accel tcg, or -accel kvm,probe=off to try anyway")
    }
  }

  /// What this host's processor and KVM can give to a guest, for `-cpu host`: without nested virtualisation and performance counters,
  /// and without KVM's own features that need its interrupt controllers. Throws `AcceleratorError.unavailable` or `.failed`.
  package static func supportedCPUID() throws(AcceleratorError) -> CPUIDTable {
    let system = try open()
    let routes =
      system.checkExtension(KVM_CAP_X86_USER_SPACE_MSR) != 0
      && system.checkExtension(KVM_CAP_X86_MSR_FILTER) != 0
    let entries = try AcceleratorError.wrapping { () throws(SystemError) in
      try system.getSupportedCPUID()
    }
    return CPUIDTable(entries.compactMap { adapt($0, routesMSRs: routes) })
  }

  /// What guests' time-stamp counters count in a millisecond; nil when KVM does not tell.
  package static var counterKilohertz: UInt64? {
    guard let system = try? open(), let size = try? system.getVCPUMmapSize(),
      let vm = try? system.createVM(), let vcpu = try? vm.createVCPU(id: 0, mmapSize: size),
      let kilohertz = try? vcpu.getTSCKilohertz(), kilohertz > 0
    else { return nil }
    return UInt64(kilohertz)
  }

  private static func adapt(_ entry: CPUIDTable.Entry, routesMSRs: Bool) -> CPUIDTable.Entry? {
    var entry = entry
    switch entry.leaf {
    case 1:
      entry.ecx &= ~(1 << 5)  // VMX
      // x2APIC and TSC deadline are ours.
      entry.ecx = routesMSRs ? entry.ecx | (1 << 21 | 1 << 24) : entry.ecx & ~(1 << 21 | 1 << 24)
      entry.ecx |= 1 << 31  // hypervisor present
    case 7 where entry.subleaf == 0:
      entry.edx &= ~(1 << 22 | 1 << 24 | 1 << 25)  // AMX: its state does not fit in 4096 bytes
    case 0xA:
      // Performance counters interrupt the kernel's APIC.
      (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0)
    case 0xD where entry.subleaf == 0:
      entry.eax &= ~(1 << 17 | 1 << 18)
    case 0xD where entry.subleaf == 17 || entry.subleaf == 18:
      return nil
    case 0x1D, 0x1E:
      return nil
    case 0x4000_0001:
      // Clock sources (0, 3, 24), no delay on ports (1), stolen time (5), remote TLB flush (9).
      entry.eax &= 1 << 0 | 1 << 1 | 1 << 3 | 1 << 5 | 1 << 9 | 1 << 24
    case 0x8000_0001:
      entry.ecx &= ~(1 << 2 | 1 << 23 | 1 << 24)  // SVM, performance counters
    case 0x8000_000A, 0x8000_0022:
      return nil
    default: break
    }
    return entry
  }
}
