#define _GNU_SOURCE 1
#include "BlockFile.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/cdrom.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

_Static_assert(O_DIRECT == GOLIATH_O_DIRECT, "the flag differs");

uint64_t goliath_file_system(int descriptor) {
  struct statfs status;
  return fstatfs(descriptor, &status) < 0 ? 0 : (uint64_t)status.f_type & 0xFFFFFFFF;
}

int goliath_temporary_file(char *path) {
  int r = mkostemp(path, O_CLOEXEC);
  return r < 0 ? -errno : r;
}

int64_t goliath_read_vector(int descriptor, const void *pieces, int count, int64_t offset, int flags) {
  ssize_t r = flags ? preadv2(descriptor, pieces, count, offset, flags) : preadv(descriptor, pieces, count, offset);
  return r < 0 ? -errno : r;
}

int64_t goliath_write_vector(int descriptor, const void *pieces, int count, int64_t offset, int flags) {
  ssize_t r = flags ? pwritev2(descriptor, pieces, count, offset, flags) : pwritev(descriptor, pieces, count, offset);
  return r < 0 ? -errno : r;
}

int goliath_allocate(int descriptor, int mode, int64_t offset, int64_t length) {
  int r;
  do r = fallocate(descriptor, mode, offset, length);
  while (r < 0 && errno == EINTR);
  return r < 0 ? -errno : 0;
}

int64_t goliath_seek_data(int descriptor, int64_t offset) {
  off_t r = lseek(descriptor, offset, SEEK_DATA);
  return r < 0 ? -errno : r;
}

int64_t goliath_seek_hole(int descriptor, int64_t offset) {
  off_t r = lseek(descriptor, offset, SEEK_HOLE);
  return r < 0 ? -errno : r;
}

int goliath_device_size(int descriptor, uint64_t *bytes) {
  return ioctl(descriptor, BLKGETSIZE64, bytes) < 0 ? -errno : 0;
}

int goliath_device_sector(int descriptor, uint32_t *bytes) {
  int size = 0;
  if (ioctl(descriptor, BLKSSZGET, &size) < 0) return -errno;
  *bytes = size;
  return 0;
}

int goliath_medium_present(int descriptor) {
  int status = ioctl(descriptor, CDROM_DRIVE_STATUS, CDSL_CURRENT);
  return status < 0 ? -errno : status == CDS_DISC_OK;
}

int goliath_device_discard(int descriptor, uint64_t offset, uint64_t length) {
  uint64_t range[2] = {offset, length};
  return ioctl(descriptor, BLKDISCARD, range) < 0 ? -errno : 0;
}

int goliath_device_zero(int descriptor, uint64_t offset, uint64_t length) {
  uint64_t range[2] = {offset, length};
  return ioctl(descriptor, BLKZEROOUT, range) < 0 ? -errno : 0;
}

int goliath_lock_bytes(int descriptor, int kind, int64_t start, int64_t length) {
  struct flock lock = {.l_whence = SEEK_SET, .l_start = start, .l_len = length,
                       .l_type = kind == 2 ? F_WRLCK : kind == 1 ? F_RDLCK : F_UNLCK};
  return fcntl(descriptor, F_OFD_SETLK, &lock) < 0 ? -errno : 0;
}

int goliath_bytes_locked(int descriptor, int64_t start, int64_t length) {
  struct flock lock = {.l_whence = SEEK_SET, .l_start = start, .l_len = length, .l_type = F_WRLCK};
  if (fcntl(descriptor, F_OFD_GETLK, &lock) < 0) return -errno;
  return lock.l_type != F_UNLCK;
}

int64_t goliath_copy_range(int from, int64_t from_offset, int to, int64_t to_offset, uint64_t length) {
  off_t in = from_offset, out = to_offset;
  ssize_t r = copy_file_range(from, &in, to, &out, length, 0);
  return r < 0 ? -errno : r;
}
