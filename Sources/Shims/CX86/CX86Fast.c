#include "CX86Fast.h"

#pragma clang attribute push(__attribute__((target("general-regs-only"))), apply_to = function)

// Bits of CR0, CR4, EFER and RFLAGS (SDM vol. 3A, 2.3 to 2.5).
#define CR0_AM (1ull << 18)
#define CR4_TSD (1ull << 2)
#define CR4_FSGSBASE (1ull << 16)
#define CR4_SMAP (1ull << 21)
#define EFER_SCE 1ull
#define EFER_LMA (1ull << 10)
#define FLAG_TF (1u << 8)
#define FLAG_IF (1u << 9)
#define FLAG_DF (1u << 10)
#define FLAG_IOPL (3u << 12)
#define FLAG_NT (1u << 14)
#define FLAG_RF (1u << 16)
#define FLAG_VM (1u << 17)
#define FLAG_AC (1u << 18)
#define FLAG_VIF (1u << 19)
#define FLAG_VIP (1u << 20)
#define FLAG_ID (1u << 21)
#define FLAG_ARITHMETIC 0x8D5u
#define FLAG_ALL                                                                                  \
  (FLAG_ARITHMETIC | FLAG_TF | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_NT | FLAG_RF | FLAG_VM |      \
   FLAG_AC | FLAG_VIF | FLAG_VIP | FLAG_ID)

enum { ES, CS, SS, DS, FS, GS, LDTR, TR };
enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R11 = 11 };
enum { SUPERVISOR, USER, SUPERVISOR_AC };

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

// MARK: - State

/// What all need: 64-bit code, and no trap, breakpoint or shadow that makes this one instruction special.
static inline int isPlain(const X86State *s) {
  return (s->efer & EFER_LMA) && s->codeSize == 8 && !s->slowMode && !s->shadow && !s->fastOff;
}

static inline int isCanonical(uint64_t a) {
  int64_t sign = (int64_t)a >> 47;
  return sign == 0 || sign == -1;
}

static inline uint64_t rflags(const X86State *s) {
  uint32_t raw = s->flags;
  return (raw >> 8 & 0xD5) | (raw & 1) << 11 | (s->eflags & ~FLAG_ARITHMETIC) | 2;
}

static inline void setFlags(X86State *s, uint32_t image) {
  s->flags = (uint16_t)((image & 0xD5) << 8 | (image >> 11 & 1));
  s->eflags = image & FLAG_ALL & ~FLAG_ARITHMETIC;
}

/// Whether alignment is checked, which the windows of the segments stand for: they are only right for as long as it is not.
static inline int checksAlignment(const X86State *s, uint32_t cpl, uint32_t eflags) {
  return cpl == 3 && (eflags & FLAG_AC) && (s->cr0 & CR0_AM);
}

static inline uint32_t accessClass(const X86State *s, uint32_t cpl, uint32_t eflags) {
  if (cpl == 3) return USER;
  return (s->cr4 & CR4_SMAP) && (eflags & FLAG_AC) ? SUPERVISOR_AC : SUPERVISOR;
}

static inline X86TLBEntry *tlbOf(X86State *s, uint32_t class) {
  return (X86TLBEntry *)((char *)s + X86_TLB_OFFSET) + class * X86_TLB_ENTRIES;
}

/// Chooses the TLBs by the new CPL and flags; all else that depends on the mode stays in 64-bit code.
static inline void setClass(X86State *s) {
  uint32_t class = accessClass(s, s->cpl, s->eflags);
  s->tlb = tlbOf(s, class);
  s->itlb = (X86ITLBEntry *)((char *)s + X86_ITLB_OFFSET)
            + (class == USER ? USER : SUPERVISOR) * X86_ITLB_ENTRIES;
}

static inline X86Segment flat(uint16_t selector, uint16_t attributes) {
  return (X86Segment){0, 0xFFFFFFFF, selector, attributes};
}

/// Whether a return to CPL 3 leaves all data segments as they are (SDM vol. 2, RET).
static inline int keepsSegments(const X86State *s) {
  static const uint8_t order[4] = {ES, DS, FS, GS};
  for (int k = 0; k < 4; k++) {
    const X86Segment *g = &s->segment[order[k]];
    if (!(g->attributes | (g->selector & 0xFFFC))) continue;
    int isConforming = (g->attributes & 0x1C) == 0x1C;
    if (!(g->attributes & 0x80) || ((g->attributes >> 5 & 3) < 3 && !isConforming)) return 0;
  }
  return 1;
}

// MARK: - Memory

static __attribute__((noinline)) uint8_t *refill(
  X86State *s, uint32_t class, uint64_t linear, int write) {
  X86Page page;
  if (!x86_tlb_fill(s, linear, write, (int)class, &page)) return 0;
  X86TLBEntry *e = &tlbOf(s, class)[linear >> 12 & (X86_TLB_ENTRIES - 1)];
  // A page of code is not to be written without notice.
  if ((write ? e->writeTag : e->readTag) != (linear & ~0xFFFull)) return 0;
  return (uint8_t *)(e->host + (linear & 0xFFF));
}

/// Host memory at `linear`, to the end of its page; null: only the slow way knows. What it does to page tables and TLB on the way
/// the slow way does too: for that, a write is asked for only when nothing but this can fail any more.
static inline uint8_t *at(X86State *s, uint32_t class, uint64_t linear, int write) {
  X86TLBEntry *e = &tlbOf(s, class)[linear >> 12 & (X86_TLB_ENTRIES - 1)];
  if (likely((write ? e->writeTag : e->readTag) == (linear & ~0xFFFull)))
    return (uint8_t *)(e->host + (linear & 0xFFF));
  return refill(s, class, linear, write);
}

/// As `at`, for `size` bytes, all in one page.
static inline uint8_t *range(X86State *s, uint32_t class, uint64_t linear, uint64_t size, int write) {
  if (unlikely((linear & 0xFFF) + size > 4096)) return 0;
  return at(s, class, linear, write);
}

static inline uint64_t load64(const void *p) {
  uint64_t v;
  __builtin_memcpy(&v, p, 8);
  return v;
}
static inline void store64(void *p, uint64_t v) { __builtin_memcpy(p, &v, 8); }

/// A present descriptor of the GDT whose accessed bit is set.
static inline int readDescriptor(X86State *s, uint64_t selector, uint64_t *d) {
  if (!(selector & 0xFFFC) || (selector & 4)) return 0;
  uint64_t offset = selector & 0xFFF8;
  if (offset + 7 > s->gdtrLimit) return 0;
  uint8_t *p = range(s, SUPERVISOR, s->gdtrBase + offset, 8, 0);
  if (!p) return 0;
  *d = load64(p);
  // Segment, present, accessed.
  return (*d & 0x0000910000000000) == 0x0000910000000000;
}

static inline X86Segment segmentOf(uint64_t d, uint16_t selector) {
  uint32_t limit = (d & 0xFFFF) | (d >> 32 & 0xF0000);
  if (d & 1ull << 55) limit = limit << 12 | 0xFFF;
  return (X86Segment){(d >> 16 & 0xFFFFFF) | (d >> 32 & 0xFF000000), limit, selector,
                      (uint16_t)(d >> 40 & 0xF0FF)};
}

/// Code of 64-bit mode (L set, D clear).
static inline int isLongCode(uint64_t d) { return (d >> 40 & 8) && (d >> 53 & 3) == 1; }
static inline uint32_t privilegeOf(uint64_t d) { return d >> 45 & 3; }
static inline int isConforming(uint64_t d) { return d >> 42 & 1; }

// MARK: - System calls

int x86_fast_syscall(X86State *s) {
  if (!isPlain(s) || !(s->efer & EFER_SCE)) return 0;
  uint64_t old = rflags(s);
  uint32_t kept = (uint32_t)(old & ~s->sfmask & ~(uint64_t)FLAG_RF);
  if ((kept & FLAG_TF) || checksAlignment(s, s->cpl, s->eflags)) return 0;
  uint16_t selector = (uint16_t)(s->star >> 32) & 0xFFFC;
  s->gpr[RCX] = s->rip;
  s->gpr[R11] = old & ~(uint64_t)FLAG_RF;
  s->rip = s->lstar;
  s->cpl = 0;
  s->segment[CS] = flat(selector, 0xA09B);
  s->segment[SS] = flat((uint16_t)(selector + 8), 0xC093);
  setFlags(s, kept);
  setClass(s);
  s->fastCount++;
  return 1;
}

int x86_fast_sysret(X86State *s) {
  // An event that waits for interrupts to be enabled is the outer loop's.
  if (!isPlain(s) || !(s->efer & EFER_SCE) || s->cpl != 0 || s->events) return 0;
  uint64_t target = s->gpr[RCX];
  uint32_t image = (uint32_t)s->gpr[R11] & FLAG_ALL & ~(FLAG_RF | FLAG_VM);
  if (!isCanonical(target) || (image & FLAG_TF) || checksAlignment(s, 3, image)) return 0;
  uint16_t base = (uint16_t)(s->star >> 48);
  s->rip = target;
  s->cpl = 3;
  s->segment[CS] = flat((uint16_t)(base + 16) | 3, 0xA0FB);
  s->segment[SS] = flat((uint16_t)(base + 8) | 3, 0xC0F3);
  setFlags(s, image);
  setClass(s);
  s->fastCount++;
  return 1;
}

int x86_fast_swapgs(X86State *s) {
  if (!isPlain(s) || s->cpl != 0) return 0;
  uint64_t base = s->segment[GS].base;
  s->segment[GS].base = s->kernelGSBase;
  s->window[GS].base = s->kernelGSBase;
  s->kernelGSBase = base;
  s->fastCount++;
  return 1;
}

// MARK: - IRET

int x86_fast_iretq(X86State *s) {
  if (!isPlain(s) || s->events || (s->eflags & FLAG_NT)) return 0;
  uint32_t cpl = s->cpl;
  uint64_t rsp = s->gpr[RSP];
  uint8_t *frame = range(s, accessClass(s, cpl, s->eflags), rsp, 40, 0);
  if (!frame || checksAlignment(s, cpl, s->eflags)) return 0;
  uint64_t rip = load64(frame), image = load64(frame + 16), sp = load64(frame + 24);
  uint16_t cs = (uint16_t)load64(frame + 8), ss = (uint16_t)load64(frame + 32);
  uint32_t rpl = cs & 3;
  uint64_t code, stack;
  if (rpl < cpl || !readDescriptor(s, cs, &code) || !isLongCode(code)) return 0;
  if (isConforming(code) ? privilegeOf(code) > rpl : privilegeOf(code) != rpl) return 0;
  if (!isCanonical(rip)) return 0;
  X86Segment newSS;
  if (!(ss & 0xFFFC)) {
    if (rpl == 3) return 0;
    newSS = flat(ss, (uint16_t)(0xC093 | rpl << 5));
  } else {
    // Writable data.
    if (!readDescriptor(s, ss, &stack) || (stack >> 40 & 0xA) != 2) return 0;
    if ((uint32_t)(ss & 3) != rpl || privilegeOf(stack) != rpl) return 0;
    newSS = segmentOf(stack, ss);
  }
  uint32_t mask = FLAG_ARITHMETIC | FLAG_TF | FLAG_DF | FLAG_NT | FLAG_RF | FLAG_AC | FLAG_ID;
  if (cpl <= (s->eflags >> 12 & 3)) mask |= FLAG_IF;
  if (cpl == 0) mask |= FLAG_IOPL | FLAG_VIF | FLAG_VIP;
  uint32_t flags = ((uint32_t)rflags(s) & ~mask) | ((uint32_t)image & mask);
  // Good for one instruction, it matters to breakpoints (which are not ours) and to the image that a fault pushes (which has it anyway).
  flags &= ~FLAG_RF;
  if ((flags & FLAG_TF) || checksAlignment(s, rpl, flags)) return 0;
  // Only a return to CPL 3 can meet segments that must go; one to CPL 1 or 2 is nobody's.
  if (rpl > cpl && (rpl != 3 || !keepsSegments(s))) return 0;
  setFlags(s, flags);
  s->cpl = (uint8_t)rpl;
  s->segment[SS] = newSS;
  s->segment[CS] = segmentOf(code, (uint16_t)((cs & 0xFFFC) | rpl));
  s->rip = rip;
  s->gpr[RSP] = sp;
  s->nmiBlocked = 0;
  setClass(s);
  s->fastCount++;
  return 1;
}

// MARK: - Interrupts and exceptions

/// A stack pointer of the 64-bit task state segment (SDM vol. 3A, 7.7).
static inline int stackPointer(X86State *s, uint64_t offset, uint64_t *pointer) {
  if (offset + 7 > s->segment[TR].limit) return 0;
  uint8_t *p = range(s, SUPERVISOR, s->segment[TR].base + offset, 8, 0);
  if (!p) return 0;
  *pointer = load64(p);
  return isCanonical(*pointer);
}

int x86_fast_interrupt(X86State *s, uint32_t vector, uint32_t how, uint32_t code) {
  if (!(s->efer & EFER_LMA) || s->codeSize != 8 || s->slowMode || s->fastOff) return 0;
  uint64_t offset = (uint64_t)vector * 16;
  if (offset + 15 > s->idtrLimit) return 0;
  uint8_t *entry = range(s, SUPERVISOR, s->idtrBase + offset, 16, 0);
  if (!entry) return 0;
  uint64_t low = load64(entry), high = load64(entry + 8);
  uint32_t cpl = s->cpl;
  // Present, an interrupt (14) or trap (15) gate, and zero where the type of its second half would be.
  if ((low >> 40 & 0x9E) != 0x8E || (high >> 40 & 0x1F)) return 0;
  if ((how & X86_DELIVER_SOFTWARE) && (low >> 45 & 3) < cpl) return 0;
  uint16_t selector = (uint16_t)(low >> 16);
  uint64_t d;
  if (!readDescriptor(s, selector, &d) || !isLongCode(d) || privilegeOf(d) > cpl) return 0;
  uint64_t target = (low & 0xFFFF) | (low >> 32 & 0xFFFF0000) | high << 32;
  if (!isCanonical(target)) return 0;
  uint32_t level = isConforming(d) ? cpl : privilegeOf(d);
  uint32_t ist = low >> 32 & 7;
  uint64_t pointer = s->gpr[RSP];
  if (ist) {
    if (!stackPointer(s, 0x24 + (ist - 1) * 8, &pointer)) return 0;
  } else if (level < cpl) {
    if (!stackPointer(s, 4 + level * 8, &pointer)) return 0;
  }
  pointer &= ~15ull;
  uint64_t bytes = how & X86_DELIVER_CODE ? 48 : 40;
  pointer -= bytes;
  if (!isCanonical(pointer)) return 0;
  uint32_t class = SUPERVISOR;
  if (level == 3) class = USER;
  else if (cpl < 3) class = accessClass(s, cpl, s->eflags);
  uint32_t eflags = s->eflags & ~(FLAG_TF | FLAG_NT | FLAG_RF | FLAG_VM);
  if (!(low & 1ull << 40)) eflags &= ~FLAG_IF;
  if (checksAlignment(s, cpl, s->eflags) || checksAlignment(s, level, eflags)) return 0;
  uint8_t *frame = range(s, class, pointer, bytes, 1);
  if (!frame) return 0;

  if (how & X86_DELIVER_CODE) {
    store64(frame, code);
    frame += 8;
  }
  store64(frame, s->rip);
  store64(frame + 8, s->segment[CS].selector);
  store64(frame + 16, rflags(s) | (how & X86_DELIVER_RF ? FLAG_RF : 0));
  store64(frame + 24, s->gpr[RSP]);
  store64(frame + 32, s->segment[SS].selector);
  if (level < cpl) s->segment[SS] = flat((uint16_t)level, (uint16_t)(0xC093 | level << 5));
  s->cpl = (uint8_t)level;
  s->segment[CS] = segmentOf(d, (uint16_t)((selector & 0xFFFC) | level));
  s->rip = target;
  s->eflags = eflags;
  s->gpr[RSP] = pointer;
  s->shadow = 0;
  setClass(s);
  s->fastCount++;
  return 1;
}

// MARK: - Flags and time

int x86_fast_rdtsc(X86State *s, int processor) {
  if (s->fastOff || ((s->cr4 & CR4_TSD) && s->cpl != 0)) return 0;
  if (processor && !(s->coreFeatures & 1u << 22)) return 0;
  uint64_t value = (processor ? x86_tsc_ordered() : x86_tsc()) + s->tscOffset;
  s->gpr[RAX] = (uint32_t)value;
  s->gpr[RDX] = value >> 32;
  if (processor) s->gpr[RCX] = (uint32_t)s->tscAux;
  return 1;
}

int x86_fast_popf(X86State *s) {
  if (!isPlain(s) || s->events || checksAlignment(s, s->cpl, s->eflags)) return 0;
  uint8_t *p = range(s, accessClass(s, s->cpl, s->eflags), s->gpr[RSP], 8, 0);
  if (!p) return 0;
  uint32_t image = (uint32_t)load64(p);
  uint32_t mask = FLAG_ARITHMETIC | FLAG_TF | FLAG_DF | FLAG_NT | FLAG_AC | FLAG_ID;
  if (s->cpl == 0) mask |= FLAG_IOPL | FLAG_IF;
  else if (s->cpl <= (s->eflags >> 12 & 3)) mask |= FLAG_IF;
  uint32_t flags = ((uint32_t)rflags(s) & ~(mask | FLAG_RF)) | (image & mask);
  if ((flags & FLAG_TF) || checksAlignment(s, s->cpl, flags)) return 0;
  s->gpr[RSP] += 8;
  setFlags(s, flags);
  setClass(s);
  s->fastCount++;
  return 1;
}

int x86_fast_pushf(X86State *s) {
  if (!isPlain(s) || checksAlignment(s, s->cpl, s->eflags)) return 0;
  uint64_t rsp = s->gpr[RSP] - 8;
  uint8_t *p = range(s, accessClass(s, s->cpl, s->eflags), rsp, 8, 1);
  if (!p) return 0;
  store64(p, rflags(s) & ~(uint64_t)(FLAG_RF | FLAG_VM));
  s->gpr[RSP] = rsp;
  s->fastCount++;
  return 1;
}

// MARK: - Bases of FS and GS, access to user pages

static inline void setBase(X86State *s, uint32_t n, uint64_t base) {
  s->segment[n].base = base;
  s->window[n].base = base;
}

int x86_fast_base(X86State *s, uint32_t which, uint32_t reg, uint32_t size) {
  if (!isPlain(s) || !(s->cr4 & CR4_FSGSBASE)) return 0;
  uint32_t n = which & 1 ? GS : FS;
  uint64_t *r = &s->gpr[reg & 15];
  if (which < 2) {
    *r = size == 8 ? s->segment[n].base : (uint32_t)s->segment[n].base;
  } else {
    uint64_t base = size == 8 ? *r : (uint32_t)*r;
    if (!isCanonical(base)) return 0;
    setBase(s, n, base);
  }
  s->fastCount++;
  return 1;
}

int x86_fast_wrmsr(X86State *s) {
  if (!isPlain(s) || s->cpl != 0) return 0;
  uint64_t value = (uint32_t)s->gpr[RAX] | s->gpr[RDX] << 32;
  if (!isCanonical(value)) return 0;
  switch ((uint32_t)s->gpr[RCX]) {
  case 0xC0000100: setBase(s, FS, value); break;
  case 0xC0000101: setBase(s, GS, value); break;
  case 0xC0000102: s->kernelGSBase = value; break;
  default: return 0;
  }
  s->fastCount++;
  return 1;
}

int x86_fast_access(X86State *s, int set) {
  // As Translator's Feature.smap.
  if (!isPlain(s) || s->cpl != 0 || !(s->coreFeatures & 4)) return 0;
  s->eflags = set ? s->eflags | FLAG_AC : s->eflags & ~FLAG_AC;
  setClass(s);
  s->fastCount++;
  return 1;
}

// MARK: - Strings

/// The copy with the processor's own instruction, element by element: exact for operands that overlap.
static inline void move(uint8_t *to, const uint8_t *from, uint64_t count, uint32_t size) {
  switch (size) {
  case 1: __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory"); break;
  case 2: __asm__ volatile("rep movsw" : "+D"(to), "+S"(from), "+c"(count) : : "memory"); break;
  case 4: __asm__ volatile("rep movsl" : "+D"(to), "+S"(from), "+c"(count) : : "memory"); break;
  default: __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(count) : : "memory"); break;
  }
}

static inline void fill(uint8_t *to, uint64_t value, uint64_t count, uint32_t size) {
  switch (size) {
  case 1: __asm__ volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(value) : "memory"); break;
  case 2: __asm__ volatile("rep stosw" : "+D"(to), "+c"(count) : "a"(value) : "memory"); break;
  case 4: __asm__ volatile("rep stosl" : "+D"(to), "+c"(count) : "a"(value) : "memory"); break;
  default: __asm__ volatile("rep stosq" : "+D"(to), "+c"(count) : "a"(value) : "memory"); break;
  }
}

/// Less than this is copied by plain loads and stores: the processor's instruction takes long to begin.
#define SHORT_COPY 64

static inline int mayString(const X86State *s) {
  return isPlain(s) && !(s->eflags & FLAG_DF) && s->window[ES].writeEnd == ~0ull;
}

int x86_fast_rep_movs(X86State *s, uint32_t size, uint32_t segment) {
  if (!mayString(s)) return 0;
  uint32_t class = accessClass(s, s->cpl, s->eflags);
  uint64_t base = s->window[segment].base;
  while (s->gpr[RCX]) {
    uint64_t source = s->gpr[RSI] + base, target = s->gpr[RDI];
    uint64_t room = 4096 - ((source & 0xFFF) > (target & 0xFFF) ? source & 0xFFF : target & 0xFFF);
    uint64_t count = room / size;
    if (count > s->gpr[RCX]) count = s->gpr[RCX];
    uint64_t bytes = count * size;
    uint8_t *from = at(s, class, source, 0);
    if (!from) return 0;
    uint8_t *from2 = from;
    if (unlikely(!count)) from2 = at(s, class, source + size - 1, 0);
    if (!from2) return 0;
    uint8_t *to = at(s, class, target, 1);
    if (!to) return 0;
    if (unlikely(!count)) {
      // One element that lies in two pages.
      uint8_t *to2 = at(s, class, target + size - 1, 1);
      if (!to2) return 0;
      from2 -= size - 1;
      to2 -= size - 1;
      uint8_t element[8];
      for (uint32_t k = 0; k < size; k++)
        element[k] = (source & 0xFFF) + k < 4096 ? from[k] : from2[k];
      for (uint32_t k = 0; k < size; k++)
        *((target & 0xFFF) + k < 4096 ? to + k : to2 + k) = element[k];
      count = 1;
      bytes = size;
    } else if (bytes < SHORT_COPY && (uint64_t)(to - from) >= bytes && (uint64_t)(from - to) >= bytes) {
      uint64_t k = 0;
      for (; k + 8 <= bytes; k += 8) store64(to + k, load64(from + k));
      for (; k < bytes; k++) to[k] = from[k];
    } else {
      move(to, from, count, size);
    }
    s->gpr[RSI] += bytes;
    s->gpr[RDI] += bytes;
    s->gpr[RCX] -= count;
    if (unlikely(x86_request(s)) && s->gpr[RCX]) {
      s->fastCount++;
      return X86_FAST_AGAIN;
    }
  }
  s->fastCount++;
  return X86_FAST_DONE;
}

int x86_fast_rep_stos(X86State *s, uint32_t size) {
  if (!mayString(s)) return 0;
  uint32_t class = accessClass(s, s->cpl, s->eflags);
  uint64_t value = s->gpr[RAX];
  while (s->gpr[RCX]) {
    uint64_t target = s->gpr[RDI];
    uint8_t *to = at(s, class, target, 1);
    if (!to) return 0;
    uint64_t count = (4096 - (target & 0xFFF)) / size;
    if (count > s->gpr[RCX]) count = s->gpr[RCX];
    uint64_t bytes = count * size;
    if (unlikely(!count)) {
      uint8_t *to2 = at(s, class, target + size - 1, 1);
      if (!to2) return 0;
      to2 -= size - 1;
      for (uint32_t k = 0; k < size; k++)
        *((target & 0xFFF) + k < 4096 ? to + k : to2 + k) = (uint8_t)(value >> (k * 8));
      count = 1;
      bytes = size;
    } else {
      fill(to, value, count, size);
    }
    s->gpr[RDI] += bytes;
    s->gpr[RCX] -= count;
    if (unlikely(x86_request(s)) && s->gpr[RCX]) {
      s->fastCount++;
      return X86_FAST_AGAIN;
    }
  }
  s->fastCount++;
  return X86_FAST_DONE;
}

// MARK: - From translated code

/// 1: done.
__attribute__((used)) int x86_fast_inside(X86State *s, uint32_t word) {
  uint32_t first = word >> 8 & 0xFF, second = word >> 16 & 0xFF;
  switch (word & 0xFF) {
  case x86FastRdtsc: return x86_fast_rdtsc(s, 0);
  case x86FastRdtscp: return x86_fast_rdtsc(s, 1);
  case x86FastPushf: return x86_fast_pushf(s);
  // Stopped for a request: the interpreter begins anew from there, and leaves at once.
  case x86FastRepMovs: return x86_fast_rep_movs(s, first, second) == X86_FAST_DONE;
  case x86FastRepStos: return x86_fast_rep_stos(s, first) == X86_FAST_DONE;
  case x86FastBase: return x86_fast_base(s, second & 3, first, second & 16 ? 8 : 4);
  case x86FastWrmsr: return x86_fast_wrmsr(s);
  default: return 0;
  }
}

/// Where translated code goes on, by the table of indirect jumps of the class that is in use now; 0: nothing was done.
__attribute__((used)) uint64_t x86_fast_away(X86State *s, uint32_t word) {
  int done;
  switch (word & 0xFF) {
  case x86FastSyscall: done = x86_fast_syscall(s); break;
  case x86FastSysret: done = x86_fast_sysret(s); break;
  case x86FastIretq: done = x86_fast_iretq(s); break;
  case x86FastPopf: done = x86_fast_popf(s); break;
  case x86FastStac: done = x86_fast_access(s, 1); break;
  case x86FastClac: done = x86_fast_access(s, 0); break;
  default: done = 0;
  }
  if (!done) return 0;
  uint64_t class = (uint64_t)(s->tlb - tlbOf(s, 0)) / X86_TLB_ENTRIES;
  const uint64_t *table = (const uint64_t *)((char *)s + X86_JUMP_OFFSET) + class * X86_JUMPS;
  return table[s->rip & (X86_JUMPS - 1)];
}

#pragma clang attribute pop
