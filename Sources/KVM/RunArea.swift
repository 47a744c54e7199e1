import CKVM
import Glibc
import Host

/// The mapping that a vCPU shares with the kernel (`struct kvm_run`, then the data of port accesses).
///
/// Belongs to the vCPU's thread, but for `requestImmediateExit`.
@safe struct RunArea: ~Copyable {
  // SAFETY: mapped in init, unmapped in deinit; whoever copies the pointer keeps the owner alive.
  private let run: UnsafeMutablePointer<kvm_run>
  private let size: Int

  init(descriptor: Int32, size: Int) throws(SystemError) {
    // SAFETY: a fresh mapping at an address of the kernel's choice.
    let address = unsafe mmap(nil, size, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0)
    guard let address = unsafe address, unsafe address != MAP_FAILED else {
      throw SystemError(call: "mmap", code: errno)
    }
    unsafe run = address.bindMemory(to: kvm_run.self, capacity: 1)
    self.size = size
  }

  // SAFETY (all members): `run` is valid as long as `self`; the kernel writes there during KVM_RUN only, which the same thread calls.
  deinit { unsafe munmap(run, size) }

  @inline(__always) var exitReason: Int32 {
    unsafe Int32(truncatingIfNeeded: run.pointee.exit_reason)
  }

  /// The next KVM_RUN completes what is pending and comes back. Any thread.
  @inline(__always) func setImmediateExit(_ on: Bool) {
    unsafe goliath_kvm_set_immediate_exit(run, on ? 1 : 0)
  }

  var requestsInterruptWindow: Bool {
    @inline(__always) get { unsafe run.pointee.request_interrupt_window != 0 }
    nonmutating set { unsafe run.pointee.request_interrupt_window = newValue ? 1 : 0 }
  }

  /// KVM_INTERRUPT may be used now.
  var isReadyForInterrupt: Bool {
    @inline(__always) get {
      unsafe run.pointee.ready_for_interrupt_injection != 0 && run.pointee.if_flag != 0
    }
    nonmutating set {
      unsafe run.pointee.ready_for_interrupt_injection = newValue ? 1 : 0
      if newValue { unsafe run.pointee.if_flag = 1 }
    }
  }

  var cr8: UInt64 {
    @inline(__always) get { unsafe run.pointee.cr8 }
    @inline(__always) nonmutating set { unsafe run.pointee.cr8 = newValue }
  }

  /// Register classes that the kernel stores at each exit.
  var validRegisters: UInt64 {
    @inline(__always) get { unsafe run.pointee.kvm_valid_regs }
    nonmutating set { unsafe run.pointee.kvm_valid_regs = newValue }
  }

  /// Register classes that the kernel loads at the next entry.
  var dirtyRegisters: UInt64 {
    @inline(__always) get { unsafe run.pointee.kvm_dirty_regs }
    nonmutating set { unsafe run.pointee.kvm_dirty_regs = newValue }
  }

  var registers: kvm_regs {
    get { unsafe goliath_kvm_sync(run).pointee.regs }
    nonmutating set { unsafe goliath_kvm_sync(run).pointee.regs = newValue }
  }
  var systemRegisters: kvm_sregs {
    get { unsafe goliath_kvm_sync(run).pointee.sregs }
    nonmutating set { unsafe goliath_kvm_sync(run).pointee.sregs = newValue }
  }
  var events: kvm_vcpu_events {
    get { unsafe goliath_kvm_sync(run).pointee.events }
    nonmutating set { unsafe goliath_kvm_sync(run).pointee.events = newValue }
  }

  // MARK: - What an exit is about

  @inline(__always) var io: goliath_kvm_io { unsafe goliath_kvm_get_io(run) }

  /// The `index`th datum of a port access.
  @inline(__always) func loadPortData(_ io: goliath_kvm_io, _ index: Int) -> UInt32 {
    guard let offset = portDataOffset(io, index) else { return ~0 }
    let data = unsafe UnsafeRawPointer(run) + offset
    switch io.size {
    case 1: return unsafe UInt32(data.load(as: UInt8.self))
    case 2: return unsafe UInt32(data.loadUnaligned(as: UInt16.self))
    default: return unsafe data.loadUnaligned(as: UInt32.self)
    }
  }

  @inline(__always) func storePortData(_ io: goliath_kvm_io, _ index: Int, _ value: UInt32) {
    guard let offset = portDataOffset(io, index) else { return }
    let data = unsafe UnsafeMutableRawPointer(run) + offset
    switch io.size {
    case 1: unsafe data.storeBytes(of: UInt8(truncatingIfNeeded: value), as: UInt8.self)
    case 2: unsafe data.storeBytes(of: UInt16(truncatingIfNeeded: value), as: UInt16.self)
    default: unsafe data.storeBytes(of: value, as: UInt32.self)
    }
  }

  @inline(__always) private func portDataOffset(_ io: goliath_kvm_io, _ index: Int) -> Int? {
    let offset = Int(truncatingIfNeeded: io.data_offset) &+ index &* Int(io.size)
    return offset >= 0 && offset &+ 4 <= size ? offset : nil
  }

  @inline(__always) var mmio: goliath_kvm_mmio { unsafe goliath_kvm_get_mmio(run) }
  @inline(__always) func answerMMIO(_ value: UInt64) { unsafe goliath_kvm_set_mmio(run, value) }

  var msr: goliath_kvm_msr { unsafe goliath_kvm_get_msr(run) }
  func answerMSR(_ value: UInt64, fault: Bool) {
    unsafe goliath_kvm_set_msr(run, value, fault ? 1 : 0)
  }

  var suberror: UInt32 { unsafe goliath_kvm_suberror(run) }
  func internalData(_ index: UInt32) -> UInt64 { unsafe goliath_kvm_internal_data(run, index) }
  var entryFailure: UInt64 { unsafe goliath_kvm_entry_failure(run) }
  var systemEvent: UInt32 { unsafe goliath_kvm_system_event(run) }
  var hardwareExit: UInt64 { unsafe goliath_kvm_hardware_exit(run) }
}
