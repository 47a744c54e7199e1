import CKVM
import CPU
import Glibc
import Host

/// A guest of a few instructions that tells whether this host's KVM can run a stock guest.
///
/// Some clouds and containers offer a `/dev/kvm` that accepts everything and cannot page in 32-bit mode, or shows the guest another
/// CPUID than the one that was set; a kernel would fail there much later and without a reason.
struct Probe {
  /// CPUID.1:EAX that no processor has.
  private static let signature: UInt32 = 0x000A_5B1E
  private static let cpuidPort: UInt16 = 0x500
  private static let pagingPort: UInt16 = 0x501

  /// Flat 32-bit protected mode at 0x1000.
  private static let code: [UInt8] = [
    0xB8, 0x01, 0x00, 0x00, 0x00,  // mov eax, 1
    0x31, 0xC9,  // xor ecx, ecx
    0x0F, 0xA2,  // cpuid
    0xBA, 0x00, 0x05, 0x00, 0x00,  // mov edx, 0x500
    0xEF,  // out dx, eax
    0xB8, 0x00, 0x20, 0x00, 0x00,  // mov eax, 0x2000
    0x0F, 0x22, 0xD8,  // mov cr3, eax
    0x0F, 0x20, 0xC0,  // mov eax, cr0
    0x0D, 0x00, 0x00, 0x00, 0x80,  // or eax, 0x80000000
    0x0F, 0x22, 0xC0,  // mov cr0, eax
    0xBA, 0x01, 0x05, 0x00, 0x00,  // mov edx, 0x501
    0xEE,  // out dx, al
    0xF4,  // hlt
  ]
  /// Present, writable, 4 MiB: the identity map of the lowest 4 MiB.
  private static let pageDirectoryEntry: UInt32 = 0x83
  private static let memorySize = 0x4000

  /// What is wrong with this KVM, in words; empty when nothing is. Throws `SystemError` when a request is refused.
  static func run(_ system: borrowing SystemFile) throws(SystemError) -> [String] {
    // SAFETY: a fresh mapping, unmapped below, after the machine that uses it.
    let memory = unsafe mmap(
      nil, memorySize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    guard let memory = unsafe memory, unsafe memory != MAP_FAILED else {
      throw SystemError(call: "mmap", code: errno)
    }
    defer { unsafe munmap(memory, memorySize) }
    for (index, byte) in code.enumerated() {
      unsafe memory.storeBytes(of: byte, toByteOffset: 0x1000 + index, as: UInt8.self)
    }
    unsafe memory.storeBytes(of: pageDirectoryEntry, toByteOffset: 0x2000, as: UInt32.self)

    let vm = try system.createVM()
    try? vm.setIdentityMapAddress(0xFEFF_C000)
    try? vm.setTSSAddress(0xFEFF_D000)
    var region = kvm_userspace_memory_region()
    region.memory_size = UInt64(memorySize)
    region.userspace_addr = UInt64(UInt(bitPattern: memory))
    try vm.setUserMemoryRegion(region)
    let vcpu = try vm.createVCPU(id: 0, mmapSize: try system.getVCPUMmapSize())
    try vcpu.setCPUID([
      // "GenuineIntel", and the features of a processor that can page with 4 MiB pages.
      CPUIDTable.Entry(0, eax: 1, ebx: 0x756E_6547, ecx: 0x6C65_746E, edx: 0x4965_6E69),
      CPUIDTable.Entry(1, eax: signature, edx: 0x0781_A13F),
    ])
    try begin(vcpu)
    return try judge(vcpu)
  }

  private static func begin(_ vcpu: borrowing VCPUFile) throws(SystemError) {
    var state = CPUState()
    let data = SegmentRegister(selector: 0x10, limit: ~0, attributes: 0xC093)
    state.cs = SegmentRegister(selector: 8, limit: ~0, attributes: 0xC09B)
    (state.ss, state.ds, state.es, state.fs, state.gs) = (data, data, data, data, data)
    state.cr0 = 0x11
    state.cr4 = 0x10
    state.rip = 0x1000
    try vcpu.setSystemRegisters(state.kvmSystemRegisters(apicBase: 0xFEE0_0900))
    try vcpu.setRegisters(state.kvmRegisters)
  }

  /// Runs to the end; at most a handful of exits.
  private static func judge(_ vcpu: borrowing VCPUFile) throws(SystemError) -> [String] {
    var problems: [String] = []
    var reported = false
    for _ in 0..<100 {
      let result = vcpu.run()
      if result == -Int(EINTR) || result == -Int(EAGAIN) { continue }
      if result < 0 { throw SystemError(call: "KVM_RUN", code: Int32(-result)) }
      switch vcpu.area.exitReason {
      case KVM_EXIT_IO where vcpu.area.io.port == cpuidPort:
        reported = true
        if vcpu.area.loadPortData(vcpu.area.io, 0) != signature {
          problems.append("its guests do not see the CPUID that is set for them")
        }
      case KVM_EXIT_IO where vcpu.area.io.port == pagingPort:
        return problems
      case KVM_EXIT_INTR:
        continue
      default:
        return problems + [
          reported ? "32-bit paging does not work" : "32-bit protected mode does not work"
        ]
      }
    }
    return problems + ["a guest of twenty instructions does not end"]
  }
}
