#include "CX86.h"

// Translated code calls these with RSP = address of the X86State, less the return address; see CX86Translated.c for its registers.
// The C functions touch general registers only, and may look at all of the guest's.
enum {
  offsetRIP = offsetof(X86State, rip),
  offsetTarget = offsetof(X86State, translated.spill[2]),
  offsetWord = offsetof(X86State, translated.spill[3]),
  offsetExit = offsetof(X86State, translated.exitMemory),
};

#define SAVE                   \
  "  mov %%rax,8(%%rsp)\n"     \
  "  mov %%rcx,16(%%rsp)\n"    \
  "  mov %%rdx,24(%%rsp)\n"    \
  "  mov %%rbx,32(%%rsp)\n"    \
  "  mov %%r9,40(%%rsp)\n"     \
  "  mov %%rbp,48(%%rsp)\n"    \
  "  mov %%rsi,56(%%rsp)\n"    \
  "  mov %%rdi,64(%%rsp)\n"    \
  "  mov %%r8,72(%%rsp)\n"     \
  "  mov %%r12,104(%%rsp)\n"   \
  "  mov %%r13,112(%%rsp)\n"   \
  "  mov %%r14,120(%%rsp)\n"   \
  "  mov %%r15,128(%%rsp)\n"
#define LOAD                   \
  "  mov 8(%%rsp),%%rax\n"     \
  "  mov 16(%%rsp),%%rcx\n"    \
  "  mov 24(%%rsp),%%rdx\n"    \
  "  mov 32(%%rsp),%%rbx\n"    \
  "  mov 40(%%rsp),%%r9\n"     \
  "  mov 48(%%rsp),%%rbp\n"    \
  "  mov 56(%%rsp),%%rsi\n"    \
  "  mov 64(%%rsp),%%rdi\n"    \
  "  mov 72(%%rsp),%%r8\n"     \
  "  mov 104(%%rsp),%%r12\n"   \
  "  mov 112(%%rsp),%%r13\n"   \
  "  mov 120(%%rsp),%%r14\n"   \
  "  mov 128(%%rsp),%%r15\n"
#define CALL(function)               \
  SAVE                               \
  "  mov %%r10,%c[rip]+8(%%rsp)\n"   \
  "  mov %%r11,%c[word]+8(%%rsp)\n"  \
  "  lea 8(%%rsp),%%rdi\n"           \
  "  mov %%r11d,%%esi\n"             \
  "  sub $8,%%rsp\n"                 \
  "  call " function "\n"            \
  "  add $8,%%rsp\n"

// Never called; holds the routines, so that they can use offsets as operands.
__attribute__((used, noinline)) static void routines(void) {
  __asm__ volatile(
    "  jmp 9f\n"
    ".globl x86_fast_call_inside\n"
    "x86_fast_call_inside:\n"
    CALL("x86_fast_inside")
    "  test %%eax,%%eax\n"
    LOAD
    "  jz 1f\n"
    "  ret\n"

    ".globl x86_fast_call_away\n"
    "x86_fast_call_away:\n"
    CALL("x86_fast_away")
    "  test %%rax,%%rax\n"
    "  mov %%rax,%c[target]+8(%%rsp)\n"
    LOAD
    "  mov %c[rip]+8(%%rsp),%%r10\n"
    "  lea 8(%%rsp),%%rsp\n"
    "  jz 2f\n"
    "  jmp *%c[target](%%rsp)\n"

    // The interpreter's: back to the instruction itself.
    "1:\n"
    "  pop %%r10\n"
    "2:\n"
    "  mov %c[rip](%%rsp),%%r10\n"
    "  movzbl %c[word]+3(%%rsp),%%r11d\n"
    "  sub %%r11,%%r10\n"
    "  mov %[interpret],%%r11d\n"
    "  jmp *%c[exit](%%rsp)\n"
    "9:\n"
    :
    : [rip] "i"(offsetRIP), [target] "i"(offsetTarget), [word] "i"(offsetWord),
      [exit] "i"(offsetExit), [interpret] "i"(x86ExitInterpret));
}
