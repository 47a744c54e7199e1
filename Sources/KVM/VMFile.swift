import CKVM
import Glibc
import Host

/// A virtual machine's descriptor: one method for each request, named after it.
struct VMFile: ~Copyable {
  let file: FileDescriptor

  /// KVM_CHECK_EXTENSION: 0 when absent.
  func checkExtension(_ capability: Int32) -> Int {
    max(
      0,
      goliath_kvm_ioctl_value(
        file.rawValue, goliath_KVM_CHECK_EXTENSION, UInt64(UInt32(bitPattern: capability))))
  }

  /// KVM_ENABLE_CAP with one argument.
  func enableCap(_ capability: Int32, _ argument: UInt64) throws(SystemError) {
    var request = kvm_enable_cap()
    request.cap = UInt32(bitPattern: capability)
    request.args.0 = argument
    try kvmSet("KVM_ENABLE_CAP", file.rawValue, goliath_KVM_ENABLE_CAP, request)
  }

  /// KVM_SET_USER_MEMORY_REGION; size 0 removes the slot.
  func setUserMemoryRegion(_ region: kvm_userspace_memory_region) throws(SystemError) {
    try kvmSet(
      "KVM_SET_USER_MEMORY_REGION", file.rawValue, goliath_KVM_SET_USER_MEMORY_REGION, region)
  }

  /// KVM_SET_TSS_ADDR: three pages that Intel processors without unrestricted guests need.
  func setTSSAddress(_ address: UInt64) throws(SystemError) {
    try kvmCall("KVM_SET_TSS_ADDR", file.rawValue, goliath_KVM_SET_TSS_ADDR, value: address)
  }

  /// KVM_SET_IDENTITY_MAP_ADDR: one page for the same processors.
  func setIdentityMapAddress(_ address: UInt64) throws(SystemError) {
    try kvmSet(
      "KVM_SET_IDENTITY_MAP_ADDR", file.rawValue, goliath_KVM_SET_IDENTITY_MAP_ADDR, address)
  }

  /// KVM_SET_CLOCK: what kvmclock shows.
  func setClock(_ data: kvm_clock_data) throws(SystemError) {
    try kvmSet("KVM_SET_CLOCK", file.rawValue, goliath_KVM_SET_CLOCK, data)
  }

  /// KVM_CREATE_VCPU.
  func createVCPU(id: UInt32, mmapSize: Int) throws(SystemError) -> VCPUFile {
    let number = try kvmCall(
      "KVM_CREATE_VCPU", file.rawValue, goliath_KVM_CREATE_VCPU, value: UInt64(id))
    return try VCPUFile(
      file: FileDescriptor(owning: Int32(truncatingIfNeeded: number)), mmapSize: mmapSize)
  }

  /// KVM_GET_DIRTY_LOG: fills a bit for each page of the slot that was written since the last call.
  func getDirtyLog(slot: UInt32, into bitmap: inout [UInt64]) throws(SystemError) {
    let descriptor = file.rawValue
    // SAFETY: the bitmap outlives the call and covers the slot's pages, rounded up to 64.
    let result = unsafe bitmap.withUnsafeMutableBytes { bytes in
      var request = unsafe kvm_dirty_log()
      unsafe request.slot = slot
      unsafe request.dirty_bitmap = bytes.baseAddress
      return unsafe goliath_kvm_ioctl(descriptor, goliath_KVM_GET_DIRTY_LOG, &request)
    }
    if result < 0 { throw SystemError(call: "KVM_GET_DIRTY_LOG", code: Int32(-result)) }
  }

  /// Registers that a guest's access to which is to end in an exit.
  struct MSRRange {
    var base: UInt32
    var count: UInt32
    var reads: Bool
    var writes: Bool
  }

  /// KVM_X86_SET_MSR_FILTER: allows all but `denied` (at most 16 ranges of at most 64 registers).
  func setMSRFilter(_ denied: [MSRRange]) throws(SystemError) {
    var zeros: UInt64 = 0
    let descriptor = file.rawValue
    // SAFETY: the bitmap and the structure outlive the call, which copies both.
    try unsafe withUnsafeMutableBytes(of: &zeros) { bitmap throws(SystemError) in
      var filter = kvm_msr_filter()
      filter.flags = UInt32(KVM_MSR_FILTER_DEFAULT_ALLOW)
      let address = unsafe bitmap.baseAddress?.assumingMemoryBound(to: UInt8.self)
      try unsafe withUnsafeMutableBytes(of: &filter.ranges) { bytes throws(SystemError) in
        let ranges = unsafe bytes.bindMemory(to: kvm_msr_filter_range.self)
        for (index, range) in denied.prefix(16).enumerated() {
          let flags =
            (range.reads ? KVM_MSR_FILTER_READ : 0) | (range.writes ? KVM_MSR_FILTER_WRITE : 0)
          unsafe ranges[index].flags = UInt32(flags)
          unsafe ranges[index].nmsrs = min(range.count, 64)
          unsafe ranges[index].base = range.base
          unsafe ranges[index].bitmap = address
        }
      }
      _ = try unsafe withUnsafeMutablePointer(to: &filter) { pointer throws(SystemError) in
        try unsafe kvmCall(
          "KVM_X86_SET_MSR_FILTER", descriptor, goliath_KVM_X86_SET_MSR_FILTER,
          UnsafeMutableRawPointer(pointer))
      }
    }
  }
}
