#define _GNU_SOURCE
#include "CX86.h"

#include <errno.h>
#include <string.h>

// Translated code runs with RSP = address of the X86State, guest registers in the host's of the same number except
// RSP -> R9 and R9, R10, R11 -> X86State.gpr; R10 and R11 are scratch. Offsets of X86State for the assembler:
enum {
  offsetFlags = offsetof(X86State, flags),
  offsetTLB = offsetof(X86State, tlb),
  offsetStack = offsetof(X86State, translated.hostStack),
  offsetTarget = offsetof(X86State, translated.exitTarget),
  offsetAddress = offsetof(X86State, translated.exitAddress),
  offsetMXCSR = offsetof(X86State, translated.hostMXCSR),
  offsetFaultFlags = offsetof(X86State, translated.faultFlags),
  offsetLoaded = offsetof(X86State, translated.vectorsLoaded),
  offsetComponents = offsetof(X86State, translated.vectorComponents),
  offsetPointers = offsetof(X86State, translated.savesPointers),
};

extern const char x86_exit_host[], x86_exit_memory[], x86_slow_read[], x86_slow_write[],
  x86_slow_linear_read[], x86_slow_linear_write[], x86_slow_group[], x86_site_read[], x86_site_write[], x86_site_group[], x86_load_vectors[], x86_load_x87[];

#define SAVE_CALLER \
  "  mov %%rax,8(%%rsp)\n" \
  "  mov %%rcx,16(%%rsp)\n" \
  "  mov %%rdx,24(%%rsp)\n" \
  "  mov %%r9,40(%%rsp)\n" \
  "  mov %%rsi,56(%%rsp)\n" \
  "  mov %%rdi,64(%%rsp)\n" \
  "  mov %%r8,72(%%rsp)\n"
#define LOAD_CALLER \
  "  mov 8(%%rsp),%%rax\n" \
  "  mov 16(%%rsp),%%rcx\n" \
  "  mov 24(%%rsp),%%rdx\n" \
  "  mov 40(%%rsp),%%r9\n" \
  "  mov 56(%%rsp),%%rsi\n" \
  "  mov 64(%%rsp),%%rdi\n" \
  "  mov 72(%%rsp),%%r8\n"

#define SITE(name, kind) \
  "x86_site_" name ":\n" \
  "  cmp $4096,%%r10\n" \
  "  jb 7b\n" \
  "  add (%%r11),%%r10\n" \
  SAVE_CALLER \
  "  mov %%r10,%%rsi\n" \
  "  lea 8(%%rsp),%%rdi\n" \
  "  mov $" kind ",%%edx\n" \
  "  mov %%r11,%%rcx\n" \
  "  sub $8,%%rsp\n" \
  "  call x86_site_refill\n" \
  "  add $8,%%rsp\n" \
  "  test %%eax,%%eax\n" \
  LOAD_CALLER \
  "  jz 7b\n" \
  "  js 12f\n" \
  "  ret\n"

/// The modes that decide whether and how vector instructions run: CR0.MP EM TS NE, CR4.OSFXSR OSXMMEXCPT OSXSAVE, XCR0.
#pragma clang attribute push(__attribute__((target("general-regs-only"))), apply_to = function)
static uint64_t vectorMode(const X86State *s) {
  return (s->cr0 & 0x2E) | (s->cr4 & 0x40600) | (s->xcr0 & 7) << 32 | 1ull << 63;
}

/// Whether the vector state may be loaded into the host's registers: 0 no, 1 yes, 3 x87 too.
__attribute__((used)) int x86_vectors_loadable(X86State *s) {
  if (vectorMode(s) != s->translated.vectorMode) return 0;
  uint16_t control, status;
  memcpy(&control, (char *)s + X86_XSAVE_OFFSET, 2);
  memcpy(&status, (char *)s + X86_XSAVE_OFFSET + 2, 2);
  return (control & 0x3F) == 0x3F && !(status & 0x80) ? 3 : 1;
}

/// Reads the page in, and tells whether it may be written without further ado.
__attribute__((used)) int x86_group_refill(X86State *s, uint64_t linear) {
  if (!x86_tlb_refill(s, linear, 0)) return 0;
  return s->tlb[linear >> 12 & (X86_TLB_ENTRIES - 1)].writeTag == (linear & ~(uint64_t)0xFFF);
}

/// Misses after which a site's usefulness is judged, and the cycles that they must have taken together.
enum { siteTrial = 64, siteCycles = 64 * 3000 };

/// A site's page is another one now. `kind` 0: read, 1: write, 2: some of the bytes will be written. 1: try again; 0: the interpreter;
/// -1: the interpreter, and the site is of no use.
__attribute__((used)) int x86_site_refill(X86State *s, uint64_t linear, int kind, X86Site *site) {
  const uint64_t page = linear & ~(uint64_t)0xFFF;
  X86TLBEntry *e = s->tlb + (linear >> 12 & (X86_TLB_ENTRIES - 1));
  if ((kind ? e->writeTag : e->readTag) != page) {
    if (!(kind == 2 ? x86_group_refill(s, linear) : x86_tlb_refill(s, linear, kind))) return 0;
  }
  if (!site->isLogged) {
    X86Translated *t = &s->translated;
    if (t->siteLogCount >= 2 * X86_SITES) return 0;
    t->siteLog[t->siteLogCount++] =
      (uint16_t)(site - (X86Site *)((char *)s + X86_SITE_OFFSET));
    site->isLogged = 1;
  }
  site->tag = page;
  site->host = e->host;
  if (++site->misses >= siteTrial) {
    const uint64_t now = x86_tsc();
    const uint64_t took = now - site->since;
    site->misses = 0;
    site->since = now;
    if (took < siteCycles) return -1;
  }
  return 1;
}

void x86_sites_drop(X86State *s) {
  X86Translated *t = &s->translated;
  X86Site *sites = (X86Site *)((char *)s + X86_SITE_OFFSET);
  for (uint32_t k = 0; k < t->siteLogCount; k++) {
    X86Site *site = sites + t->siteLog[k];
    site->tag = X86_NO_SITE;
    site->host = 0;
    site->isLogged = 0;
  }
  t->siteLogCount = 0;
}
#pragma clang attribute pop

_Static_assert(sizeof(X86Site) == 32, "layout");

uint64_t x86_vector_mode(const X86State *s) { return vectorMode(s); }

// Never called; holds the routines, so that they can use offsets as operands.
__attribute__((used, noinline)) static void routines(void) {
  __asm__ volatile(
    "  jmp 9f\n"
    // uint64_t x86_translated_enter(state, code)
    ".globl x86_translated_enter\n.type x86_translated_enter,@function\n"
    "x86_translated_enter:\n"
    "  push %%rbx\n  push %%rbp\n  push %%r12\n  push %%r13\n  push %%r14\n  push %%r15\n"
    "  mov %%rsp,%c[stack](%%rdi)\n"
    "  mov %%rdi,%%rsp\n"
    "  mov %%rsi,%%r11\n"
    "  mov (%%rsp),%%rax\n"
    "  mov 8(%%rsp),%%rcx\n"
    "  mov 16(%%rsp),%%rdx\n"
    "  mov 24(%%rsp),%%rbx\n"
    "  mov 32(%%rsp),%%r9\n"
    "  mov 40(%%rsp),%%rbp\n"
    "  mov 48(%%rsp),%%rsi\n"
    "  mov 56(%%rsp),%%rdi\n"
    "  mov 64(%%rsp),%%r8\n"
    "  mov 96(%%rsp),%%r12\n"
    "  mov 104(%%rsp),%%r13\n"
    "  mov 112(%%rsp),%%r14\n"
    "  mov 120(%%rsp),%%r15\n"
    "  jmp *%%r11\n"

    // Left by a fault of the host: the flags of that moment are kept aside.
    ".globl x86_exit_fault\n"
    "x86_exit_fault:\n"
    "  mov %%rax,(%%rsp)\n"
    "  lahf\n  seto %%al\n"
    "  mov %%ax,%c[faultFlags](%%rsp)\n"
    "  mov %[fault],%%r11d\n"
    "  jmp 2f\n"

    // R10: target; R11: result.
    "x86_exit_host:\n"
    "  mov %%rax,(%%rsp)\n"
    "  lahf\n  seto %%al\n"
    "  mov %%ax,%c[flags](%%rsp)\n"
    "  jmp 2f\n"
    "x86_exit_memory:\n"
    "  mov %%rax,(%%rsp)\n"
    "2:\n"
    "  mov %%r10,%c[target](%%rsp)\n"
    "  mov %%rcx,8(%%rsp)\n"
    "  mov %%rdx,16(%%rsp)\n"
    "  mov %%rbx,24(%%rsp)\n"
    "  mov %%r9,32(%%rsp)\n"
    "  mov %%rbp,40(%%rsp)\n"
    "  mov %%rsi,48(%%rsp)\n"
    "  mov %%rdi,56(%%rsp)\n"
    "  mov %%r8,64(%%rsp)\n"
    "  mov %%r12,96(%%rsp)\n"
    "  mov %%r13,104(%%rsp)\n"
    "  mov %%r14,112(%%rsp)\n"
    "  mov %%r15,120(%%rsp)\n"
    "  cmpb $0,%c[loaded](%%rsp)\n"
    "  jne 4f\n"
    "3:\n"
    "  mov %%r11,%%rax\n"
    "  mov %c[stack](%%rsp),%%rsp\n"
    "  pop %%r15\n  pop %%r14\n  pop %%r13\n  pop %%r12\n  pop %%rbp\n  pop %%rbx\n"
    "  ret\n"
    // The vector registers go back to the image. The x87 pointers of this process are none of the guest's business.
    "4:\n"
    "  movb $0,%c[loaded](%%rsp)\n"
    "  mov %c[components](%%rsp),%%eax\n"
    "  xor %%edx,%%edx\n"
    "  mov 4096+8(%%rsp),%%rbx\n"
    "  mov 4096+16(%%rsp),%%rbp\n"
    "  movzwl 4096+6(%%rsp),%%ecx\n"
    "  xsave64 4096(%%rsp)\n"
    "  movq $7,4096+512(%%rsp)\n"
    "  cmpl $0,%c[pointers](%%rsp)\n"
    "  je 5f\n"
    "  mov %%rbx,4096+8(%%rsp)\n"
    "  mov %%rbp,4096+16(%%rsp)\n"
    "  mov %%cx,4096+6(%%rsp)\n"
    "5:\n"
    "  test $4,%%al\n"
    "  jz 6f\n"
    "  vzeroupper\n"
    "6:\n"
    "  fninit\n"
    "  ldmxcsr %c[mxcsr](%%rsp)\n"
    "  jmp 3b\n"

    // A TLB miss: R10 = address - tag, R11 = offset of the entry; flags are free. Returns to try again, or leaves.
    "x86_slow_read:\n"
    "  cmp $4096,%%r10\n"
    "  jb 7f\n"
    "  push %%rdi\n"
    "  mov %c[tlb]+16(%%rsp),%%rdi\n"
    "  add (%%rdi,%%r11),%%r10\n"
    "  pop %%rdi\n"
    "x86_slow_linear_read:\n"
    SAVE_CALLER
    "  xor %%edx,%%edx\n"
    "  jmp 8f\n"
    "x86_slow_write:\n"
    "  cmp $4096,%%r10\n"
    "  jb 7f\n"
    "  push %%rdi\n"
    "  mov %c[tlb]+16(%%rsp),%%rdi\n"
    "  add 8(%%rdi,%%r11),%%r10\n"
    "  pop %%rdi\n"
    "x86_slow_linear_write:\n"
    SAVE_CALLER
    "  mov $1,%%edx\n"
    "8:\n"
    "  mov %%r10,%%rsi\n"
    "  lea 8(%%rsp),%%rdi\n"
    "  sub $8,%%rsp\n"
    "  call x86_tlb_refill\n"
    "  add $8,%%rsp\n"
    "  test %%eax,%%eax\n"
    LOAD_CALLER
    "  jz 7f\n"
    "  ret\n"
    "7:\n"
    "  pop %%r10\n"
    "  mov %%r10,%c[address](%%rsp)\n"
    "  mov %[slow],%%r11d\n"
    "  jmp x86_exit_memory\n"

    // The same for bytes of which some will be written, some only read first: the page must be dirty already.
    "x86_slow_group:\n"
    "  cmp $4096,%%r10\n"
    "  jb 7b\n"
    "  push %%rdi\n"
    "  mov %c[tlb]+16(%%rsp),%%rdi\n"
    "  add 8(%%rdi,%%r11),%%r10\n"
    "  pop %%rdi\n"
    SAVE_CALLER
    "  mov %%r10,%%rsi\n"
    "  lea 8(%%rsp),%%rdi\n"
    "  sub $8,%%rsp\n"
    "  call x86_group_refill\n"
    "  add $8,%%rsp\n"
    "  test %%eax,%%eax\n"
    LOAD_CALLER
    "  jz 7b\n"
    "  ret\n"

    // A site whose last page was another: R10 = address - tag, R11 = the site.
    SITE("read", "0") SITE("write", "1") SITE("group", "2")
    "12:\n"
    "  pop %%r10\n"
    "  mov %%r10,%c[address](%%rsp)\n"
    "  mov %[site],%%r11d\n"
    "  jmp x86_exit_memory\n"

    // The first vector instruction since the registers went to the image.
    "x86_load_vectors:\n"
    SAVE_CALLER
    "  lea 8(%%rsp),%%rdi\n"
    "  sub $8,%%rsp\n"
    "  call x86_vectors_loadable\n"
    "  add $8,%%rsp\n"
    "  test %%eax,%%eax\n"
    "  jz 10f\n"
    "11:\n"
    "  mov %%al,%c[loaded]+8(%%rsp)\n"
    "  mov %c[components]+8(%%rsp),%%eax\n"
    "  xor %%edx,%%edx\n"
    "  stmxcsr %c[mxcsr]+8(%%rsp)\n"
    "  xrstor64 4096+8(%%rsp)\n"
    LOAD_CALLER
    "  ret\n"
    "10:\n"
    LOAD_CALLER
    "  jmp 7b\n"
    "x86_load_x87:\n"
    // Loaded, but not fit for x87: the interpreter.
    "  cmpb $0,%c[loaded]+8(%%rsp)\n"
    "  jne 7b\n"
    SAVE_CALLER
    "  lea 8(%%rsp),%%rdi\n"
    "  sub $8,%%rsp\n"
    "  call x86_vectors_loadable\n"
    "  add $8,%%rsp\n"
    "  cmp $3,%%eax\n"
    "  je 11b\n"
    "  jmp 10b\n"
    "9:\n"
    :
    : [stack] "i"(offsetStack), [target] "i"(offsetTarget), [address] "i"(offsetAddress),
      [flags] "i"(offsetFlags), [faultFlags] "i"(offsetFaultFlags), [loaded] "i"(offsetLoaded),
      [components] "i"(offsetComponents), [pointers] "i"(offsetPointers), [mxcsr] "i"(offsetMXCSR),
      [tlb] "i"(offsetTLB), [fault] "i"(x86ExitFault), [slow] "i"(x86ExitSlow), [site] "i"(x86ExitSite));
}

void x86_translated_prepare(void *state) {
  X86State *s = state;
  X86Translated *t = &s->translated;
  t->exitHost = (uint64_t)x86_exit_host;
  t->exitMemory = (uint64_t)x86_exit_memory;
  t->slowRead = (uint64_t)x86_slow_read;
  t->slowWrite = (uint64_t)x86_slow_write;
  t->slowLinearRead = (uint64_t)x86_slow_linear_read;
  t->slowLinearWrite = (uint64_t)x86_slow_linear_write;
  t->slowGroup = (uint64_t)x86_slow_group;
  t->siteRead = (uint64_t)x86_site_read;
  t->siteWrite = (uint64_t)x86_site_write;
  t->siteGroup = (uint64_t)x86_site_group;
  X86Site *sites = (X86Site *)((char *)state + X86_SITE_OFFSET);
  for (int k = 0; k < 2 * X86_SITES; k++) sites[k] = (X86Site){X86_NO_SITE, 0, 0, 0, 0};
  t->siteLogCount = 0;
  t->loadVectors = (uint64_t)x86_load_vectors;
  t->loadX87 = (uint64_t)x86_load_x87;
  t->fastInside = (uint64_t)x86_fast_call_inside;
  t->fastAway = (uint64_t)x86_fast_call_away;
  struct x86_cpuid_answer leaf = x86_host_cpuid(1, 0);
  int saves = leaf.ecx >> 27 & 1;
  uint32_t low = 3, high = 0;
  if (saves) __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  t->vectorComponents = low & 7;
  t->savesPointers = (uint32_t)x86_saves_x87_pointers();
}
