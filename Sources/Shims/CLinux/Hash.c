// SHA-256's compression function (FIPS 180-4, 6.2.2): kernels and initial RAM disks are hashed at every start of a cluster.

#include "CLinux.h"
#include <cpuid.h>
#include <immintrin.h>

static const uint32_t constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static inline uint32_t turn(uint32_t word, int count) { return word >> count | word << (32 - count); }

static void portable(uint32_t *state, const uint8_t *data, size_t blocks) {
  uint32_t schedule[64];
  for (; blocks > 0; blocks--, data += 64) {
    for (int i = 0; i < 16; i++) {
      schedule[i] = (uint32_t)data[4 * i] << 24 | (uint32_t)data[4 * i + 1] << 16 |
                    (uint32_t)data[4 * i + 2] << 8 | data[4 * i + 3];
    }
    for (int i = 16; i < 64; i++) {
      uint32_t early = schedule[i - 15], late = schedule[i - 2];
      schedule[i] = schedule[i - 16] + schedule[i - 7] + (turn(early, 7) ^ turn(early, 18) ^ early >> 3) +
                    (turn(late, 17) ^ turn(late, 19) ^ late >> 10);
    }
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
    for (int i = 0; i < 64; i++) {
      uint32_t first = h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + ((e & f) ^ (~e & g)) +
                       constants[i] + schedule[i];
      uint32_t second = (turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
      h = g, g = f, f = e, e = d + first, d = c, c = b, b = a, a = first + second;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    state[4] += e, state[5] += f, state[6] += g, state[7] += h;
  }
}

// The processor's own rounds (Intel SDM, volume 2, SHA256RNDS2): it keeps A, B, E, F in one register and C, D, G, H in the other.
__attribute__((target("sha,sse4.1"))) static void by_processor(uint32_t *state, const uint8_t *data, size_t blocks) {
  const __m128i bytes = _mm_set_epi64x(0x0C0D0E0F08090A0B, 0x0405060700010203);
  __m128i upper = _mm_set_epi32((int)state[0], (int)state[1], (int)state[4], (int)state[5]);
  __m128i lower = _mm_set_epi32((int)state[2], (int)state[3], (int)state[6], (int)state[7]);
  for (; blocks > 0; blocks--, data += 64) {
    const __m128i upper_before = upper, lower_before = lower;
    __m128i words[4];
#pragma clang loop unroll(full)
    for (int i = 0; i < 16; i++) {
      __m128i *now = &words[i & 3];
      if (i < 4) {
        *now = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(data + 16 * i)), bytes);
      } else {
        const __m128i last = words[(i + 3) & 3];
        const __m128i early = _mm_sha256msg1_epu32(*now, words[(i + 1) & 3]);
        *now = _mm_sha256msg2_epu32(_mm_add_epi32(early, _mm_alignr_epi8(last, words[(i + 2) & 3], 4)), last);
      }
      const __m128i sums = _mm_add_epi32(*now, _mm_loadu_si128((const __m128i *)(constants + 4 * i)));
      lower = _mm_sha256rnds2_epu32(lower, upper, sums);
      upper = _mm_sha256rnds2_epu32(upper, lower, _mm_shuffle_epi32(sums, 0x0E));
    }
    upper = _mm_add_epi32(upper, upper_before);
    lower = _mm_add_epi32(lower, lower_before);
  }
  state[0] = (uint32_t)_mm_extract_epi32(upper, 3), state[1] = (uint32_t)_mm_extract_epi32(upper, 2);
  state[4] = (uint32_t)_mm_extract_epi32(upper, 1), state[5] = (uint32_t)_mm_extract_epi32(upper, 0);
  state[2] = (uint32_t)_mm_extract_epi32(lower, 3), state[3] = (uint32_t)_mm_extract_epi32(lower, 2);
  state[6] = (uint32_t)_mm_extract_epi32(lower, 1), state[7] = (uint32_t)_mm_extract_epi32(lower, 0);
}

static int has_sha(void) {
  unsigned a, b, c, d;
  return __builtin_cpu_supports("sse4.1") && __get_cpuid_count(7, 0, &a, &b, &c, &d) && b & 1u << 29;
}

void goliath_sha256(uint32_t *state, const uint8_t *data, size_t blocks, int is_portable) {
  if (!is_portable && has_sha()) {
    by_processor(state, data, blocks);
  } else {
    portable(state, data, blocks);
  }
}
