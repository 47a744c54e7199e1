// The software CPU's state as plain memory, the decoded instruction, and arithmetic with the host's own flags.
//
// All of it is data layout and single instructions that Swift cannot express; the rules of the CPU are in
// Sources/Translator. Interpreter, vector engine and (later) translated code use the same offsets.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "CX86Translated.h"

#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wunused-function"

// MARK: - Layout of a vCPU's memory
//
// One mapping for each vCPU: a guard page, X86_STACK_BYTES of stack for C helpers of translated code (which runs with its stack
// pointer at the state), then, page-aligned, X86_STATE_BYTES:
//        0  X86State
//     4096  the XSAVE area in standard form (legacy region, header, components at the offsets of CPUID leaf 0xD)
//     8192  a bounce buffer for operands that are not one piece of host memory
//    12288  data TLBs: X86_TLB_CLASSES arrays of X86_TLB_ENTRIES
//     then  instruction TLBs: X86_TLB_CLASSES arrays of X86_ITLB_ENTRIES
//     then  fill logs of the data TLBs
//     then  for translated code, by access class: tokens of the code pages that may be entered (X86_TOKENS of 4 bytes),
//           targets of indirect jumps by the low 16 bits of the address (X86_JUMPS of 8 bytes)
//     then  the sites, and page-aligned X86Mailbox: what others write

#define X86_STACK_BYTES 65536
#define X86_XSAVE_OFFSET 4096
#define X86_BOUNCE_OFFSET 8192
#define X86_TLB_OFFSET 12288
#define X86_TLB_ENTRIES 1024
#define X86_ITLB_ENTRIES 256
#define X86_TLB_CLASSES 3
#define X86_MAILBOX_ENTRIES 4096
enum {
  X86_ITLB_OFFSET = X86_TLB_OFFSET + X86_TLB_CLASSES * X86_TLB_ENTRIES * 32,
  X86_TLB_LOG_OFFSET = X86_ITLB_OFFSET + X86_TLB_CLASSES * X86_ITLB_ENTRIES * 32,
  X86_TOKEN_OFFSET = X86_TLB_LOG_OFFSET + X86_TLB_CLASSES * X86_TLB_ENTRIES * 2,
  X86_JUMP_OFFSET = X86_TOKEN_OFFSET + X86_TLB_CLASSES * X86_TOKENS * 4,
  X86_SITE_OFFSET = X86_JUMP_OFFSET + X86_TLB_CLASSES * X86_JUMPS * 8,
  X86_MAILBOX_OFFSET = (X86_SITE_OFFSET + 2 * X86_SITES * 32 + 4095) & ~4095,
  X86_MAILBOX_BYTES = 4096 + X86_MAILBOX_ENTRIES * 8,
  X86_STATE_BYTES = X86_MAILBOX_OFFSET + X86_MAILBOX_BYTES,
};

/// A segment register with its hidden part; `attributes` as in the VMX access rights (SDM vol. 3C, 25.4.1).
typedef struct {
  uint64_t base;
  uint32_t limit;
  uint16_t selector;
  uint16_t attributes;
} X86Segment;

/// What a segment allows at once, derived from X86Segment and the mode: offset + size may not exceed the end. 0: always the slow way.
typedef struct {
  uint64_t base;
  uint64_t readEnd;
  uint64_t writeEnd;
} X86Window;

/// A data TLB entry. A tag is the linear page's address, or x86_no_tag of its slot for none.
typedef struct {
  uint64_t readTag;
  uint64_t writeTag;
  /// Host address of the page.
  uint64_t host;
  /// Guest-physical page; bit 0: global; bit 1: in the fill log.
  uint64_t physical;
} X86TLBEntry;

/// An instruction TLB entry.
typedef struct {
  uint64_t executeTag;
  uint64_t addend;
  /// Guest-physical page; bit 0: global.
  uint64_t physical;
  /// Address of the page's flag byte (RAMBlock.pageFlags), 0 when there is none.
  uint64_t flags;
} X86ITLBEntry;

/// A stretch of guest-physical memory with RAM or ROM behind it: a copy of one MemorySlot for x86_tlb_refill.
typedef struct {
  uint64_t start, end;
  /// Host address of the first byte.
  uint64_t host;
  /// Address of the flag byte of the first page (X86_PAGE_*).
  uint64_t flags;
  uint64_t readOnly;
} X86MemorySlot;

/// Flags of a page of RAM, as in Shm's PageFlags: code was decoded from it; another node has the right to read, to write.
#define X86_PAGE_CODE 1
#define X86_PAGE_NO_READ 2
#define X86_PAGE_NO_WRITE 4

/// What x86_tlb_fill found: the page's host address, guest-physical address, address of its flag byte.
typedef struct {
  uint64_t host;
  uint64_t physical;
  uint64_t flags;
  uint32_t readOnly;
} X86Page;

/// The registers of one vCPU. Segment order: ES CS SS DS FS GS, then LDTR, TR.
typedef struct {
  /// RAX RCX RDX RBX RSP RBP RSI RDI R8 to R15.
  uint64_t gpr[16];
  /// Always 0: the "no base" and "no index" of an address.
  uint64_t zero;
  /// While an instruction executes: the address of the next one (so that it serves as base of RIP-relative operands).
  uint64_t rip;

  /// Arithmetic flags as LAHF and SETO give them: see X86_RAW_*.
  uint16_t flags;
  uint8_t cpl;
  /// 2, 4 or 8: the code segment's size.
  uint8_t codeSize;
  /// 2, 4 or 8: the stack segment's size.
  uint8_t stackSize;
  /// Interrupts (1), debug traps too (2), are held off for the next instruction.
  uint8_t shadow;
  uint8_t nmiBlocked;
  /// Whether a REX, DR7 or TF state asks for one instruction at a time.
  uint8_t slowMode;
  /// All other flags: TF IF DF IOPL NT RF VM AC VIF VIP ID.
  uint32_t eflags;
  uint32_t unused;

  /// 0xFFFFFFFF outside 64-bit mode, else all ones.
  uint64_t linearMask;
  uint64_t stackMask;
  /// Offsets below may be fetched: CS limit + 1, or all ones in 64-bit mode.
  uint64_t fetchEnd;
  /// The data TLB in use (by CPL, SMAP and AC).
  X86TLBEntry *_Nonnull tlb;
  X86ITLBEntry *_Nonnull itlb;
  uint64_t tlbGeneration;

  X86Window window[6];
  uint64_t reservedWindow[6];
  X86Segment segment[8];

  uint64_t gdtrBase, idtrBase;
  uint32_t gdtrLimit, idtrLimit;

  uint64_t cr0, cr2, cr3, cr4, efer, xcr0, xss;
  uint64_t dr[4], dr6, dr7;
  uint64_t pdpte[4];

  uint64_t star, lstar, cstar, sfmask, kernelGSBase;
  uint64_t sysenterCS, sysenterESP, sysenterEIP;
  uint64_t tscOffset, tscAux, tscAdjust;

  /// The exception that a GuestFault stands for.
  uint8_t faultVector;
  uint8_t faultHasCode;
  uint8_t faultIsTrap;
  uint8_t activity;
  uint32_t faultCode;
  /// Bits to be reported in DR6 by the coming #DB.
  uint64_t pendingDebug;

  uint64_t instructions;
  uint64_t physicalMask;
  /// A20: all ones, or bit 20 clear.
  uint64_t a20Mask;
  uint32_t tlbLogCount[4];
  /// Bumped whenever cached linear-to-block links may be wrong.
  uint64_t jumpGeneration;
  /// For the vector engine's own use (native code entry, saved host MXCSR...).
  uint64_t vectorScratch[16];
  /// Which CPUID features the guest sees: the vector engine's, the core's.
  uint64_t features;
  uint64_t coreFeatures;
  /// Address of the table of JumpEntry.
  uint64_t jumpTable;

  /// What the vCPU's own thread is to look at between instructions, X86_EVENT_*: 0 in the common case.
  uint32_t events;
  /// The interrupt of X86_EVENT_VECTOR.
  uint8_t eventVector;
  /// Tests: the functions of CX86Fast.h say no.
  uint8_t fastOff;
  /// How often the TLB was emptied, and how many entries page walks put into it.
  uint64_t tlbFlushes, tlbRefills;
  /// How often the functions of CX86Fast.h said yes.
  uint64_t fastCount;
  /// Copies of the memory slots, largest first. The own thread's; a count of 0: x86_tlb_refill declines everything.
  X86MemorySlot *_Nullable slots;
  uint32_t slotCount;
  /// Entries that a data TLB holds before it is emptied; 0: as many as it has.
  uint32_t tlbLimit;
  X86Translated translated;
} X86State;

/// What others tell the vCPU, and may know of it: threads of this process or, with shared memory, of others that map these pages. All
/// fields are atomic, and nothing here is ever held by anybody, so that a process may die at any moment.
typedef struct {
  /// What is to be looked at between blocks, X86_REQUEST_*.
  uint32_t request;
  /// 1 while the vCPU's thread may use what its TLBs and its code cache hold. At 0 it takes what others have invalidated before it goes
  /// on.
  uint32_t isExecuting;
  /// How many invalidations the vCPU has taken.
  uint64_t taken;
  /// Advances when somebody sleeps and the vCPU has taken something, or no longer executes.
  uint32_t progress;
  uint32_t ownRest;
  uint64_t ownLine[5];
  /// How many invalidations others have asked for. The one with number n (from 0) is in entries[n % X86_MAILBOX_ENTRIES] soon after.
  uint64_t asked;
  /// Threads that sleep until `progress` advances. One of a process that died stays counted, which costs the vCPU calls that wake nobody.
  uint32_t sleepers;
  uint32_t othersRest;
  uint64_t othersLine[502];
  /// Bits 0 to 39: number of the page; 40 and 41: X86_FORGET_*; from 42 on: n / X86_MAILBOX_ENTRIES + 1.
  uint64_t entries[X86_MAILBOX_ENTRIES];
} X86Mailbox;

_Static_assert(sizeof(X86Mailbox) == X86_MAILBOX_BYTES && offsetof(X86Mailbox, asked) == 64, "layout");

/// What an invalidation is about: code decoded from a page; its write tags, for it became code elsewhere or another node has the right;
/// everything known of it; everything there is.
#define X86_FORGET_CODE 0
#define X86_FORGET_WRITES 1
#define X86_FORGET_PAGE 2
#define X86_FORGET_ALL 3

/// Empties all sites. After every change that makes the TLB lose something.
void x86_sites_drop(X86State *_Nonnull s);

/// The modes that decide whether and how vector instructions run: CR0.MP EM TS NE, CR4.OSFXSR OSXMMEXCPT OSXSAVE, XCR0.
uint64_t x86_vector_mode(const X86State *_Nonnull s);

_Static_assert(offsetof(X86State, zero) == 128, "layout");
_Static_assert(offsetof(X86State, rip) == 136, "layout");
_Static_assert(sizeof(X86State) <= 4096, "layout");
_Static_assert(sizeof(X86TLBEntry) == 32 && sizeof(X86ITLBEntry) == 32, "layout");

_Static_assert(offsetof(X86State, flags) == 144, "layout");
enum {
  x86OffsetWindow = offsetof(X86State, window),
  x86OffsetSegment = offsetof(X86State, segment),
  x86OffsetDR = offsetof(X86State, dr),
  x86OffsetPDPTE = offsetof(X86State, pdpte),
  x86OffsetRequest = X86_MAILBOX_OFFSET + offsetof(X86Mailbox, request),
  x86OffsetEFLAGS = offsetof(X86State, eflags),
  x86OffsetSavedRAX = offsetof(X86State, translated.savedRAX),
  x86OffsetSpill = offsetof(X86State, translated.spill),
  x86OffsetVectorsLoaded = offsetof(X86State, translated.vectorsLoaded),
  x86OffsetExitHost = offsetof(X86State, translated.exitHost),
  x86OffsetExitMemory = offsetof(X86State, translated.exitMemory),
  x86OffsetSlowRead = offsetof(X86State, translated.slowRead),
  x86OffsetSlowWrite = offsetof(X86State, translated.slowWrite),
  x86OffsetSlowLinearRead = offsetof(X86State, translated.slowLinearRead),
  x86OffsetSlowLinearWrite = offsetof(X86State, translated.slowLinearWrite),
  x86OffsetSlowGroup = offsetof(X86State, translated.slowGroup),
  x86OffsetSiteRead = offsetof(X86State, translated.siteRead),
  x86OffsetSiteWrite = offsetof(X86State, translated.siteWrite),
  x86OffsetSiteGroup = offsetof(X86State, translated.siteGroup),
  x86OffsetGroupSlots = offsetof(X86State, translated.groupSlots),
  x86OffsetLoadVectors = offsetof(X86State, translated.loadVectors),
  x86OffsetLoadX87 = offsetof(X86State, translated.loadX87),
  x86OffsetFastInside = offsetof(X86State, translated.fastInside),
  x86OffsetFastAway = offsetof(X86State, translated.fastAway),
  x86OffsetEvents = offsetof(X86State, events),
  x86OffsetCR0 = offsetof(X86State, cr0),
  x86OffsetCR2 = offsetof(X86State, cr2),
  x86OffsetCR3 = offsetof(X86State, cr3),
  x86OffsetCR4 = offsetof(X86State, cr4),
  x86OffsetKernelGS = offsetof(X86State, kernelGSBase),
  x86OffsetGSBase = offsetof(X86State, segment[5].base),
  x86OffsetGSWindow = offsetof(X86State, window[5].base),
};

#define X86_RAW_OF 0x0001
#define X86_RAW_CF 0x0100
#define X86_RAW_PF 0x0400
#define X86_RAW_AF 0x1000
#define X86_RAW_ZF 0x4000
#define X86_RAW_SF 0x8000

/// requestExit was called.
#define X86_REQUEST_EXIT 1
/// An interrupt, NMI or interrupt window is to be looked at.
#define X86_REQUEST_EVENT 2
/// Other threads' invalidations wait.
#define X86_REQUEST_INVALIDATE 4

/// The external interrupt `eventVector` is to be delivered.
#define X86_EVENT_VECTOR 1
#define X86_EVENT_NMI 2
/// The caller wants to know when interrupts can be delivered.
#define X86_EVENT_WINDOW 4
/// A debug exception is due after the instruction.
#define X86_EVENT_TRAP 8
/// A REP instruction stopped before its end: what interrupts it pushes RF.
#define X86_EVENT_REP 16

// MARK: - The decoded instruction

/// Opcode maps.
#define X86_MAP_ONE 0
#define X86_MAP_0F 1
#define X86_MAP_0F38 2
#define X86_MAP_0F3A 3

#define X86_PREFIX_66 1
#define X86_PREFIX_67 2
#define X86_PREFIX_F2 4
#define X86_PREFIX_F3 8
#define X86_PREFIX_LOCK 16
#define X86_PREFIX_REX 32
#define X86_PREFIX_SEGMENT 64
#define X86_PREFIX_VEX 128

/// How an instruction uses its memory operand, for the vector engine.
#define X86_ACCESS_NONE 0
#define X86_ACCESS_READ 1
#define X86_ACCESS_WRITE 2
#define X86_ACCESS_READWRITE 3
/// The engine makes its accesses itself (xsave, gather, maskmov).
#define X86_ACCESS_OWN 4

/// Register number that stands for "none" (reads zero) and for RIP in `base` and `index`.
#define X86_REGISTER_NONE 16
#define X86_REGISTER_RIP 17

typedef struct {
  /// Which piece of the interpreter executes it.
  uint8_t handler;
  /// Bytes.
  uint8_t length;
  uint8_t map;
  uint8_t opcode;
  /// The raw ModRM byte; `hasModRM` tells whether there is one. `mod` 3: register operand.
  uint8_t modrm;
  uint8_t hasModRM;
  uint8_t prefixes;
  /// REX byte (0x40 to 0x4F), or what a VEX prefix says in its place; 0 when there is none.
  uint8_t rex;

  /// 1 (byte operations), 2, 4 or 8.
  uint8_t operandSize;
  /// 2, 4 or 8.
  uint8_t addressSize;
  /// Segment of the memory operand, default or override.
  uint8_t segment;
  /// ModRM.reg and ModRM.rm with the bits of REX or VEX. Without ModRM, `rm` is the low bits of the opcode with REX.B.
  uint8_t reg;
  uint8_t rm;
  uint8_t base;
  uint8_t index;
  /// Shift count, 0 to 3.
  uint8_t scale;

  int32_t displacement;
  /// 2, 4 or 8: CS at decode.
  uint8_t codeSize;
  /// VEX: L (0: 128, 1: 256), vvvv (already inverted), pp (0 none, 1 66, 2 F3, 3 F2), W. Legacy: pp from the mandatory prefix.
  uint8_t vexL;
  uint8_t vexV;
  uint8_t pp;

  /// Sign-extended to 64 bits; for ENTER and far pointers the second part is in `immediate2`.
  uint64_t immediate;
  /// Address mask by addressSize.
  uint64_t addressMask;

  uint16_t immediate2;
  /// Filled by the vector engine when the instruction is decoded: bytes of the memory operand, X86_ACCESS_*, alignment to be
  /// checked (0: none).
  uint16_t memorySize;
  uint8_t memoryAccess;
  uint8_t memoryAlignment;
  uint8_t vexW;
  uint8_t opcodeOffset;
  /// The vector engine's own: entry index or offset.
  uint32_t vectorEntry;

  uint8_t immediateSize;
  /// The instruction as it stands in memory.
  uint8_t bytes[15];
  uint64_t vectorPointer;
} X86Instruction;

_Static_assert(sizeof(X86Instruction) == 80, "layout");
enum { x86OffsetBytes = offsetof(X86Instruction, bytes) };

// MARK: - Access from Swift

/// The tag of TLB slot `slot` that no access to the slot matches: it is a page of a slot in the other half of the TLB, so that neither
/// a linear address of the slot itself nor one of a neighbour's (an operand that spans two pages) is less than a page above it.
static inline uint64_t x86_no_tag(uint64_t slot) {
  return (slot & (X86_TLB_ENTRIES - 1)) < X86_TLB_ENTRIES / 2 ? 0x300000 : 0x100000;
}

static inline void *_Nonnull x86_xsave(X86State *_Nonnull s) {
  return (char *)s + X86_XSAVE_OFFSET;
}
static inline void *_Nonnull x86_bounce(X86State *_Nonnull s) {
  return (char *)s + X86_BOUNCE_OFFSET;
}

static inline X86Mailbox *_Nonnull x86_mailbox(const X86State *_Nonnull s) {
  return (X86Mailbox *)((char *)s + X86_MAILBOX_OFFSET);
}
static inline uint32_t x86_request(const X86State *_Nonnull s) {
  return __atomic_load_n(&x86_mailbox(s)->request, __ATOMIC_ACQUIRE);
}
static inline void x86_request_set(X86State *_Nonnull s, uint32_t bits) {
  __atomic_fetch_or(&x86_mailbox(s)->request, bits, __ATOMIC_SEQ_CST);
}
static inline void x86_request_clear(X86State *_Nonnull s, uint32_t bits) {
  __atomic_fetch_and(&x86_mailbox(s)->request, ~bits, __ATOMIC_SEQ_CST);
}
/// The vCPU begins to use its TLBs; it looks at its requests next. A full fence stands between the two, as on the side of those who ask:
/// either they see that it executes, or it sees their request.
static inline void x86_enter(X86State *_Nonnull s) {
  __atomic_exchange_n(&x86_mailbox(s)->isExecuting, 1, __ATOMIC_SEQ_CST);
}
/// Wakes who sleeps in `x86_mailbox_wait`.
void x86_mailbox_wake(X86Mailbox *_Nonnull m);
/// Sleeps until the vCPU has taken so many invalidations or does not execute; at most a millisecond, and sometimes for nothing.
void x86_mailbox_wait(X86Mailbox *_Nonnull m, uint64_t number);
static inline void x86_mailbox_progressed(X86Mailbox *_Nonnull m) {
  if (__builtin_expect(__atomic_load_n(&m->sleepers, __ATOMIC_SEQ_CST) != 0, 0)) x86_mailbox_wake(m);
}
/// With a full fence before the look at who sleeps: either the sleeper sees that the vCPU has left, or the vCPU sees the sleeper.
static inline void x86_leave(X86State *_Nonnull s) {
  __atomic_exchange_n(&x86_mailbox(s)->isExecuting, 0, __ATOMIC_SEQ_CST);
  x86_mailbox_progressed(x86_mailbox(s));
}
static inline int x86_is_executing(const X86Mailbox *_Nonnull m) {
  return __atomic_load_n(&m->isExecuting, __ATOMIC_SEQ_CST) != 0;
}
/// Another thread gives the vCPU up: its process is gone.
static inline void x86_mailbox_abandon(X86Mailbox *_Nonnull m) {
  __atomic_store_n(&m->isExecuting, 0, __ATOMIC_SEQ_CST);
}
static inline uint64_t x86_mailbox_lap(uint64_t number) {
  return (number / X86_MAILBOX_ENTRIES + 1) << 42;
}
/// Asks the vCPU to forget something of the page at `physical`; what `taken` must reach. Any thread, any process.
static inline uint64_t x86_mailbox_post(X86Mailbox *_Nonnull m, uint32_t what, uint64_t physical) {
  uint64_t number = __atomic_fetch_add(&m->asked, 1, __ATOMIC_SEQ_CST);
  uint64_t entry = x86_mailbox_lap(number) | (uint64_t)(what & 3) << 40 | (physical >> 12 & 0xFFFFFFFFFF);
  __atomic_store_n(&m->entries[number % X86_MAILBOX_ENTRIES], entry, __ATOMIC_RELEASE);
  __atomic_fetch_or(&m->request, X86_REQUEST_INVALIDATE, __ATOMIC_SEQ_CST);
  return number + 1;
}
static inline uint64_t x86_mailbox_asked(const X86Mailbox *_Nonnull m) {
  return __atomic_load_n(&m->asked, __ATOMIC_SEQ_CST);
}
static inline uint64_t x86_mailbox_taken(const X86Mailbox *_Nonnull m) {
  return __atomic_load_n(&m->taken, __ATOMIC_SEQ_CST);
}
static inline void x86_mailbox_take(X86Mailbox *_Nonnull m, uint64_t number) {
  __atomic_store_n(&m->taken, number, __ATOMIC_SEQ_CST);
  x86_mailbox_progressed(m);
}
/// The request of that number without its lap: what << 40 | page number. All ones: it is not there yet, or was overwritten.
static inline uint64_t x86_mailbox_entry(const X86Mailbox *_Nonnull m, uint64_t number) {
  uint64_t entry = __atomic_load_n(&m->entries[number % X86_MAILBOX_ENTRIES], __ATOMIC_ACQUIRE);
  uint64_t rest = entry ^ x86_mailbox_lap(number);
  return rest >> 42 == 0 ? rest : ~0ull;
}
static inline uint8_t x86_flags_or(uint64_t address, uint8_t bits) {
  return __atomic_fetch_or((uint8_t *)address, bits, __ATOMIC_SEQ_CST);
}
static inline uint8_t x86_flags_load(uint64_t address) {
  return __atomic_load_n((uint8_t *)address, __ATOMIC_SEQ_CST);
}
static inline uint64_t x86_tsc(void) { return __builtin_ia32_rdtsc(); }
/// The same once all earlier instructions have ended, as RDTSCP promises: RDTSC alone may run before loads that stand before it.
static inline uint64_t x86_tsc_ordered(void) {
  __builtin_ia32_lfence();
  return __builtin_ia32_rdtsc();
}
static inline void x86_pause(void) { __builtin_ia32_pause(); }
/// What LFENCE, MFENCE and SFENCE promise together: order of memory accesses, and of RDTSC among them.
static inline void x86_fence(void) {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  __builtin_ia32_lfence();
}
static inline void x86_cpuid(
  uint32_t leaf, uint32_t subleaf, uint32_t *_Nonnull out /* eax ebx ecx edx */) {
  __asm__ volatile("cpuid"
                   : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3])
                   : "a"(leaf), "c"(subleaf));
}

// MARK: - Arithmetic that leaves the host's flags behind
//
// Each function does one instruction and stores AH (LAHF) and AL (SETO) at `flags`.

#define X86_TAKE "\n\tlahf\n\tseto %%al"

#define X86_BINARY(name, mnemonic, suffix, type, bits)                                          \
  static inline type x86_##name##bits(type a, type b, uint16_t *_Nonnull flags) {               \
    uint16_t f;                                                                                 \
    __asm__(mnemonic suffix " %[b],%[a]" X86_TAKE                                               \
            : [a] "+&q"(a), "=&a"(f) : [b] "q"(b) : "cc");                                      \
    *flags = f;                                                                                 \
    return a;                                                                                   \
  }                                                                                             \
  static inline void x86_lock_##name##bits(void *_Nonnull p, type b, uint16_t *_Nonnull flags) {\
    uint16_t f;                                                                                 \
    __asm__ volatile("lock " mnemonic suffix " %[b],%[m]" X86_TAKE                              \
                     : [m] "+m"(*(type *)p), "=&a"(f) : [b] "q"(b) : "cc", "memory");           \
    *flags = f;                                                                                 \
  }
#define X86_CARRY(name, mnemonic, suffix, type, bits)                                           \
  static inline type x86_##name##bits(type a, type b, uint16_t *_Nonnull flags) {               \
    uint16_t f = *flags;                                                                        \
    __asm__("btw $8,%%ax\n\t" mnemonic suffix " %[b],%[a]" X86_TAKE                             \
            : [a] "+&q"(a), "+&a"(f) : [b] "q"(b) : "cc");                                      \
    *flags = f;                                                                                 \
    return a;                                                                                   \
  }                                                                                             \
  static inline void x86_lock_##name##bits(void *_Nonnull p, type b, uint16_t *_Nonnull flags) {\
    uint16_t f = *flags;                                                                        \
    __asm__ volatile("btw $8,%%ax\n\tlock " mnemonic suffix " %[b],%[m]" X86_TAKE               \
                     : [m] "+m"(*(type *)p), "+&a"(f) : [b] "q"(b) : "cc", "memory");           \
    *flags = f;                                                                                 \
  }
#define X86_COMPARE(name, mnemonic, suffix, type, bits)                                         \
  static inline void x86_##name##bits(type a, type b, uint16_t *_Nonnull flags) {               \
    uint16_t f;                                                                                 \
    __asm__(mnemonic suffix " %[b],%[a]" X86_TAKE                                               \
            : "=&a"(f) : [a] "q"(a), [b] "q"(b) : "cc");                                        \
    *flags = f;                                                                                 \
  }
/// INC and DEC keep CF; NEG sets it.
#define X86_UNARY(name, mnemonic, suffix, type, bits, kept)                                     \
  static inline type x86_##name##bits(type a, uint16_t *_Nonnull flags) {                       \
    uint16_t f;                                                                                 \
    __asm__(mnemonic suffix " %[a]" X86_TAKE : [a] "+&q"(a), "=&a"(f) : : "cc");                \
    *flags = (uint16_t)((*flags & (kept)) | (f & ~(kept)));                                     \
    return a;                                                                                   \
  }                                                                                             \
  static inline void x86_lock_##name##bits(void *_Nonnull p, uint16_t *_Nonnull flags) {        \
    uint16_t f;                                                                                 \
    __asm__ volatile("lock " mnemonic suffix " %[m]" X86_TAKE                                   \
                     : [m] "+m"(*(type *)p), "=&a"(f) : : "cc", "memory");                      \
    *flags = (uint16_t)((*flags & (kept)) | (f & ~(kept)));                                     \
  }
/// A count of 0 (after masking) changes nothing.
#define X86_SHIFT(name, mnemonic, suffix, type, bits, mask)                                     \
  static inline type x86_##name##bits(type a, uint8_t count, uint16_t *_Nonnull flags) {        \
    uint16_t f;                                                                                 \
    if ((count & (mask)) == 0) return a;                                                        \
    __asm__(mnemonic suffix " %%cl,%[a]" X86_TAKE                                               \
            : [a] "+&q"(a), "=&a"(f) : "c"(count) : "cc");                                      \
    *flags = f;                                                                                 \
    return a;                                                                                   \
  }
/// Rotates change CF and OF only, and RCL and RCR take CF in.
#define X86_ROTATE(name, mnemonic, suffix, type, bits, mask)                                    \
  static inline type x86_##name##bits(type a, uint8_t count, uint16_t *_Nonnull flags) {        \
    uint16_t f = *flags;                                                                        \
    if ((count & (mask)) == 0) return a;                                                        \
    __asm__("btw $8,%%ax\n\t" mnemonic suffix " %%cl,%[a]" X86_TAKE                             \
            : [a] "+&q"(a), "+&a"(f) : "c"(count) : "cc");                                      \
    *flags = (uint16_t)((*flags & ~(X86_RAW_CF | X86_RAW_OF)) | (f & (X86_RAW_CF | X86_RAW_OF)));\
    return a;                                                                                   \
  }
#define X86_EXCHANGES(type, bits, suffix)                                                       \
  static inline type x86_xchg##bits(void *_Nonnull p, type value) {                             \
    __asm__ volatile("xchg" suffix " %[v],%[m]"                                                 \
                     : [m] "+m"(*(type *)p), [v] "+q"(value) : : "memory");                     \
    return value;                                                                               \
  }                                                                                             \
  static inline type x86_lock_xadd##bits(void *_Nonnull p, type value, uint16_t *_Nonnull flags) {\
    uint16_t f;                                                                                 \
    __asm__ volatile("lock xadd" suffix " %[v],%[m]" X86_TAKE                                   \
                     : [m] "+m"(*(type *)p), [v] "+&q"(value), "=&a"(f) : : "cc", "memory");    \
    *flags = f;                                                                                 \
    return value;                                                                               \
  }                                                                                             \
  /* What the memory held before; it became `desired` if that was `expected`. */                \
  static inline type x86_lock_cmpxchg##bits(void *_Nonnull p, type expected, type desired) {    \
    __asm__ volatile("lock cmpxchg" suffix " %[d],%[m]"                                         \
                     : [m] "+m"(*(type *)p), "+a"(expected) : [d] "q"(desired)                  \
                     : "cc", "memory");                                                         \
    return expected;                                                                            \
  }                                                                                             \
  static inline void x86_lock_not##bits(void *_Nonnull p) {                                     \
    __asm__ volatile("lock not" suffix " %[m]" : [m] "+m"(*(type *)p) : : "memory");            \
  }                                                                                             \
  static inline type x86_load##bits(const void *_Nonnull p) {                                   \
    type v;                                                                                     \
    __builtin_memcpy(&v, p, sizeof v);                                                          \
    return v;                                                                                   \
  }

#define X86_EACH(suffix, type, bits, mask)                                                      \
  X86_BINARY(add, "add", suffix, type, bits)                                                    \
  X86_BINARY(sub, "sub", suffix, type, bits)                                                    \
  X86_BINARY(and, "and", suffix, type, bits)                                                    \
  X86_BINARY(or, "or", suffix, type, bits)                                                      \
  X86_BINARY(xor, "xor", suffix, type, bits)                                                    \
  X86_CARRY(adc, "adc", suffix, type, bits)                                                     \
  X86_CARRY(sbb, "sbb", suffix, type, bits)                                                     \
  X86_COMPARE(cmp, "cmp", suffix, type, bits)                                                   \
  X86_COMPARE(test, "test", suffix, type, bits)                                                 \
  X86_UNARY(inc, "inc", suffix, type, bits, X86_RAW_CF)                                         \
  X86_UNARY(dec, "dec", suffix, type, bits, X86_RAW_CF)                                         \
  X86_UNARY(neg, "neg", suffix, type, bits, 0)                                                  \
  X86_SHIFT(shl, "shl", suffix, type, bits, mask)                                               \
  X86_SHIFT(shr, "shr", suffix, type, bits, mask)                                               \
  X86_SHIFT(sar, "sar", suffix, type, bits, mask)                                               \
  X86_ROTATE(rol, "rol", suffix, type, bits, mask)                                              \
  X86_ROTATE(ror, "ror", suffix, type, bits, mask)                                              \
  X86_ROTATE(rcl, "rcl", suffix, type, bits, mask)                                              \
  X86_ROTATE(rcr, "rcr", suffix, type, bits, mask)                                              \
  X86_EXCHANGES(type, bits, suffix)

X86_EACH("b", uint8_t, 8, 31)
X86_EACH("w", uint16_t, 16, 31)
X86_EACH("l", uint32_t, 32, 31)
X86_EACH("q", uint64_t, 64, 63)

#define X86_WIDE(suffix, type, bits, mask)                                                      \
  static inline type x86_shld##bits(                                                            \
    type a, type b, uint8_t count, uint16_t *_Nonnull flags) {                                  \
    uint16_t f;                                                                                 \
    if ((count & (mask)) == 0) return a;                                                        \
    __asm__("shld" suffix " %%cl,%[b],%[a]" X86_TAKE                                            \
            : [a] "+&r"(a), "=&a"(f) : [b] "r"(b), "c"(count) : "cc");                          \
    *flags = f;                                                                                 \
    return a;                                                                                   \
  }                                                                                             \
  static inline type x86_shrd##bits(                                                            \
    type a, type b, uint8_t count, uint16_t *_Nonnull flags) {                                  \
    uint16_t f;                                                                                 \
    if ((count & (mask)) == 0) return a;                                                        \
    __asm__("shrd" suffix " %%cl,%[b],%[a]" X86_TAKE                                            \
            : [a] "+&r"(a), "=&a"(f) : [b] "r"(b), "c"(count) : "cc");                          \
    *flags = f;                                                                                 \
    return a;                                                                                   \
  }                                                                                             \
  static inline type x86_imul##bits(type a, type b, uint16_t *_Nonnull flags) {                 \
    uint16_t f;                                                                                 \
    __asm__("imul" suffix " %[b],%[a]" X86_TAKE                                                 \
            : [a] "+&r"(a), "=&a"(f) : [b] "r"(b) : "cc");                                      \
    *flags = f;                                                                                 \
    return a;                                                                                   \
  }                                                                                             \
  /* Low half returned, high half at `high`. */                                                 \
  static inline type x86_mulwide##bits(                                                         \
    type a, type b, type *_Nonnull high, uint16_t *_Nonnull flags) {                            \
    uint64_t f = a;                                                                             \
    type h, low;                                                                                \
    __asm__("mul" suffix " %[b]\n\tmov" suffix " %%" X86_RAX_##bits ",%[l]" X86_TAKE            \
            : "+&a"(f), "=&d"(h), [l] "=&r"(low) : [b] "r"(b) : "cc");                          \
    *high = h;                                                                                  \
    *flags = (uint16_t)f;                                                                       \
    return low;                                                                                 \
  }                                                                                             \
  static inline type x86_imulwide##bits(                                                        \
    type a, type b, type *_Nonnull high, uint16_t *_Nonnull flags) {                            \
    uint64_t f = a;                                                                             \
    type h, low;                                                                                \
    __asm__("imul" suffix " %[b]\n\tmov" suffix " %%" X86_RAX_##bits ",%[l]" X86_TAKE           \
            : "+&a"(f), "=&d"(h), [l] "=&r"(low) : [b] "r"(b) : "cc");                          \
    *high = h;                                                                                  \
    *flags = (uint16_t)f;                                                                       \
    return low;                                                                                 \
  }                                                                                             \
  /* The bit number; `old` when the source is 0. */                                             \
  static inline type x86_bsf##bits(type a, type old, uint16_t *_Nonnull flags) {                \
    uint16_t f;                                                                                 \
    __asm__("bsf" suffix " %[b],%[a]" X86_TAKE                                                  \
            : [a] "+&r"(old), "=&a"(f) : [b] "r"(a) : "cc");                                    \
    *flags = f;                                                                                 \
    return old;                                                                                 \
  }                                                                                             \
  static inline type x86_bsr##bits(type a, type old, uint16_t *_Nonnull flags) {                \
    uint16_t f;                                                                                 \
    __asm__("bsr" suffix " %[b],%[a]" X86_TAKE                                                  \
            : [a] "+&r"(old), "=&a"(f) : [b] "r"(a) : "cc");                                    \
    *flags = f;                                                                                 \
    return old;                                                                                 \
  }                                                                                             \
  static inline void x86_lock_bts##bits(void *_Nonnull p, type b, uint16_t *_Nonnull flags) {   \
    uint8_t c;                                                                                  \
    __asm__ volatile("lock bts" suffix " %[b],%[m]\n\tsetc %[c]"                                \
                     : [m] "+m"(*(type *)p), [c] "=q"(c) : [b] "r"((type)(b & (bits - 1)))      \
                     : "cc", "memory");                                                         \
    *flags = (uint16_t)((*flags & ~X86_RAW_CF) | (c << 8));                                     \
  }                                                                                             \
  static inline void x86_lock_btr##bits(void *_Nonnull p, type b, uint16_t *_Nonnull flags) {   \
    uint8_t c;                                                                                  \
    __asm__ volatile("lock btr" suffix " %[b],%[m]\n\tsetc %[c]"                                \
                     : [m] "+m"(*(type *)p), [c] "=q"(c) : [b] "r"((type)(b & (bits - 1)))      \
                     : "cc", "memory");                                                         \
    *flags = (uint16_t)((*flags & ~X86_RAW_CF) | (c << 8));                                     \
  }                                                                                             \
  static inline void x86_lock_btc##bits(void *_Nonnull p, type b, uint16_t *_Nonnull flags) {   \
    uint8_t c;                                                                                  \
    __asm__ volatile("lock btc" suffix " %[b],%[m]\n\tsetc %[c]"                                \
                     : [m] "+m"(*(type *)p), [c] "=q"(c) : [b] "r"((type)(b & (bits - 1)))      \
                     : "cc", "memory");                                                         \
    *flags = (uint16_t)((*flags & ~X86_RAW_CF) | (c << 8));                                     \
  }

#define X86_RAX_16 "ax"
#define X86_RAX_32 "eax"
#define X86_RAX_64 "rax"
X86_WIDE("w", uint16_t, 16, 31)
X86_WIDE("l", uint32_t, 32, 31)
X86_WIDE("q", uint64_t, 64, 63)

/// Byte multiplication: the product in AX.
static inline uint16_t x86_mulwide8(uint8_t a, uint8_t b, uint16_t *_Nonnull flags) {
  uint32_t f = a;
  uint16_t product;
  __asm__("mulb %[b]\n\tmovw %%ax,%[p]" X86_TAKE
          : "+&a"(f), [p] "=&r"(product) : [b] "q"(b) : "cc");
  *flags = (uint16_t)f;
  return product;
}
static inline uint16_t x86_imulwide8(uint8_t a, uint8_t b, uint16_t *_Nonnull flags) {
  uint32_t f = a;
  uint16_t product;
  __asm__("imulb %[b]\n\tmovw %%ax,%[p]" X86_TAKE
          : "+&a"(f), [p] "=&r"(product) : [b] "q"(b) : "cc");
  *flags = (uint16_t)f;
  return product;
}

/// LOCK CMPXCHG16B at 16-byte aligned memory. `expected` receives what was there; true if it was exchanged.
static inline int x86_lock_cmpxchg16b(
  void *_Nonnull p, uint64_t *_Nonnull expectedLow, uint64_t *_Nonnull expectedHigh, uint64_t low,
  uint64_t high) {
  uint8_t ok;
  __asm__ volatile("lock cmpxchg16b %[m]\n\tsete %[ok]"
                   : [m] "+m"(*(__uint128_t *)p), "+a"(*expectedLow), "+d"(*expectedHigh),
                     [ok] "=q"(ok)
                   : "b"(low), "c"(high)
                   : "cc", "memory");
  return ok;
}

static inline int x86_rdrand(uint64_t *_Nonnull value) {
  uint8_t ok;
  __asm__ volatile("rdrand %0\n\tsetc %1" : "=r"(*value), "=q"(ok) : : "cc");
  return ok;
}

/// One step of CRC32C as the CRC32 instruction does it.
static inline uint32_t x86_crc32c(uint32_t crc, uint64_t data, int bytes) {
  for (int i = 0; i < bytes; i++) {
    crc ^= (uint8_t)(data >> (8 * i));
    for (int k = 0; k < 8; k++) crc = (crc >> 1) ^ (0x82F63B78u & (0u - (crc & 1)));
  }
  return crc;
}

/// Walks the page tables of long mode for a data access with the rights of TLB class `access` (0 to X86_TLB_CLASSES - 1), sets accessed
/// and dirty bits, and fills the entry: its write tag only if nothing has to be noticed about writes. 1: `page` says what is there.
/// 0: not long mode, a fault, device memory, a watched page, missing rights, or anything else that wants the long way, which may start
/// from the beginning: what was done until then it would do too.
int x86_tlb_fill(
  X86State *_Nonnull s, uint64_t linear, int write, int access, X86Page *_Nonnull page);
/// x86_tlb_fill for the TLB in use. 1: its entry has the tag that the access needs (which says nothing about an operand that goes on
/// in the next page).
int x86_tlb_refill(X86State *_Nonnull s, uint64_t linear, int write);
/// Makes an entry, and notes it in the fill log. `linear` and `physical` are pages.
void x86_tlb_set(
  X86State *_Nonnull s, int access, uint64_t linear, int writable, uint64_t host,
  uint64_t physical, int isGlobal);

/// The lock that locked accesses take when they cannot be one host instruction (page-crossing, device memory): a word of memory that all
/// vCPUs see, 0 or the number of the one that has it.
static inline int x86_split_try(uint32_t *_Nonnull word, uint32_t owner) {
  uint32_t free = 0;
  return __atomic_compare_exchange_n(word, &free, owner, 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}
/// Does nothing unless `owner` has it.
static inline void x86_split_free(uint32_t *_Nonnull word, uint32_t owner) {
  uint32_t expected = owner;
  __atomic_compare_exchange_n(word, &expected, 0, 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}

#pragma clang diagnostic pop

/// What CPUID answers on this host, as a value.
struct x86_cpuid_answer {
  uint32_t eax, ebx, ecx, edx;
};

/// Executes CPUID on the host.
static inline struct x86_cpuid_answer x86_host_cpuid(uint32_t leaf, uint32_t subleaf) {
  struct x86_cpuid_answer r;
  __asm__ volatile("cpuid" : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx) : "a"(leaf), "c"(subleaf));
  return r;
}

#include "CX86Vector.h"
#include "CX86Fast.h"
