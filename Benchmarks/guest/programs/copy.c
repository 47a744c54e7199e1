// Copies: the C library's (chosen by CPUID), SSE2 by hand, string instructions.
#include "bench.h"

#include <emmintrin.h>
#include <string.h>

enum { size = 256 << 10 };

static uint8_t *source(void) {
  uint8_t *data = pages(size);
  uint64_t seed = 17;
  for (size_t i = 0; i < size; i++) data[i] = (uint8_t)next_random(&seed);
  return data;
}

static uint64_t checksum(const uint8_t *data) {
  uint64_t hash = 0;
  for (size_t i = 0; i < size; i += 8) {
    uint64_t word;
    memcpy(&word, data + i, 8);
    hash = fold(hash, word);
  }
  return hash;
}

// Keeps the compiler from dropping or merging copies.
#define USED(pointer) __asm__ volatile("" : : "r"(pointer) : "memory")

// Many sizes and alignments, as programs have them.
static uint64_t memcpy_libc(double scale) {
  uint8_t *from = source(), *to = pages(size);
  uint64_t seed = 18;
  for (uint64_t r = rounds(scale, 1200000); r; r--) {
    uint64_t random = next_random(&seed);
    size_t length = (random & 15) == 0 ? random >> 32 & 0xFFFF : random >> 32 & 0x1FF;
    size_t at = random >> 8 & 0x1FFFF;
    memcpy(to + at, from + (random >> 4 & 0x1FFFF), length);
    USED(to);
  }
  return checksum(to);
}

static uint64_t copy_sse2(double scale) {
  uint8_t *from = source(), *to = pages(size);
  for (uint64_t r = rounds(scale, 12000); r; r--) {
    for (size_t i = 0; i < size; i += 64) {
      __m128i a = _mm_load_si128((const __m128i *)(from + i)), b = _mm_load_si128((const __m128i *)(from + i + 16));
      __m128i c = _mm_load_si128((const __m128i *)(from + i + 32)), d = _mm_load_si128((const __m128i *)(from + i + 48));
      _mm_store_si128((__m128i *)(to + i), a);
      _mm_store_si128((__m128i *)(to + i + 16), b);
      _mm_store_si128((__m128i *)(to + i + 32), c);
      _mm_store_si128((__m128i *)(to + i + 48), d);
    }
    USED(to);
    from[r % size] ^= 1;
  }
  return checksum(to);
}

static void string_move(void *to, const void *from, size_t count, int wide) {
  if (wide)
    __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
  else
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
}

// Whole buffers by quadwords, and pieces of a few hundred bytes by bytes, as kernels copy.
static uint64_t rep_movs(double scale) {
  uint8_t *from = source(), *to = pages(size);
  uint64_t seed = 19;
  for (uint64_t r = rounds(scale, 10000); r; r--) {
    string_move(to, from, size / 8, 1);
    for (int i = 0; i < 32; i++) {
      uint64_t random = next_random(&seed);
      string_move(to + (random & 0x1FFFF), from + (random >> 20 & 0x1FFFF), random >> 40 & 0x7FF, 0);
    }
    from[r % size] ^= 1;
  }
  return checksum(to);
}

static uint64_t rep_stos(double scale) {
  uint8_t *to = pages(size);
  uint64_t hash = 0;
  for (uint64_t r = rounds(scale, 16000); r; r--) {
    void *at = to;
    size_t count = size / 8;
    __asm__ volatile("rep stosq" : "+D"(at), "+c"(count) : "a"(r) : "memory");
    hash = fold(hash, to[r % size]);
  }
  return fold(hash, checksum(to));
}

const struct program copy_programs[] = {{"memcpy_libc", "copy", memcpy_libc}, {"copy_sse2", "copy", copy_sse2},
                                        {"rep_movs", "copy", rep_movs},       {"rep_stos", "copy", rep_stos},
                                        {0}};
