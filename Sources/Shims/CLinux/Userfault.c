#define _GNU_SOURCE
#include "include/Userfault.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

// What older headers lack.
#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif
#ifndef UFFDIO_CONTINUE_MODE_WP
#define UFFDIO_CONTINUE_MODE_WP ((uint64_t)1 << 1)
#endif
#define FEATURE_POISON ((uint64_t)1 << 14)
#define FEATURE_THREAD_ID ((uint64_t)1 << 8)
struct poison {
  struct uffdio_range range;
  uint64_t mode;
  int64_t updated;
};
#define IOCTL_POISON _IOWR(UFFDIO, 0x08, struct poison)

static const uint64_t required = UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM
  | UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM | UFFD_FEATURE_EXACT_ADDRESS;

// Reading waits: `poll` beside it costs every fault microseconds, and the kernel does not let it be used on one that waits anyway.
static int openOne(void) {
  // Faults of the kernel (KVM's) come to us too, which takes this file or a privilege.
  int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
  if (device >= 0) {
    int r = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC);
    int code = errno;
    close(device);
    if (r >= 0) return r;
    errno = code;
  }
  int r = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
  return r < 0 ? -errno : r;
}

int goliath_userfault_open(uint64_t *missing, uint64_t *offered) {
  *missing = *offered = 0;
  int probe = openOne();
  if (probe < 0) return probe;
  struct uffdio_api api = {.api = UFFD_API};
  int r = ioctl(probe, UFFDIO_API, &api) < 0 ? -errno : 0;
  close(probe);
  if (r < 0) return r;
  *offered = api.features;
  *missing = required & ~api.features;
  if (*missing) return -EOPNOTSUPP;
  int descriptor = openOne();
  if (descriptor < 0) return descriptor;
  struct uffdio_api wanted = {.api = UFFD_API, .features = required | (api.features & (FEATURE_POISON | FEATURE_THREAD_ID))};
  if (ioctl(descriptor, UFFDIO_API, &wanted) < 0) {
    r = -errno;
    close(descriptor);
    return r;
  }
  return descriptor;
}

int goliath_userfault_register(int descriptor, void *start, uint64_t length) {
  struct uffdio_register range = {
    .range = {.start = (uint64_t)start, .len = length},
    .mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR | UFFDIO_REGISTER_MODE_WP,
  };
  return ioctl(descriptor, UFFDIO_REGISTER, &range) < 0 ? -errno : 0;
}

int goliath_userfault_map(int descriptor, uint64_t start, int is_protected, int wakes) {
  while (1) {
    struct uffdio_continue page = {
      .range = {.start = start, .len = 4096},
      .mode = (is_protected ? UFFDIO_CONTINUE_MODE_WP : 0) | (wakes ? 0 : UFFDIO_CONTINUE_MODE_DONTWAKE),
    };
    if (ioctl(descriptor, UFFDIO_CONTINUE, &page) >= 0) return 0;
    if (errno != EAGAIN) return -errno;
  }
}

int goliath_userfault_maps_protected(int descriptor, uint64_t start) {
  int r = goliath_userfault_map(descriptor, start, 1, 0);
  madvise((void *)start, 4096, MADV_DONTNEED);
  return r != -EINVAL;
}

int goliath_userfault_protect(int descriptor, uint64_t start, uint64_t length, int is_protected) {
  while (1) {
    struct uffdio_writeprotect pages = {
      .range = {.start = start, .len = length},
      .mode = is_protected ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
    };
    if (ioctl(descriptor, UFFDIO_WRITEPROTECT, &pages) >= 0) return 0;
    if (errno != EAGAIN) return -errno;
  }
}

int goliath_userfault_wake(int descriptor, uint64_t start, uint64_t length) {
  struct uffdio_range range = {.start = start, .len = length};
  return ioctl(descriptor, UFFDIO_WAKE, &range) < 0 ? -errno : 0;
}

int goliath_userfault_poison(int descriptor, uint64_t start, uint64_t length) {
  struct poison pages = {.range = {.start = start, .len = length}};
  return ioctl(descriptor, IOCTL_POISON, &pages) < 0 ? -errno : 0;
}

int goliath_userfault_next(int descriptor, uint64_t *address, uint32_t *bits, uint32_t *thread) {
  struct uffd_msg message;
  while (1) {
    ssize_t count = read(descriptor, &message, sizeof message);
    if (count < 0) return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    if (count != sizeof message) return -EIO;
    if (message.event != UFFD_EVENT_PAGEFAULT) continue;
    uint64_t flags = message.arg.pagefault.flags;
    *address = message.arg.pagefault.address;
    *thread = message.arg.pagefault.feat.ptid;
    *bits = ((flags & UFFD_PAGEFAULT_FLAG_WRITE) ? goliathFaultWrite : 0)
      | ((flags & UFFD_PAGEFAULT_FLAG_WP) ? goliathFaultProtected : 0);
    return 1;
  }
}

int goliath_unmap_pages(void *start, uint64_t length) {
  return madvise(start, length, MADV_DONTNEED) < 0 ? -errno : 0;
}

int goliath_guard_pages(uint64_t start, uint64_t length, int is_guarded) {
  return mprotect((void *)start, length, is_guarded ? PROT_NONE : PROT_READ | PROT_WRITE) < 0 ? -errno : 0;
}

void goliath_small_pages(void *start, uint64_t length) { madvise(start, length, MADV_NOHUGEPAGE); }
