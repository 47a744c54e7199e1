// Files and block devices that hold disks. No policy; failures are -errno.
#pragma once
#include <stdint.h>

#define GOLIATH_READ_NOW 8      // RWF_NOWAIT: EAGAIN in place of waiting
#define GOLIATH_WRITE_THROUGH 2 // RWF_DSYNC: on stable storage when it returns

#define GOLIATH_O_DIRECT 040000

/// The magic number of the file system that a file is in; 0 when unknown.
uint64_t goliath_file_system(int descriptor);

/// Makes an empty file from a template that ends in XXXXXX. A descriptor or -errno.
int goliath_temporary_file(char *path);

/// preadv2(2) and pwritev2(2) with `struct iovec`s. The number of bytes or -errno.
int64_t goliath_read_vector(int descriptor, const void *pieces, int count, int64_t offset, int flags);
int64_t goliath_write_vector(int descriptor, const void *pieces, int count, int64_t offset, int flags);

#define GOLIATH_ALLOCATE 0   // what is missing is allocated and reads as zeros; a file may grow
#define GOLIATH_PUNCH_HOLE 3 // deallocates; the size stays
#define GOLIATH_ZERO_RANGE 16

/// fallocate(2). 0 or -errno.
int goliath_allocate(int descriptor, int mode, int64_t offset, int64_t length);

/// The next offset that holds data (a hole), as lseek(2) with SEEK_DATA (SEEK_HOLE) finds it. -errno; -ENXIO beyond the end.
int64_t goliath_seek_data(int descriptor, int64_t offset);
int64_t goliath_seek_hole(int descriptor, int64_t offset);

/// The size of a block device in bytes, and the unit of its requests. 0 or -errno.
int goliath_device_size(int descriptor, uint64_t *bytes);
int goliath_device_sector(int descriptor, uint32_t *bytes);

/// Whether a device with removable media has one (1), has none (0), or cannot tell (-errno).
int goliath_medium_present(int descriptor);

/// BLKDISCARD, BLKZEROOUT. 0 or -errno.
int goliath_device_discard(int descriptor, uint64_t offset, uint64_t length);
int goliath_device_zero(int descriptor, uint64_t offset, uint64_t length);

/// Gives (kind 0) or takes a shared (1) or exclusive (2) open file description lock. 0 or -errno.
int goliath_lock_bytes(int descriptor, int kind, int64_t start, int64_t length);

/// Whether somebody else's lock stands in the way of an exclusive one: 1, 0, or -errno.
int goliath_bytes_locked(int descriptor, int64_t start, int64_t length);

/// copy_file_range(2). The number of bytes or -errno.
int64_t goliath_copy_range(int from, int64_t from_offset, int to, int64_t to_offset, uint64_t length);
