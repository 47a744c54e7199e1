import CKVM
import CPU
import Glibc
import Host

/// A virtual CPU's descriptor and run area: one method for each request, named after it.
struct VCPUFile: ~Copyable {
  let file: FileDescriptor
  let area: RunArea

  init(file: consuming FileDescriptor, mmapSize: Int) throws(SystemError) {
    area = try RunArea(descriptor: file.rawValue, size: mmapSize)
    self.file = file
  }

  /// KVM_RUN: 0 or -errno. The only request that is not retried when a signal interrupts it.
  @inline(__always) func run() -> Int {
    goliath_kvm_ioctl_value(file.rawValue, goliath_KVM_RUN, 0)
  }

  /// KVM_GET_REGS.
  func getRegisters() throws(SystemError) -> kvm_regs {
    var value = kvm_regs()
    try kvmExchange("KVM_GET_REGS", file.rawValue, goliath_KVM_GET_REGS, &value)
    return value
  }
  /// KVM_SET_REGS.
  func setRegisters(_ value: kvm_regs) throws(SystemError) {
    try kvmSet("KVM_SET_REGS", file.rawValue, goliath_KVM_SET_REGS, value)
  }

  /// KVM_GET_SREGS.
  func getSystemRegisters() throws(SystemError) -> kvm_sregs {
    var value = kvm_sregs()
    try kvmExchange("KVM_GET_SREGS", file.rawValue, goliath_KVM_GET_SREGS, &value)
    return value
  }
  /// KVM_SET_SREGS.
  func setSystemRegisters(_ value: kvm_sregs) throws(SystemError) {
    try kvmSet("KVM_SET_SREGS", file.rawValue, goliath_KVM_SET_SREGS, value)
  }

  /// KVM_GET_VCPU_EVENTS.
  func getEvents() throws(SystemError) -> kvm_vcpu_events {
    var value = kvm_vcpu_events()
    try kvmExchange("KVM_GET_VCPU_EVENTS", file.rawValue, goliath_KVM_GET_VCPU_EVENTS, &value)
    return value
  }
  /// KVM_SET_VCPU_EVENTS.
  func setEvents(_ value: kvm_vcpu_events) throws(SystemError) {
    try kvmSet("KVM_SET_VCPU_EVENTS", file.rawValue, goliath_KVM_SET_VCPU_EVENTS, value)
  }

  /// KVM_GET_DEBUGREGS.
  func getDebugRegisters() throws(SystemError) -> kvm_debugregs {
    var value = kvm_debugregs()
    try kvmExchange("KVM_GET_DEBUGREGS", file.rawValue, goliath_KVM_GET_DEBUGREGS, &value)
    return value
  }
  /// KVM_SET_DEBUGREGS.
  func setDebugRegisters(_ value: kvm_debugregs) throws(SystemError) {
    try kvmSet("KVM_SET_DEBUGREGS", file.rawValue, goliath_KVM_SET_DEBUGREGS, value)
  }

  /// KVM_GET_XCRS.
  func getExtendedControl() throws(SystemError) -> kvm_xcrs {
    var value = kvm_xcrs()
    try kvmExchange("KVM_GET_XCRS", file.rawValue, goliath_KVM_GET_XCRS, &value)
    return value
  }
  /// KVM_SET_XCRS.
  func setExtendedControl(_ value: kvm_xcrs) throws(SystemError) {
    try kvmSet("KVM_SET_XCRS", file.rawValue, goliath_KVM_SET_XCRS, value)
  }

  /// KVM_GET_XSAVE: 4096 bytes in XSAVE's standard form.
  func getXSAVE() throws(SystemError) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: 4096)
    try kvmExchange("KVM_GET_XSAVE", file.rawValue, goliath_KVM_GET_XSAVE, array: &bytes)
    return bytes
  }
  /// KVM_SET_XSAVE.
  func setXSAVE(_ bytes: [UInt8]) throws(SystemError) {
    var copy = bytes
    if copy.count < 4096 { copy += [UInt8](repeating: 0, count: 4096 - copy.count) }
    try kvmExchange("KVM_SET_XSAVE", file.rawValue, goliath_KVM_SET_XSAVE, array: &copy)
  }

  /// KVM_GET_MSRS: fills `data`; answers how many were read before one that the host refused.
  func getMSRs(_ entries: inout [kvm_msr_entry]) throws(SystemError) -> Int {
    try exchangeMSRs("KVM_GET_MSRS", goliath_KVM_GET_MSRS, &entries)
  }
  /// KVM_SET_MSRS: answers how many were written before one that the host refused.
  func setMSRs(_ entries: [kvm_msr_entry]) throws(SystemError) -> Int {
    var copy = entries
    return try exchangeMSRs("KVM_SET_MSRS", goliath_KVM_SET_MSRS, &copy)
  }

  private func exchangeMSRs(
    _ name: String, _ request: UInt, _ entries: inout [kvm_msr_entry]
  ) throws(SystemError) -> Int {
    // struct kvm_msrs: a count in 8 bytes, then index and value in 8 bytes each.
    let count = entries.count
    var words = [UInt64](repeating: 0, count: 1 + 2 * count)
    words[0] = UInt64(count)
    for (index, entry) in entries.enumerated() {
      words[1 + 2 * index] = UInt64(entry.index)
      words[2 + 2 * index] = entry.data
    }
    let done = try kvmExchange(name, file.rawValue, request, array: &words)
    for index in entries.indices { entries[index].data = words[2 + 2 * index] }
    return done
  }

  /// KVM_SET_CPUID2.
  func setCPUID(_ entries: [CPUIDTable.Entry]) throws(SystemError) {
    var list = CPUIDList(entries)
    try list.exchange("KVM_SET_CPUID2", file.rawValue, goliath_KVM_SET_CPUID2)
  }

  /// KVM_INTERRUPT: queues an external interrupt for the next entry.
  func interrupt(_ vector: UInt8) throws(SystemError) {
    try kvmSet(
      "KVM_INTERRUPT", file.rawValue, goliath_KVM_INTERRUPT, kvm_interrupt(irq: UInt32(vector)))
  }

  /// KVM_NMI.
  func nmi() throws(SystemError) { try kvmCall("KVM_NMI", file.rawValue, goliath_KVM_NMI) }

  /// KVM_TRANSLATE: the physical address behind a linear one, nil when unmapped.
  func translate(_ linear: UInt64) throws(SystemError) -> UInt64? {
    var value = kvm_translation()
    value.linear_address = linear
    try kvmExchange("KVM_TRANSLATE", file.rawValue, goliath_KVM_TRANSLATE, &value)
    return value.valid != 0 ? value.physical_address : nil
  }

  /// KVM_GET_TSC_KHZ.
  func getTSCKilohertz() throws(SystemError) -> Int {
    try kvmCall("KVM_GET_TSC_KHZ", file.rawValue, goliath_KVM_GET_TSC_KHZ)
  }

  /// KVM_X86_SETUP_MCE: number of banks and features of machine checks (the guest's IA32_MCG_CAP).
  func setupMCE(_ capabilities: UInt64) throws(SystemError) {
    try kvmSet("KVM_X86_SETUP_MCE", file.rawValue, goliath_KVM_X86_SETUP_MCE, capabilities)
  }

  /// KVM_X86_SET_MCE: a machine check, as soon as the vCPU runs.
  func setMCE(_ check: kvm_x86_mce) throws(SystemError) {
    try kvmSet("KVM_X86_SET_MCE", file.rawValue, goliath_KVM_X86_SET_MCE, check)
  }

  /// KVM_GET_DEVICE_ATTR of KVM_VCPU_TSC_OFFSET: guest's minus host's time-stamp counter.
  func getTSCOffset() throws(SystemError) -> UInt64 {
    var value: UInt64 = 0
    try offsetAttribute("KVM_GET_DEVICE_ATTR", goliath_KVM_GET_DEVICE_ATTR, &value)
    return value
  }
  /// KVM_SET_DEVICE_ATTR of KVM_VCPU_TSC_OFFSET.
  func setTSCOffset(_ offset: UInt64) throws(SystemError) {
    var value = offset
    try offsetAttribute("KVM_SET_DEVICE_ATTR", goliath_KVM_SET_DEVICE_ATTR, &value)
  }

  private func offsetAttribute(
    _ name: String, _ request: UInt, _ value: inout UInt64
  ) throws(SystemError) {
    let descriptor = file.rawValue
    // SAFETY: the value outlives the call, which reads or fills its eight bytes.
    try unsafe withUnsafeMutablePointer(to: &value) { pointer throws(SystemError) in
      var attribute = kvm_device_attr()
      attribute.group = UInt32(KVM_VCPU_TSC_CTRL)
      attribute.attr = UInt64(KVM_VCPU_TSC_OFFSET)
      attribute.addr = UInt64(UInt(bitPattern: pointer))
      _ = try kvmSet(name, descriptor, request, attribute)
    }
  }
}
