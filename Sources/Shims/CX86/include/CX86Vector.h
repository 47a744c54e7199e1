// Executes one instruction of the guest's natively on its register image: entry, abort, and the memory for the stubs.
//
// Included by CX86.h. The rules are in Sources/Translator/Vector.
#pragma once
#include <stddef.h>
#include <stdint.h>

/// Save area of the native entry, in the page of X86State behind its fields: host RSP, host MXCSR (4 bytes).
#define X86_NATIVE_OFFSET 4032

enum {
  x86OffsetFlags = 144,
  x86OffsetNative = X86_NATIVE_OFFSET,
  x86OffsetXSAVE = 4096,
};

/// CPUID features of the guest that the vector engine checks: bits of X86State.features. Others may use bits 32 and up.
enum {
  x86HasFPU = 0,
  x86HasMMX = 1,
  x86HasSSE = 2,
  x86HasSSE2 = 3,
  x86HasSSE3 = 4,
  x86HasSSSE3 = 5,
  x86HasSSE41 = 6,
  x86HasSSE42 = 7,
  x86HasAES = 8,
  x86HasPCLMUL = 9,
  x86HasSHA = 10,
  x86HasAVX = 11,
  x86HasAVX2 = 12,
  x86HasFMA = 13,
  x86HasF16C = 14,
  x86HasFXSR = 15,
  x86HasXSAVE = 16,
  x86HasXSAVEOPT = 17,
  x86HasXSAVEC = 18,
};

/// Memory for stubs: `size` bytes behind two mappings, one to write and one to execute. 0, or -errno.
int x86_stubs_map(size_t size, void *_Nullable *_Nonnull writable, void *_Nullable *_Nonnull executable);

/// Takes SIGILL, SIGFPE, SIGSEGV, SIGBUS and SIGTRAP whose instruction lies in `start`..<`start + size`, ends the stub and makes `x86_native_run` return
/// the guest's exception; all others go to the handlers that were there before. Once per process. 0, or -errno.
int x86_native_install(const void *_Nonnull start, size_t size);

/// Runs a stub on a vCPU's state with the host address of its memory operand. 0, or the vector of the exception that the
/// instruction raised natively: 6, 13 or 19.
uint8_t x86_native_run(void *_Nonnull state, uint64_t stub, void *_Nullable memory);

/// A word that other threads publish once what it names is complete.
static inline uint64_t x86_word_load(uint64_t address) {
  return __atomic_load_n((const uint64_t *)address, __ATOMIC_ACQUIRE);
}
static inline void x86_word_store(uint64_t address, uint64_t value) {
  __atomic_store_n((uint64_t *)address, value, __ATOMIC_RELEASE);
}
/// A byte that stands for itself alone.
static inline uint8_t x86_byte_load(uint64_t address) {
  return __atomic_load_n((const uint8_t *)address, __ATOMIC_RELAXED);
}
static inline void x86_byte_store(uint64_t address, uint8_t value) {
  __atomic_store_n((uint8_t *)address, value, __ATOMIC_RELAXED);
}

/// Makes code that was written through another mapping certain to be seen: CPUID serialises.
void x86_serialize(void);

/// Whether FXSAVE stores FIP of an instruction that raised no exception (AMD's processors do not).
int x86_saves_x87_pointers(void);
