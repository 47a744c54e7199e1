#pragma once
#include <stdint.h>

// userfaultfd(2): what a mapping's page faults wait for is decided by us. Every function answers 0 (or what it says), or -errno.

/// Bits of a fault.
enum {
  goliathFaultWrite = 1,
  /// The page is there, but write-protected.
  goliathFaultProtected = 2,
};

/// Opens one with what the memory of several nodes needs: MISSING_SHMEM, MINOR_SHMEM, PAGEFAULT_FLAG_WP, WP_HUGETLBFS_SHMEM, EXACT_ADDRESS;
/// POISON and THREAD_ID where there are. `*missing`: the required features that the kernel does not have, as bits of uffdio_api.features;
/// `*offered`: those that it has, of all. A descriptor, or -errno (-EOPNOTSUPP when some are missing).
int goliath_userfault_open(uint64_t *missing, uint64_t *offered);

/// Faults in the range come to us, whether the page is missing in its file, there but not mapped, or write-protected.
int goliath_userfault_register(int descriptor, void *start, uint64_t length);

/// Maps the page from its file, write-protected or not; `wakes`: whoever waits for it goes on. -EEXIST: it is mapped already.
int goliath_userfault_map(int descriptor, uint64_t start, int is_protected, int wakes);

/// Whether `goliath_userfault_map` can map a page write-protected in one step (Linux 6.4): tried on a page of the range.
int goliath_userfault_maps_protected(int descriptor, uint64_t start);

/// Protects the pages from writes, or lets them be written; whoever waits for that goes on.
int goliath_userfault_protect(int descriptor, uint64_t start, uint64_t length, int is_protected);

/// Lets whoever waits for a page in the range try again.
int goliath_userfault_wake(int descriptor, uint64_t start, uint64_t length);

/// Accesses to the pages end as those to broken memory from now on.
int goliath_userfault_poison(int descriptor, uint64_t start, uint64_t length);

/// Waits for the next fault: 1, its address, bits, and the kernel's id of the thread that waits (0: the kernel does not tell); 0 when a
/// signal came first.
int goliath_userfault_next(int descriptor, uint64_t *address, uint32_t *bits, uint32_t *thread);

/// Whoever touches the pages gets EFAULT from now on (1), or they are as before (0). What is mapped stays.
int goliath_guard_pages(uint64_t start, uint64_t length, int is_guarded);

/// Takes pages out of a mapping; what they hold stays in the file.
int goliath_unmap_pages(void *start, uint64_t length);

/// Keeps the pages of a mapping small.
void goliath_small_pages(void *start, uint64_t length);

/// Makes sure that the page is in its file.
static inline void goliath_touch(const void *page) { (void)*(const volatile unsigned char *)page; }
