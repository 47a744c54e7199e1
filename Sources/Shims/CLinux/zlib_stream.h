// z_stream of zlib 1.2 and 1.3, whose headers need not be installed.
#pragma once
#include <stdint.h>

struct zlib_stream {
  const uint8_t *next_in;
  unsigned avail_in;
  unsigned long total_in;
  uint8_t *next_out;
  unsigned avail_out;
  unsigned long total_out;
  const char *message;
  void *state;
  void *allocate, *release, *opaque;
  int data_type;
  unsigned long checksum, reserved;
};
_Static_assert(sizeof(struct zlib_stream) == 112, "as the library checks it");
