// Compressed clusters of disk images: zlib (or libdeflate for reading) and zstd, loaded when first asked for. Any thread, one at a time for each codec.
#define _GNU_SOURCE 1
#include "CLinux.h"
#include "zlib_stream.h"
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static struct {
  int (*deflate_initialize)(struct zlib_stream *stream, int level, int method, int window_bits, int memory_level, int strategy,
                            const char *version, int size);
  int (*deflate)(struct zlib_stream *stream, int flush);
  int (*deflate_reset)(struct zlib_stream *stream);
  int (*deflate_end)(struct zlib_stream *stream);
  int (*inflate_initialize)(struct zlib_stream *stream, int window_bits, const char *version, int size);
  int (*inflate)(struct zlib_stream *stream, int flush);
  int (*inflate_reset)(struct zlib_stream *stream);
  int (*inflate_end)(struct zlib_stream *stream);
  const char *(*version)(void);
} zlib;
static struct {
  void *(*make_decompressor)(void);
  void (*free_decompressor)(void *decompressor);
  int (*decompress)(void *decompressor, const void *in, size_t length, void *out, size_t count, size_t *produced);
} deflate;
static struct {
  void *(*make_compressor)(void);
  size_t (*free_compressor)(void *context);
  size_t (*compress)(void *context, void *out, size_t room, const void *in, size_t count, int level);
  void *(*make_decompressor)(void);
  size_t (*free_decompressor)(void *context);
  size_t (*decompress)(void *context, void *out, size_t room, const void *in, size_t length);
  size_t (*frame_size)(const void *in, size_t length);
  unsigned (*is_error)(size_t code);
} zstd;
static int found, have_deflate;

static int load(void *library, void *target, const char *name) {
  *(void **)target = library ? dlsym(library, name) : NULL;
  return *(void **)target != NULL;
}

static void find_libraries(void) {
  void *library = dlopen("libz.so.1", RTLD_NOW | RTLD_LOCAL);
  if (load(library, &zlib.deflate_initialize, "deflateInit2_") && load(library, &zlib.deflate, "deflate") &&
      load(library, &zlib.deflate_reset, "deflateReset") && load(library, &zlib.deflate_end, "deflateEnd") &&
      load(library, &zlib.inflate_initialize, "inflateInit2_") && load(library, &zlib.inflate, "inflate") &&
      load(library, &zlib.inflate_reset, "inflateReset") && load(library, &zlib.inflate_end, "inflateEnd") &&
      load(library, &zlib.version, "zlibVersion"))
    found |= GOLIATH_CODEC_ZLIB;
  library = dlopen("libdeflate.so.0", RTLD_NOW | RTLD_LOCAL);
  have_deflate = load(library, &deflate.make_decompressor, "libdeflate_alloc_decompressor") &&
                 load(library, &deflate.free_decompressor, "libdeflate_free_decompressor") &&
                 load(library, &deflate.decompress, "libdeflate_deflate_decompress");
  library = dlopen("libzstd.so.1", RTLD_NOW | RTLD_LOCAL);
  if (load(library, &zstd.make_compressor, "ZSTD_createCCtx") && load(library, &zstd.free_compressor, "ZSTD_freeCCtx") &&
      load(library, &zstd.compress, "ZSTD_compressCCtx") && load(library, &zstd.make_decompressor, "ZSTD_createDCtx") &&
      load(library, &zstd.free_decompressor, "ZSTD_freeDCtx") && load(library, &zstd.decompress, "ZSTD_decompressDCtx") &&
      load(library, &zstd.frame_size, "ZSTD_findFrameCompressedSize") && load(library, &zstd.is_error, "ZSTD_isError"))
    found |= GOLIATH_CODEC_ZSTD;
}

int32_t goliath_codec_libraries(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, find_libraries);
  return found;
}

struct goliath_codec {
  int32_t kind;
  int has_deflate, has_inflate;
  struct zlib_stream deflate, inflate;
  void *fast_inflate;  // libdeflate's
  void *compressor, *decompressor;  // zstd's
};

struct goliath_codec *goliath_codec_make(int32_t kind) {
  if (!(goliath_codec_libraries() & kind)) return NULL;
  struct goliath_codec *codec = calloc(1, sizeof *codec);
  if (codec) codec->kind = kind;
  return codec;
}

void goliath_codec_free(struct goliath_codec *codec) {
  if (!codec) return;
  if (codec->has_deflate) zlib.deflate_end(&codec->deflate);
  if (codec->has_inflate) zlib.inflate_end(&codec->inflate);
  if (codec->fast_inflate) deflate.free_decompressor(codec->fast_inflate);
  if (codec->compressor) zstd.free_compressor(codec->compressor);
  if (codec->decompressor) zstd.free_decompressor(codec->decompressor);
  free(codec);
}

// The whole of `in` as one raw stream; the length, or -1.
static int64_t run_deflate(struct zlib_stream *stream, const void *in, uint64_t count, void *out, uint64_t room) {
  if (zlib.deflate_reset(stream) != 0) return -2;
  stream->next_in = in;
  stream->avail_in = (unsigned)count;
  stream->next_out = out;
  stream->avail_out = (unsigned)room;
  return zlib.deflate(stream, 4) == 1 ? (int64_t)stream->total_out : -1;  // Z_FINISH, Z_STREAM_END
}

// Whether compressing is worth the time, from four pieces of 1 KiB: encrypted and compressed data has nearly evenly distributed bytes and repeats nothing.
// A wrong guess costs room, never data.
static int looks_compressible(const uint8_t *in, uint64_t count) {
  enum {
    piece = 1024,
    pieces = 4,
    // Sequences of four bytes that have come before, of 4,096.
    repeat_limit = 12,
    // Sum of the squares of the 256 counts: 65,536 when all are equal, about 69,600 for random bytes, above 100,000 for text and programs.
    even_limit = 73000,
  };
  if (count < 16 * 1024) return 1;
  uint16_t counts[256] = {0};
  uint32_t seen[4096] = {0};
  unsigned repeats = 0;
  for (int i = 0; i < pieces; i++) {
    const uint8_t *from = in + count / pieces * (uint64_t)i;
    uint32_t window = 0;
    for (int j = 0; j < piece; j++) {
      counts[from[j]]++;
      window = window << 8 | from[j];
      if (j < 3) continue;
      uint32_t *place = &seen[window * 0x9e3779b1u >> 20];
      repeats += *place == window;
      *place = window;
    }
    if (repeats > repeat_limit) return 1;
  }
  uint64_t sum = 0;
  for (int i = 0; i < 256; i++) sum += (uint64_t)counts[i] * counts[i];
  return sum > even_limit;
}

int64_t goliath_codec_compress(struct goliath_codec *codec, const void *in, uint64_t count, void *out, uint64_t room) {
  if (codec->kind == GOLIATH_CODEC_ZLIB) {
    if (!codec->has_deflate) {
      codec->has_deflate =
          zlib.deflate_initialize(&codec->deflate, -1, 8, -12, 9, 0, zlib.version(), sizeof codec->deflate) == 0;
      if (!codec->has_deflate) return -2;
    }
    if (!looks_compressible(in, count)) return -1;
    return run_deflate(&codec->deflate, in, count, out, room);
  }
  if (!codec->compressor && !(codec->compressor = zstd.make_compressor())) return -2;
  // Level 1 takes two thirds of the default level's time for two to five percent more bytes (64 KiB of text or programs), and finds out itself what does
  // not become smaller.
  size_t length = zstd.compress(codec->compressor, out, room, in, count, 1);
  return zstd.is_error(length) ? -1 : (int64_t)length;
}

int32_t goliath_codec_decompress(struct goliath_codec *codec, const void *in, uint64_t length, void *out, uint64_t count) {
  if (codec->kind == GOLIATH_CODEC_ZSTD) {
    if (!codec->decompressor && !(codec->decompressor = zstd.make_decompressor())) return -1;
    size_t frame = zstd.frame_size(in, length);
    if (zstd.is_error(frame)) return -1;
    return zstd.decompress(codec->decompressor, out, count, in, frame) == count ? 0 : -1;
  }
  if (have_deflate && !codec->fast_inflate) codec->fast_inflate = deflate.make_decompressor();
  if (codec->fast_inflate && deflate.decompress(codec->fast_inflate, in, length, out, count, NULL) == 0) return 0;
  if (!codec->has_inflate) {
    codec->has_inflate = zlib.inflate_initialize(&codec->inflate, -12, zlib.version(), sizeof codec->inflate) == 0;
    if (!codec->has_inflate) return -1;
  }
  // A stream that ends early or lacks its end block, as some writers made them, counts when it gave every byte.
  if (zlib.inflate_reset(&codec->inflate) != 0) return -1;
  codec->inflate.next_in = in;
  codec->inflate.avail_in = (unsigned)length;
  codec->inflate.next_out = out;
  codec->inflate.avail_out = (unsigned)count;
  int result = zlib.inflate(&codec->inflate, 4);
  return (result == 1 || result == 0 || result == -5) && codec->inflate.avail_out == 0 ? 0 : -1;
}
