// Floating point and SIMD. No program calls libm: its choice by CPUID would change rounding, and with it the checksum.
#include "bench.h"

#include <emmintrin.h>
#include <immintrin.h>
#include <string.h>

static uint64_t bits(double x) {
  uint64_t u;
  memcpy(&u, &x, 8);
  return u;
}

static double fraction(uint64_t *seed) { return (double)(next_random(seed) >> 11) * 0x1p-53; }

// C = A B of 96 by 96 doubles, two columns at a time.
static uint64_t matmul_sse2(double scale) {
  enum { n = 96 };
  static double a[n][n], b[n][n], c[n][n] __attribute__((aligned(16)));
  uint64_t seed = 11, hash = 0;
  for (int i = 0; i < n; i++)
    for (int j = 0; j < n; j++) a[i][j] = fraction(&seed), b[i][j] = fraction(&seed);
  for (uint64_t r = rounds(scale, 300); r; r--) {
    for (int i = 0; i < n; i++)
      for (int j = 0; j < n; j += 4) {
        __m128d s0 = _mm_setzero_pd(), s1 = _mm_setzero_pd();
        for (int k = 0; k < n; k++) {
          __m128d x = _mm_set1_pd(a[i][k]);
          s0 = _mm_add_pd(s0, _mm_mul_pd(x, _mm_loadu_pd(&b[k][j])));
          s1 = _mm_add_pd(s1, _mm_mul_pd(x, _mm_loadu_pd(&b[k][j + 2])));
        }
        _mm_storeu_pd(&c[i][j], s0);
        _mm_storeu_pd(&c[i][j + 2], s1);
      }
    hash = fold(hash, bits(c[r % n][(r * 7) % n]));
    a[r % n][r % n] += 0.125;
  }
  return hash;
}

// Five bodies, softened gravity, scalar double precision with division and square root.
static uint64_t nbody(double scale) {
  enum { n = 5 };
  static double x[n][3], v[n][3], mass[n];
  uint64_t seed = 12;
  for (int i = 0; i < n; i++) {
    mass[i] = 0.5 + fraction(&seed);
    for (int d = 0; d < 3; d++) x[i][d] = fraction(&seed) * 4 - 2, v[i][d] = fraction(&seed) - 0.5;
  }
  for (uint64_t r = rounds(scale, 800000); r; r--) {
    for (int i = 0; i < n; i++)
      for (int j = i + 1; j < n; j++) {
        double dx = x[i][0] - x[j][0], dy = x[i][1] - x[j][1], dz = x[i][2] - x[j][2];
        double d2 = dx * dx + dy * dy + dz * dz + 0.01;
        double f = 0.001 / (d2 * __builtin_sqrt(d2));
        v[i][0] -= dx * mass[j] * f, v[i][1] -= dy * mass[j] * f, v[i][2] -= dz * mass[j] * f;
        v[j][0] += dx * mass[i] * f, v[j][1] += dy * mass[i] * f, v[j][2] += dz * mass[i] * f;
      }
    for (int i = 0; i < n; i++)
      for (int d = 0; d < 3; d++) x[i][d] += 0.001 * v[i][d];
  }
  uint64_t hash = 0;
  for (int i = 0; i < n; i++) hash = fold(hash, bits(x[i][i % 3]));
  return hash;
}

// Scalar code with conversions and comparisons: a Mandelbrot set in single and double precision.
static uint64_t fp_scalar(double scale) {
  uint64_t inside = 0, hash = 0;
  for (uint64_t r = rounds(scale, 25); r; r--)
    for (int py = 0; py < 120; py++)
      for (int px = 0; px < 160; px++) {
        double cx = px / 60.0 - 2, cy = py / 60.0 - 1, zx = 0, zy = 0;
        float fx = 0;
        int i = 0;
        for (; i < 100 && zx * zx + zy * zy < 4; i++) {
          double t = zx * zx - zy * zy + cx;
          zy = 2 * zx * zy + cy;
          zx = t;
          fx += (float)t;
        }
        inside += i == 100;
        hash += (uint64_t)i + (uint64_t)(int64_t)(fx * 16);
      }
  return fold(inside, hash);
}

// Packed integers: sums of absolute differences, multiplications, shuffles, compares.
static uint64_t sse_int(double scale) {
  enum { size = 16 << 10 };
  static uint8_t a[size], b[size] __attribute__((aligned(16)));
  uint64_t seed = 13;
  for (int i = 0; i < size; i++) a[i] = (uint8_t)next_random(&seed), b[i] = (uint8_t)next_random(&seed);
  __m128i sum = _mm_setzero_si128(), acc = _mm_set1_epi16(0x1234);
  for (uint64_t r = rounds(scale, 60000); r; r--) {
    for (int i = 0; i < size; i += 64) {
      __m128i x = _mm_loadu_si128((const __m128i *)(a + i)), y = _mm_loadu_si128((const __m128i *)(b + i));
      __m128i z = _mm_loadu_si128((const __m128i *)(a + i + 16)), w = _mm_loadu_si128((const __m128i *)(b + i + 16));
      sum = _mm_add_epi64(sum, _mm_sad_epu8(x, y));
      acc = _mm_add_epi16(acc, _mm_mullo_epi16(z, w));
      acc = _mm_xor_si128(acc, _mm_shuffle_epi32(_mm_unpacklo_epi8(x, w), 0x1B));
      acc = _mm_sub_epi8(acc, _mm_cmpgt_epi8(y, z));
      sum = _mm_add_epi32(sum, _mm_madd_epi16(acc, z));
    }
    sum = _mm_xor_si128(sum, _mm_slli_epi64(sum, 1));
  }
  uint64_t out[4];
  _mm_storeu_si128((__m128i *)out, sum);
  _mm_storeu_si128((__m128i *)(out + 2), acc);
  return fold(fold(out[0], out[1]), fold(out[2], out[3]));
}

__attribute__((target("avx2"))) static uint64_t avx2_body(double scale) {
  enum { size = 16 << 10 };
  static uint8_t a[size], b[size] __attribute__((aligned(32)));
  static double d[256] __attribute__((aligned(32)));
  uint64_t seed = 14;
  for (int i = 0; i < size; i++) a[i] = (uint8_t)next_random(&seed), b[i] = (uint8_t)next_random(&seed);
  for (int i = 0; i < 256; i++) d[i] = fraction(&seed);
  __m256i sum = _mm256_setzero_si256(), acc = _mm256_set1_epi16(0x1234);
  __m256d f = _mm256_set1_pd(1.5);
  for (uint64_t r = rounds(scale, 80000); r; r--) {
    for (int i = 0; i < size; i += 64) {
      __m256i x = _mm256_loadu_si256((const __m256i *)(a + i)), y = _mm256_loadu_si256((const __m256i *)(b + i));
      sum = _mm256_add_epi64(sum, _mm256_sad_epu8(x, y));
      acc = _mm256_add_epi16(acc, _mm256_mullo_epi16(x, y));
      acc = _mm256_xor_si256(acc, _mm256_permute4x64_epi64(_mm256_shuffle_epi8(x, y), 0x1B));
      sum = _mm256_add_epi32(sum, _mm256_sllv_epi32(acc, _mm256_and_si256(y, _mm256_set1_epi32(15))));
    }
    for (int i = 0; i < 256; i += 8)
      f = _mm256_add_pd(_mm256_mul_pd(f, _mm256_loadu_pd(d + i)), _mm256_loadu_pd(d + i + 4));
  }
  uint64_t out[12], hash = 0;
  _mm256_storeu_si256((__m256i *)out, sum);
  _mm256_storeu_si256((__m256i *)(out + 4), acc);
  _mm256_storeu_pd((double *)(out + 8), f);
  for (int i = 0; i < 12; i++) hash = fold(hash, out[i]);
  return hash;
}

static uint64_t avx2(double scale) {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") ? avx2_body(scale) : NOT_AVAILABLE;
}

// 80-bit arithmetic: sums, products, quotients, roots.
static uint64_t x87(double scale) {
  volatile long double seed = 1.25L;
  long double x = seed, y = 0.75L, sum = 0, root = 2;
  for (uint64_t i = rounds(scale, 4000000); i; i--) {
    x = x * 1.0000001L + y;
    y = y / (x + 1.5L) + 0.25L;
    root = __builtin_sqrtl(root + x);
    sum += x * y - root;
    if (x > 1e6L) x -= 1e6L;
  }
  uint64_t hash = 0;
  long double out[4] = {x, y, sum, root};
  for (int i = 0; i < 4; i++) {
    uint64_t mantissa;
    uint16_t exponent;
    memcpy(&mantissa, &out[i], 8);
    memcpy(&exponent, (const char *)&out[i] + 8, 2);
    hash = fold(fold(hash, mantissa), exponent);
  }
  return hash;
}

const struct program fp_simd_programs[] = {
    {"matmul_sse2", "fp_simd", matmul_sse2}, {"nbody", "fp_simd", nbody}, {"fp_scalar", "fp_simd", fp_scalar},
    {"sse_int", "fp_simd", sse_int},         {"avx2", "fp_simd", avx2},   {"x87", "fp_simd", x87},
    {0}};
