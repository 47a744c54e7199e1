// The software TLB's refill, called by translated code with the guest's vector registers live: general registers only.
#pragma clang attribute push(__attribute__((target("general-regs-only"))), apply_to = function)

#include "CX86.h"

#define PAGE_MASK 0xFFFull
#define PRESENT 1ull
#define WRITABLE 2ull
#define USER 4ull
#define ACCESSED 0x20ull
#define DIRTY 0x40ull
#define LARGE 0x80ull
#define GLOBAL 0x100ull
#define NO_EXECUTE (1ull << 63)

#define CR0_WP (1ull << 16)
#define CR0_PG (1ull << 31)
#define CR4_PGE (1ull << 7)
#define CR4_SMAP (1ull << 21)
#define EFER_LMA (1ull << 10)
#define EFER_NXE (1ull << 11)
// As Translator's Feature.pdpe1gb.
#define FEATURE_PDPE1GB 1ull

#define CLASS_USER 1
#define CLASS_SUPERVISOR_AC 2

static X86TLBEntry *tlbOf(X86State *s, int access) {
  return (X86TLBEntry *)((char *)s + X86_TLB_OFFSET) + access * X86_TLB_ENTRIES;
}

static uint16_t *logOf(X86State *s, int access) {
  return (uint16_t *)((char *)s + X86_TLB_LOG_OFFSET) + access * X86_TLB_ENTRIES;
}

static const X86MemorySlot *slotAt(const X86State *s, uint64_t physical) {
  const X86MemorySlot *slot = s->slots;
  for (uint32_t n = s->slotCount; n > 0; n--, slot++) {
    if (physical >= slot->start && physical < slot->end) return slot;
  }
  return 0;
}

static uint64_t flagsAddress(const X86MemorySlot *slot, uint64_t physical) {
  return slot->flags + ((physical - slot->start) >> 12);
}

/// Whether an enabled breakpoint lies in the page or reaches into it; of instruction breakpoints too, which does no harm.
static int isWatched(const X86State *s, uint64_t page) {
  for (int n = 0; n < 4; n++) {
    if ((s->dr7 >> (n * 2) & 3) == 0) continue;
    if ((s->dr[n] & ~PAGE_MASK) == page || ((s->dr[n] + 7) & ~PAGE_MASK) == page) return 1;
  }
  return 0;
}

void x86_tlb_set(
  X86State *s, int access, uint64_t linear, int writable, uint64_t host, uint64_t physical,
  int isGlobal) {
  s->tlbRefills++;
  uint64_t index = linear >> 12 & (X86_TLB_ENTRIES - 1);
  X86TLBEntry *tlb = tlbOf(s, access);
  X86TLBEntry *e = tlb + index;
  if ((e->physical & 2) == 0) {
    uint16_t *log = logOf(s, access);
    uint32_t count = s->tlbLogCount[access];
    if (s->tlbLimit != 0 && count >= s->tlbLimit) {
      for (uint32_t k = 0; k < count; k++) {
        X86TLBEntry *old = tlb + (log[k] & (X86_TLB_ENTRIES - 1));
        old->readTag = old->writeTag = x86_no_tag(log[k]);
        old->physical = 0;
      }
      count = 0;
    }
    if (count < X86_TLB_ENTRIES) {
      log[count] = (uint16_t)index;
      s->tlbLogCount[access] = count + 1;
    }
  }
  e->readTag = linear;
  e->writeTag = writable ? linear : x86_no_tag(index);
  e->host = host;
  e->physical = physical | 2 | (isGlobal ? 1 : 0);
}

int x86_tlb_fill(X86State *s, uint64_t linear, int write, int access, X86Page *page) {
  const uint64_t tag = linear & ~PAGE_MASK;
  const int64_t sign = (int64_t)linear >> 47;
  if (s->slotCount == 0 || (s->efer & EFER_LMA) == 0 || (s->cr0 & CR0_PG) == 0) return 0;
  if (sign != 0 && sign != -1) return 0;
  if ((s->dr7 & 0xFF) != 0 && isWatched(s, tag)) return 0;

  const int isUser = access == CLASS_USER;
  const int ignoresWP = !isUser && (s->cr0 & CR0_WP) == 0;
  const uint64_t addressBits = s->physicalMask & ~PAGE_MASK;
  const uint64_t reserved = (~s->physicalMask & 0x000FFFFFFFFFF000ull)
    | ((s->efer & EFER_NXE) != 0 ? 0 : NO_EXECUTE);

again:;
  uint64_t table = s->cr3 & addressBits;
  uint64_t rights = WRITABLE | USER;
  for (int level = 4;; level--) {
    const int shift = 12 + 9 * (level - 1);
    const uint64_t address = (table + (linear >> shift & 511) * 8) & s->a20Mask;
    const X86MemorySlot *slot = slotAt(s, address);
    if (slot == 0) return 0;
    const uint8_t flags = x86_flags_load(flagsAddress(slot, address));
    if ((flags & X86_PAGE_NO_READ) != 0) return 0;
    uint64_t *place = (uint64_t *)(slot->host + (address - slot->start));
    uint64_t entry = __atomic_load_n(place, __ATOMIC_RELAXED);
    if ((entry & PRESENT) == 0 || (entry & reserved) != 0) return 0;
    const int isLeaf = level == 1 || (entry & LARGE) != 0;
    if (isLeaf && level > 1) {
      if (level == 4 || (level == 3 && (s->coreFeatures & FEATURE_PDPE1GB) == 0)) return 0;
      if ((entry & (level == 2 ? 0x001FE000ull : 0x3FFFE000ull)) != 0) return 0;
    }
    rights &= entry;
    uint64_t wanted = ACCESSED;
    if (isLeaf) {
      const int isWritablePage = (rights & WRITABLE) != 0;
      if (isUser) {
        if ((rights & USER) == 0 || (write && !isWritablePage)) return 0;
      } else {
        if (write && !isWritablePage && !ignoresWP) return 0;
        if ((rights & USER) != 0 && (s->cr4 & CR4_SMAP) != 0 && access != CLASS_SUPERVISOR_AC)
          return 0;
      }
      if (write) wanted |= DIRTY;
    }
    if ((entry & wanted) != wanted) {
      // Writes there are to be noticed, or are not this vCPU's to make.
      if (slot->readOnly || (flags & (X86_PAGE_CODE | X86_PAGE_NO_WRITE)) != 0) return 0;
      // Only in the entry that was looked at: another vCPU may have replaced it since.
      if (!__atomic_compare_exchange_n(
            place, &entry, entry | wanted, 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
        goto again;
    }
    if (!isLeaf) {
      table = entry & addressBits;
      continue;
    }

    const uint64_t inside = (1ull << shift) - 1;
    const uint64_t physical =
      ((entry & addressBits & ~inside) | (linear & inside & ~PAGE_MASK)) & s->a20Mask;
    const X86MemorySlot *target = slotAt(s, physical);
    if (target == 0) return 0;
    const uint64_t flagsAt = flagsAddress(target, physical);
    const uint8_t targetFlags = x86_flags_load(flagsAt);
    if ((targetFlags & X86_PAGE_NO_READ) != 0) return 0;
    if (write && (targetFlags & X86_PAGE_NO_WRITE) != 0) return 0;
    const int mayWrite = (write || (entry & DIRTY) != 0) && ((rights & WRITABLE) != 0 || ignoresWP)
      && !target->readOnly && (targetFlags & (X86_PAGE_CODE | X86_PAGE_NO_WRITE)) == 0;
    page->host = target->host + (physical - target->start);
    page->physical = physical;
    page->flags = flagsAt;
    page->readOnly = target->readOnly != 0;
    x86_tlb_set(
      s, access, tag, mayWrite, page->host, physical,
      (entry & GLOBAL) != 0 && (s->cr4 & CR4_PGE) != 0);
    return 1;
  }
}

int x86_tlb_refill(X86State *s, uint64_t linear, int write) {
  const int access = (int)(s->tlb - tlbOf(s, 0)) / X86_TLB_ENTRIES;
  X86Page page;
  if (!x86_tlb_fill(s, linear, write, access, &page)) return 0;
  if (!write) return 1;
  // The page may have ceased to be a code page with this vCPU's code still to be forgotten: the outer loop does that right after the
  // store.
  if ((x86_request(s) & X86_REQUEST_INVALIDATE) != 0) return 0;
  return s->tlb[linear >> 12 & (X86_TLB_ENTRIES - 1)].writeTag == (linear & ~PAGE_MASK);
}

#pragma clang attribute pop
