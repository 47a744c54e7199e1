// CRC-32C (RFC 3720, B.4) of the headers of frames between nodes.
#include "CLinux.h"
#include <nmmintrin.h>

static uint32_t by_bits(uint32_t crc, uint64_t word) {
  for (int i = 0; i < 64; i++) {
    uint32_t low = (crc ^ (uint32_t)(word >> i)) & 1;
    crc = crc >> 1 ^ (low ? 0x82F63B78u : 0);
  }
  return crc;
}

__attribute__((target("sse4.2"))) static uint32_t by_processor(uint64_t a, uint64_t b, uint64_t c, uint64_t d) {
  return (uint32_t)_mm_crc32_u64(_mm_crc32_u64(_mm_crc32_u64(_mm_crc32_u64(0xFFFFFFFFu, a), b), c), d);
}

uint32_t goliath_crc32c(uint64_t a, uint64_t b, uint64_t c, uint64_t d, int portable) {
  if (!portable && __builtin_cpu_supports("sse4.2")) return ~by_processor(a, b, c, d);
  return ~by_bits(by_bits(by_bits(by_bits(0xFFFFFFFFu, a), b), c), d);
}
