// The benchmark's programs: each does a fixed amount of work, proportional to `scale`, and returns a checksum of what it computed.
#pragma once
#include <stddef.h>
#include <stdint.h>

typedef uint64_t (*program_body)(double scale);

// What a program answers when this CPU lacks its instructions.
#define NOT_AVAILABLE UINT64_MAX

struct program {
  const char *name;
  const char *group;
  program_body body;
};

extern const struct program integer_programs[], fp_simd_programs[], copy_programs[], system_programs[], codegen_programs[],
    scaling_programs[];

// How many rounds `base` rounds at scale 1 are at this scale; at least one.
static inline uint64_t rounds(double scale, uint64_t base) {
  double n = scale * (double)base;
  return n < 1 ? 1 : (uint64_t)n;
}

// splitmix64: the source of every program's data, the same on every engine.
static inline uint64_t next_random(uint64_t *state) {
  uint64_t z = (*state += 0x9E3779B97F4A7C15u);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

static inline uint64_t fold(uint64_t hash, uint64_t value) {
  hash ^= value;
  hash *= 0x100000001B3u;
  return hash ^ (hash >> 29);
}

// FIPS 180-4 over `blocks` 64-byte blocks; `state` goes on from call to call.
void sha256_blocks(uint32_t state[8], const uint8_t *data, size_t blocks);

// Anonymous memory, or the program ends.
void *pages(size_t size);
_Noreturn void give_up(const char *what);
