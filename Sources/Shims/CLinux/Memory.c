#define _GNU_SOURCE 1
#include "CLinux.h"
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/mempolicy.h>
#include <malloc.h>
#include <stdlib.h>
#include <sys/vfs.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

int goliath_memfd_of(const char *name, uint64_t huge_page) {
  unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  if (huge_page) {
    flags |= MFD_HUGETLB;
    if (huge_page > 1) flags |= (unsigned)__builtin_ctzll(huge_page) << 26 /* MFD_HUGE_SHIFT */;
  }
  int r = memfd_create(name, flags);
  return r < 0 ? -errno : r;
}

int goliath_seal_size(int descriptor) {
  return fcntl(descriptor, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0 ? -errno : 0;
}

int goliath_bind_memory(void *start, uint64_t size, int policy, const uint64_t *nodes) {
  // 128 nodes; the kernel looks at one bit less than it is told.
  static const int modes[] = {MPOL_DEFAULT, MPOL_PREFERRED, MPOL_BIND, MPOL_INTERLEAVE};
  if (policy < 0 || policy > 3) return -EINVAL;
  unsigned flags = policy ? MPOL_MF_STRICT | MPOL_MF_MOVE : 0;
  long r = syscall(SYS_mbind, start, size, modes[policy], policy ? nodes : 0,
                   policy ? 128ul + 1 : 0ul, flags);
  if (r < 0 && errno == ENOSYS && !policy) return 0;
  return r < 0 ? -errno : 0;
}

int goliath_populate(void *start, uint64_t size, uint64_t page, int writable) {
  if (madvise(start, size, writable ? MADV_POPULATE_WRITE : MADV_POPULATE_READ) == 0) return 0;
  if (errno != EINVAL) return -errno;
  // Linux before 5.14: touch each page without changing what it holds.
  for (uint64_t at = 0; at < size; at += page) {
    volatile unsigned char *byte = (volatile unsigned char *)start + at;
    if (writable) __atomic_fetch_or((unsigned char *)byte, 0, __ATOMIC_RELAXED);
    else (void)*byte;
  }
  return 0;
}

uint64_t goliath_file_page_size(int descriptor) {
  struct statfs system;
  if (fstatfs(descriptor, &system) < 0 || system.f_type != HUGETLBFS_MAGIC) return 4096;
  return (uint64_t)system.f_bsize;
}

int goliath_nameless_file(char *path) {
  int r = mkostemp(path, O_CLOEXEC);
  if (r < 0) return -errno;
  unlink(path);
  return r;
}

void goliath_limit_arenas(int count) { mallopt(M_ARENA_MAX, count); }
