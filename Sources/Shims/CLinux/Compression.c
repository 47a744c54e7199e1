// Compression libraries, loaded when first asked for; their headers need not be installed. Any thread.
#define _GNU_SOURCE 1
#include "CLinux.h"
#include "zlib_stream.h"
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static struct {
  int (*initialize)(struct zlib_stream *stream, int level, int method, int window_bits, int memory_level, int strategy,
                    const char *version, int size);
  int (*deflate)(struct zlib_stream *stream, int flush);
  int (*reset)(struct zlib_stream *stream);
  int (*end)(struct zlib_stream *stream);
  const char *(*version)(void);
} zlib;
static int (*lzo_compress)(const uint8_t *in, unsigned long count, uint8_t *out, unsigned long *length, void *work);
static int (*snappy_compress)(const char *in, size_t count, char *out, size_t *length);
static int found;

static void find_libraries(void) {
  void *library = dlopen("libz.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library) {
    *(void **)&zlib.initialize = dlsym(library, "deflateInit2_");
    *(void **)&zlib.deflate = dlsym(library, "deflate");
    *(void **)&zlib.reset = dlsym(library, "deflateReset");
    *(void **)&zlib.end = dlsym(library, "deflateEnd");
    *(void **)&zlib.version = dlsym(library, "zlibVersion");
    if (zlib.initialize && zlib.deflate && zlib.reset && zlib.end && zlib.version) found |= GOLIATH_ZLIB;
  }
  library = dlopen("liblzo2.so.2", RTLD_NOW | RTLD_LOCAL);
  if (library) {
    *(void **)&lzo_compress = dlsym(library, "lzo1x_1_compress");
    if (lzo_compress) found |= GOLIATH_LZO;
  }
  library = dlopen("libsnappy.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library) {
    *(void **)&snappy_compress = dlsym(library, "snappy_compress");
    if (snappy_compress) found |= GOLIATH_SNAPPY;
  }
}

int32_t goliath_compression_libraries(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, find_libraries);
  return found;
}

struct goliath_compressor {
  int32_t kind;
  struct zlib_stream stream;
  uint64_t work[16384];  // LZO1X_1_MEM_COMPRESS
};

struct goliath_compressor *goliath_compressor_make(int32_t kind) {
  if (!(goliath_compression_libraries() & kind)) return NULL;
  struct goliath_compressor *compressor = calloc(1, sizeof *compressor);
  if (!compressor) return NULL;
  compressor->kind = kind;
  // Fastest level; a window and tables as large as a page needs, since all of them are cleared for each page.
  if (kind == GOLIATH_ZLIB && zlib.initialize(&compressor->stream, 1, 8, 12, 5, 0, zlib.version(), sizeof compressor->stream) != 0) {
    free(compressor);
    return NULL;
  }
  return compressor;
}

void goliath_compressor_free(struct goliath_compressor *compressor) {
  if (compressor && compressor->kind == GOLIATH_ZLIB) zlib.end(&compressor->stream);
  free(compressor);
}

int64_t goliath_compress(struct goliath_compressor *compressor, const void *in, uint64_t count, void *out, uint64_t room) {
  unsigned long length = room;
  switch (compressor->kind) {
    case GOLIATH_ZLIB:
      if (zlib.reset(&compressor->stream) != 0) return -1;
      compressor->stream.next_in = in;
      compressor->stream.avail_in = (unsigned)count;
      compressor->stream.next_out = out;
      compressor->stream.avail_out = (unsigned)room;
      if (zlib.deflate(&compressor->stream, 4) != 1) return -1;  // Z_FINISH, Z_STREAM_END
      return (int64_t)compressor->stream.total_out;
    case GOLIATH_LZO:
      if (room < count + count / 16 + 67) return -1;
      return lzo_compress(in, count, out, &length, compressor->work) == 0 ? (int64_t)length : -1;
    default:
      return snappy_compress(in, count, out, &length) == 0 ? (int64_t)length : -1;
  }
}
