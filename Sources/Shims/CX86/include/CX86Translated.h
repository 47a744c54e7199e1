// Between Swift and translated code: how it is entered, what it calls, how it comes back.
//
// Included by CX86.h. The rules of translated code are in Sources/Translator/Translation.
#pragma once
#include <stddef.h>
#include <stdint.h>

/// Why translated code came back, in the low byte of `x86_translated_enter`'s result. Any result above 255 is the address of the metadata
/// of an exit that can be linked (X86LinkSite); the target is in `exitTarget`.
enum {
  /// Go on at `exitTarget`: an indirect jump that missed, or a request waits.
  x86ExitLookup = 1,
  /// The interpreter is to execute the instruction at `exitTarget`.
  x86ExitInterpret = 2,
  /// A memory access needs the interpreter; `exitAddress` is in the stub of the instruction.
  x86ExitSlow = 3,
  /// The host raised an exception at `exitAddress`; `faultFlags` has the host's arithmetic flags.
  x86ExitFault = 4,
  /// As x86ExitSlow, because the instruction's X86Site misses too often to be of use.
  x86ExitSite = 5,
};

/// What lies behind the code of an exit that can be linked.
typedef struct {
  /// From this structure to the 32-bit displacement to be patched.
  int32_t site;
  /// Bit 0: the arithmetic flags are in the host's register at the site. Bit 1: the target is in the same page. Bit 2: it lies before
  /// the jump.
  uint32_t kind;
} X86LinkSite;

#define X86_SITES 256
#define X86_NO_SITE 0x8000000000000000ull

/// What translated code keeps in X86State. All of it belongs to the vCPU's thread.
typedef struct {
  uint64_t hostStack;
  uint64_t exitTarget;
  uint64_t exitAddress;
  /// Slots for values in transit: RAX while flags are moved, an operand between two checks.
  uint64_t savedRAX;
  uint64_t spill[4];
  /// Host addresses of groups of operands, within one block.
  uint64_t groupSlots[24];
  uint32_t hostMXCSR;
  uint16_t faultFlags;
  /// 0: the vector and x87 registers are in the XSAVE image; 1: in the host's registers; 3: so, and x87 instructions may run natively.
  uint8_t vectorsLoaded;
  /// Nothing is to be translated.
  uint8_t isOff;
  /// The modes under which vector instructions were translated, see x86_vector_mode.
  uint64_t vectorMode;
  /// Components that are moved by XSAVE and XRSTOR.
  uint32_t vectorComponents;
  /// Whether the host's FXSAVE always stores the x87 pointers.
  uint32_t savesPointers;
  /// Where the executable mapping of the code cache lies.
  uint64_t codeStart, codeSize;
  /// Which sites are not empty.
  uint32_t siteLogCount;
  uint16_t siteLog[2 * X86_SITES];
  /// Addresses of the routines below, for indirect calls and jumps.
  uint64_t exitHost, exitMemory, slowRead, slowWrite, slowLinearRead, slowLinearWrite, slowGroup, siteRead, siteWrite, siteGroup, loadVectors, loadX87;
  /// Those of CX86FastCall.c.
  uint64_t fastInside, fastAway;
} X86Translated;

/// The page that one access in translated user code met last, so that it need not be looked up: `X86_SITES` for reading, as many for
/// writing. An empty one has X86_NO_SITE as tag and 0 as host: a guest that uses just that non-canonical address meets the host's page 0,
/// which is never mapped, and so the interpreter.
typedef struct {
  uint64_t tag;
  uint64_t host;
  uint64_t since;
  uint32_t misses;
  uint32_t isLogged;
} X86Site;

#define X86_TOKENS 1024
#define X86_JUMPS 65536

/// Fills in the addresses of the routines.
void x86_translated_prepare(void *_Nonnull state);

/// Runs translated code at `code`, which expects the arithmetic flags in `flags`, until it leaves. See x86Exit*.
uint64_t x86_translated_enter(void *_Nonnull state, uint64_t code);

/// Names the vCPU whose translated code this thread is about to run, for the signal handler; null when it has done so.
void x86_translated_thread(void *_Nullable state);
