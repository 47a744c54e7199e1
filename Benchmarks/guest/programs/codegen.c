// Programs that make code while they run, as just-in-time compilers do.
#include "bench.h"

#include <string.h>
#include <sys/mman.h>

typedef uint64_t (*generated)(uint64_t);

enum { slot = 64, area = 1 << 20, slots = area / slot };

static uint8_t *code_area(void) {
  uint8_t *code = mmap(NULL, area, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (code == MAP_FAILED) give_up("mmap");
  return code;
}

static uint8_t *put(uint8_t *at, const void *bytes, size_t count) {
  memcpy(at, bytes, count);
  return at + count;
}

static uint8_t *put32(uint8_t *at, uint32_t value) { return put(at, &value, 4); }

// A function of about ten instructions in two or three blocks; constants and a branch depend on `random`.
static void emit(uint8_t *at, uint64_t random) {
  at = put(at, "\x48\x89\xF8", 3);                // mov rax, rdi
  at = put(at, "\x48\x05", 2);                    // add rax, imm32
  at = put32(at, (uint32_t)random & 0x7FFFFFFF);
  at = put(at, "\x48\x89\xC1\x48\xC1\xE9", 6);    // mov rcx, rax; shr rcx, imm8
  *at++ = (uint8_t)(random >> 32 & 31) + 1;
  at = put(at, "\x48\x31\xC8\xA8", 4);            // xor rax, rcx; test al, imm8
  *at++ = (uint8_t)(1u << (random >> 40 & 7));
  at = put(at, random >> 48 & 1 ? "\x74\x07" : "\x75\x07", 2); // jz / jnz over
  at = put(at, "\x48\x69\xC0", 3);                // imul rax, rax, imm32
  at = put32(at, (uint32_t)(random >> 33) | 1);
  at = put(at, "\x48\x8D\x44\x38\x05\xC3", 6);    // lea rax, [rax+rdi+5]; ret
}

// Memory that never held code is filled with new functions, an area at a time, and each function run twice.
static uint64_t jit_cold(double scale) {
  uint64_t seed = 29, hash = 0;
  for (uint64_t r = rounds(scale, 18); r; r--) {
    uint8_t *code = code_area();
    for (size_t i = 0; i < slots; i++) emit(code + i * slot, next_random(&seed));
    for (int twice = 0; twice < 2; twice++)
      for (size_t i = 0; i < slots; i++) hash = ((generated)(void *)(code + i * slot))(hash);
  }
  return hash;
}

// The same in one area that is written anew each time.
static uint64_t jit_reuse(double scale) {
  uint8_t *code = code_area();
  uint64_t seed = 30, hash = 0;
  for (uint64_t r = rounds(scale, 8); r; r--) {
    for (size_t i = 0; i < slots; i++) emit(code + i * slot, next_random(&seed));
    for (int twice = 0; twice < 2; twice++)
      for (size_t i = 0; i < slots; i++) hash = ((generated)(void *)(code + i * slot))(hash);
  }
  return hash;
}

// One new function at a time, run at once, behind its predecessors in the same page.
static uint64_t jit_append(double scale) {
  uint8_t *code = code_area();
  uint64_t seed = 31, hash = 0;
  for (uint64_t i = 0, count = rounds(scale, 120000); i < count; i++) {
    uint8_t *at = code + i % slots * slot;
    emit(at, next_random(&seed));
    hash = ((generated)(void *)at)(hash);
    hash = ((generated)(void *)at)(hash);
  }
  return hash;
}

// New functions that are then run many times: what a JIT's output is for.
static uint64_t jit_hot(double scale) {
  uint8_t *code = code_area();
  uint64_t seed = 37, hash = 0;
  for (uint64_t r = rounds(scale, 40); r; r--) {
    for (size_t i = 0; i < 64; i++) emit(code + i * slot, next_random(&seed));
    for (int times = 0; times < 3000; times++)
      for (size_t i = 0; i < 64; i++) hash = ((generated)(void *)(code + i * slot))(hash);
  }
  return hash;
}

// The immediate of an instruction is rewritten before every few calls.
static uint64_t smc(double scale) {
  uint8_t *code = code_area();
  uint64_t seed = 41, hash = 0;
  emit(code, next_random(&seed));
  for (uint64_t r = rounds(scale, 120000); r; r--) {
    put32(code + 5, (uint32_t)next_random(&seed) & 0x7FFFFFFF);
    __asm__ volatile("" : : : "memory");
    for (int i = 0; i < 4; i++) hash = ((generated)(void *)code)(hash);
  }
  return hash;
}

// Data in the page of the code that uses it, as thunks and inline caches have.
static uint64_t code_and_data(double scale) {
  uint8_t *code = code_area();
  uint64_t seed = 43, hash = 0;
  volatile uint64_t *counter = (volatile uint64_t *)(void *)(code + 2048);
  emit(code, next_random(&seed));
  for (uint64_t r = rounds(scale, 1200000); r; r--) {
    hash = ((generated)(void *)code)(hash);
    *counter += hash & 0xFF;
  }
  return fold(hash, *counter);
}

const struct program codegen_programs[] = {
    {"jit_cold", "codegen", jit_cold},     {"jit_reuse", "codegen", jit_reuse}, {"jit_append", "codegen", jit_append},
    {"jit_hot", "codegen", jit_hot},       {"smc", "codegen", smc},             {"code_and_data", "codegen", code_and_data},
    {0}};
