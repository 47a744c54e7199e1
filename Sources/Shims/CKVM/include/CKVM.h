#pragma once
// The KVM interface (Linux, Documentation/virt/kvm/api.rst) as Swift cannot say it: request numbers, which are macros; the anonymous unions
// of `struct kvm_run`; variadic ioctl. No policy; failures are -errno.
#include <errno.h>
#include <linux/kvm.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define GOLIATH_REQUEST(name) static const unsigned long goliath_##name = name

// /dev/kvm
GOLIATH_REQUEST(KVM_GET_API_VERSION);
GOLIATH_REQUEST(KVM_CREATE_VM);
GOLIATH_REQUEST(KVM_CHECK_EXTENSION);
GOLIATH_REQUEST(KVM_GET_VCPU_MMAP_SIZE);
GOLIATH_REQUEST(KVM_GET_SUPPORTED_CPUID);
GOLIATH_REQUEST(KVM_GET_MSR_INDEX_LIST);
GOLIATH_REQUEST(KVM_X86_GET_MCE_CAP_SUPPORTED);
// A virtual machine
GOLIATH_REQUEST(KVM_ENABLE_CAP);
GOLIATH_REQUEST(KVM_SET_USER_MEMORY_REGION);
GOLIATH_REQUEST(KVM_SET_TSS_ADDR);
GOLIATH_REQUEST(KVM_SET_IDENTITY_MAP_ADDR);
GOLIATH_REQUEST(KVM_CREATE_VCPU);
GOLIATH_REQUEST(KVM_GET_DIRTY_LOG);
GOLIATH_REQUEST(KVM_CLEAR_DIRTY_LOG);
GOLIATH_REQUEST(KVM_X86_SET_MSR_FILTER);
GOLIATH_REQUEST(KVM_IOEVENTFD);
GOLIATH_REQUEST(KVM_SET_CLOCK);
// A virtual CPU
GOLIATH_REQUEST(KVM_RUN);
GOLIATH_REQUEST(KVM_GET_REGS);
GOLIATH_REQUEST(KVM_SET_REGS);
GOLIATH_REQUEST(KVM_GET_SREGS);
GOLIATH_REQUEST(KVM_SET_SREGS);
GOLIATH_REQUEST(KVM_GET_MSRS);
GOLIATH_REQUEST(KVM_SET_MSRS);
GOLIATH_REQUEST(KVM_GET_XSAVE);
GOLIATH_REQUEST(KVM_SET_XSAVE);
GOLIATH_REQUEST(KVM_GET_XCRS);
GOLIATH_REQUEST(KVM_SET_XCRS);
GOLIATH_REQUEST(KVM_GET_DEBUGREGS);
GOLIATH_REQUEST(KVM_SET_DEBUGREGS);
GOLIATH_REQUEST(KVM_GET_VCPU_EVENTS);
GOLIATH_REQUEST(KVM_SET_VCPU_EVENTS);
GOLIATH_REQUEST(KVM_SET_CPUID2);
GOLIATH_REQUEST(KVM_INTERRUPT);
GOLIATH_REQUEST(KVM_NMI);
GOLIATH_REQUEST(KVM_TRANSLATE);
GOLIATH_REQUEST(KVM_GET_TSC_KHZ);
GOLIATH_REQUEST(KVM_SET_TSC_KHZ);
GOLIATH_REQUEST(KVM_SET_GUEST_DEBUG);
GOLIATH_REQUEST(KVM_X86_SETUP_MCE);
GOLIATH_REQUEST(KVM_X86_SET_MCE);
GOLIATH_REQUEST(KVM_GET_DEVICE_ATTR);
GOLIATH_REQUEST(KVM_SET_DEVICE_ATTR);
GOLIATH_REQUEST(KVM_HAS_DEVICE_ATTR);

#undef GOLIATH_REQUEST

// The layouts that the Swift side and the kernel must agree on.
_Static_assert(offsetof(struct kvm_run, immediate_exit) == 1, "kvm_run.immediate_exit");
_Static_assert(offsetof(struct kvm_run, cr8) == 16, "kvm_run.cr8");
_Static_assert(offsetof(struct kvm_run, io) == 32, "kvm_run.io");
_Static_assert(offsetof(struct kvm_run, kvm_valid_regs) == 288, "kvm_run.kvm_valid_regs");
_Static_assert(offsetof(struct kvm_run, s) == 304, "kvm_run.s");
_Static_assert(sizeof(struct kvm_regs) == 144, "kvm_regs");
_Static_assert(sizeof(struct kvm_sregs) == 312, "kvm_sregs");
_Static_assert(sizeof(struct kvm_vcpu_events) == 64, "kvm_vcpu_events");
_Static_assert(sizeof(struct kvm_msr_entry) == 16, "kvm_msr_entry");
_Static_assert(sizeof(struct kvm_cpuid_entry2) == 40, "kvm_cpuid_entry2");
_Static_assert(sizeof(struct kvm_userspace_memory_region) == 32, "kvm_userspace_memory_region");

/// The result (0 or more) or -errno.
static inline long goliath_kvm_ioctl(int fd, unsigned long request, void *argument) {
  int r = ioctl(fd, request, argument);
  return r < 0 ? -errno : r;
}

/// The same for requests whose argument is a number.
static inline long goliath_kvm_ioctl_value(int fd, unsigned long request, uint64_t argument) {
  int r = ioctl(fd, request, argument);
  return r < 0 ? -errno : r;
}

/// Sends `signal` to one thread of this process; a thread that has ended is no error.
static inline void goliath_kick_thread(int64_t thread, int signal) {
  syscall(SYS_tgkill, getpid(), (pid_t)thread, signal);
}

// MARK: The run area, which the kernel shares with the thread that calls KVM_RUN.

/// Read by the kernel once at the beginning of KVM_RUN; other threads may set it.
static inline void goliath_kvm_set_immediate_exit(struct kvm_run *run, uint8_t value) {
  __atomic_store_n(&run->immediate_exit, value, __ATOMIC_SEQ_CST);
}

struct goliath_kvm_io {
  uint64_t data_offset;
  uint32_t count;
  uint16_t port;
  uint8_t size;
  uint8_t is_out;
};
static inline struct goliath_kvm_io goliath_kvm_get_io(const struct kvm_run *run) {
  struct goliath_kvm_io io = {run->io.data_offset, run->io.count, run->io.port, run->io.size,
                              run->io.direction == KVM_EXIT_IO_OUT};
  return io;
}

struct goliath_kvm_mmio {
  uint64_t address;
  uint64_t data;
  uint32_t length;
  uint8_t is_write;
};
static inline struct goliath_kvm_mmio goliath_kvm_get_mmio(const struct kvm_run *run) {
  struct goliath_kvm_mmio mmio = {run->mmio.phys_addr, 0, run->mmio.len, run->mmio.is_write};
  memcpy(&mmio.data, run->mmio.data, 8);
  return mmio;
}
static inline void goliath_kvm_set_mmio(struct kvm_run *run, uint64_t data) {
  memcpy(run->mmio.data, &data, 8);
}

struct goliath_kvm_msr {
  uint64_t data;
  uint32_t index;
  uint32_t reason;
};
static inline struct goliath_kvm_msr goliath_kvm_get_msr(const struct kvm_run *run) {
  struct goliath_kvm_msr msr = {run->msr.data, run->msr.index, run->msr.reason};
  return msr;
}
static inline void goliath_kvm_set_msr(struct kvm_run *run, uint64_t data, uint8_t error) {
  run->msr.data = data;
  run->msr.error = error;
}

/// Fields of KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_FAIL_ENTRY, KVM_EXIT_SYSTEM_EVENT and KVM_EXIT_UNKNOWN.
static inline uint32_t goliath_kvm_suberror(const struct kvm_run *run) {
  return run->internal.suberror;
}
static inline uint64_t goliath_kvm_internal_data(const struct kvm_run *run, uint32_t index) {
  return index < run->internal.ndata && index < 16 ? run->internal.data[index] : 0;
}
static inline uint64_t goliath_kvm_entry_failure(const struct kvm_run *run) {
  return run->fail_entry.hardware_entry_failure_reason;
}
static inline uint32_t goliath_kvm_system_event(const struct kvm_run *run) {
  return run->system_event.type;
}
static inline uint64_t goliath_kvm_hardware_exit(const struct kvm_run *run) {
  return run->hw.hardware_exit_reason;
}

/// The register classes that KVM_CAP_SYNC_REGS shares.
static inline struct kvm_sync_regs *goliath_kvm_sync(struct kvm_run *run) { return &run->s.regs; }
