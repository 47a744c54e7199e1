import CKVM
import CPU
import Glibc
import Host

/// `/dev/kvm`: one method for each request, named after it (Linux, Documentation/virt/kvm/api.rst, section 4).
struct SystemFile: ~Copyable {
  let file: FileDescriptor

  /// Opens the device. Throws `SystemError` for `open`.
  init(path: String = "/dev/kvm") throws(SystemError) {
    file = try FileDescriptor.open(path, O_RDWR)
  }

  /// KVM_GET_API_VERSION: 12 on every kernel in use.
  func getAPIVersion() throws(SystemError) -> Int {
    try kvmCall("KVM_GET_API_VERSION", file.rawValue, goliath_KVM_GET_API_VERSION)
  }

  /// KVM_CHECK_EXTENSION: 0 when absent.
  func checkExtension(_ capability: Int32) -> Int {
    max(
      0,
      goliath_kvm_ioctl_value(
        file.rawValue, goliath_KVM_CHECK_EXTENSION, UInt64(UInt32(bitPattern: capability))))
  }

  /// KVM_CREATE_VM.
  func createVM() throws(SystemError) -> VMFile {
    let number = try kvmCall("KVM_CREATE_VM", file.rawValue, goliath_KVM_CREATE_VM)
    return VMFile(file: FileDescriptor(owning: Int32(truncatingIfNeeded: number)))
  }

  /// KVM_GET_VCPU_MMAP_SIZE: bytes of the run area.
  func getVCPUMmapSize() throws(SystemError) -> Int {
    try kvmCall("KVM_GET_VCPU_MMAP_SIZE", file.rawValue, goliath_KVM_GET_VCPU_MMAP_SIZE)
  }

  /// KVM_GET_SUPPORTED_CPUID: what this host's processor and KVM can give to a guest.
  func getSupportedCPUID() throws(SystemError) -> [CPUIDTable.Entry] {
    var list = CPUIDList(capacity: CPUIDList.most)
    try list.exchange(
      "KVM_GET_SUPPORTED_CPUID", file.rawValue, goliath_KVM_GET_SUPPORTED_CPUID)
    return list.entries
  }

  /// KVM_GET_MSR_INDEX_LIST: the registers that this KVM knows how to save.
  func getMSRIndexList() throws(SystemError) -> [UInt32] {
    // struct kvm_msr_list: a count, then indices.
    var words = [UInt32](repeating: 0, count: 1025)
    words[0] = 1024
    try kvmExchange(
      "KVM_GET_MSR_INDEX_LIST", file.rawValue, goliath_KVM_GET_MSR_INDEX_LIST, array: &words)
    return Array(words[1...].prefix(Int(words[0])))
  }

  /// KVM_X86_GET_MCE_CAP_SUPPORTED.
  func getMCECapSupported() throws(SystemError) -> UInt64 {
    var value: UInt64 = 0
    try kvmExchange(
      "KVM_X86_GET_MCE_CAP_SUPPORTED", file.rawValue, goliath_KVM_X86_GET_MCE_CAP_SUPPORTED, &value)
    return value
  }
}
