#define _GNU_SOURCE
#include "CX86.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

_Static_assert(sizeof(X86State) <= X86_NATIVE_OFFSET, "layout");
_Static_assert(offsetof(X86State, flags) == x86OffsetFlags, "layout");
_Static_assert(x86OffsetXSAVE == X86_XSAVE_OFFSET, "layout");

#define TEXT(x) #x
#define VALUE(x) TEXT(x)

// x86_native_enter(state, memory, stub): the stub gets RDI = state, RSI = memory, may use RAX, RBX, RCX, RDX, RBP and all
// vector and x87 registers, and returns a vector in AL. The abort path starts from wherever a signal stopped the stub.
__asm__(
  ".text\n"
  ".type x86_native_enter,@function\n"
  "x86_native_enter:\n"
  "  push %rbx\n"
  "  push %rbp\n"
  "  sub $8,%rsp\n"
  "  mov %rsp," VALUE(X86_NATIVE_OFFSET) "(%rdi)\n"
  "  stmxcsr " VALUE(X86_NATIVE_OFFSET) "+8(%rdi)\n"
  "  call *%rdx\n"
  "1:\n"
  "  add $8,%rsp\n"
  "  pop %rbp\n"
  "  pop %rbx\n"
  "  ret\n"
  "x86_native_abort:\n"
  "  mov " VALUE(X86_NATIVE_OFFSET) "(%rdi),%rsp\n"
  "  ldmxcsr " VALUE(X86_NATIVE_OFFSET) "+8(%rdi)\n"
  "  fninit\n"
  "  cld\n"
  "  jmp 1b\n"
  ".size x86_native_enter,.-x86_native_enter\n");

uint8_t x86_native_enter(void *state, void *memory, uint64_t stub);
extern const char x86_native_abort[];

static uintptr_t stubsStart, stubsSize;
static __thread void *currentState;
/// The vCPU whose translated code this thread runs.
static __thread X86State *translatedState;
extern const char x86_exit_fault[];

void x86_translated_thread(void *state) { translatedState = state; }

uint8_t x86_native_run(void *state, uint64_t stub, void *memory) {
  currentState = state;
  return x86_native_enter(state, memory, stub);
}

static const int signals[] = {SIGILL, SIGFPE, SIGSEGV, SIGBUS, SIGTRAP};
static struct sigaction previous[sizeof signals / sizeof *signals];

static void handle(int number, siginfo_t *info, void *opaque) {
  ucontext_t *context = opaque;
  greg_t *registers = context->uc_mcontext.gregs;
  X86State *running = translatedState;
  if (running &&
      (uintptr_t)registers[REG_RIP] - running->translated.codeStart < running->translated.codeSize) {
    // An instruction of the guest's that the host refuses: the interpreter finds out why.
    running->translated.exitAddress = (uint64_t)registers[REG_RIP];
    registers[REG_RIP] = (greg_t)x86_exit_fault;
    return;
  }
  if ((uintptr_t)registers[REG_RIP] - stubsStart < stubsSize) {
    char *state = currentState;
    uint8_t vector = number == SIGILL ? 6 : number == SIGFPE ? 19 : 13;
    // The exception's flags are in MXCSR; the guest sees them.
    if (number == SIGFPE)
      memcpy(state + X86_XSAVE_OFFSET + 24, &context->uc_mcontext.fpregs->mxcsr, 4);
    registers[REG_RAX] = vector;
    registers[REG_RDI] = (greg_t)state;
    registers[REG_RIP] = (greg_t)x86_native_abort;
    return;
  }
  for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
    if (signals[i] != number) continue;
    struct sigaction *action = &previous[i];
    if (action->sa_flags & SA_SIGINFO) {
      action->sa_sigaction(number, info, opaque);
    } else if (action->sa_handler == SIG_DFL || action->sa_handler == SIG_IGN) {
      // The instruction runs again and meets the default.
      signal(number, SIG_DFL);
      if (info->si_code <= 0) raise(number);
    } else {
      action->sa_handler(number);
    }
    return;
  }
}

int x86_native_install(const void *start, size_t size) {
  stubsStart = (uintptr_t)start;
  stubsSize = size;
  for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = handle;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    if (sigaction(signals[i], &action, &previous[i]) != 0) return -errno;
  }
  return 0;
}

int x86_stubs_map(size_t size, void **writable, void **executable) {
  int fd = memfd_create("goliath-stubs", MFD_CLOEXEC);
  if (fd < 0) return -errno;
  int error = 0;
  void *rw = MAP_FAILED, *rx = MAP_FAILED;
  if (ftruncate(fd, (off_t)size) != 0) error = -errno;
  if (!error) {
    rw = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (rw == MAP_FAILED) error = -errno;
  }
  if (!error) {
    rx = mmap(NULL, size, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    if (rx == MAP_FAILED) {
      error = -errno;
      munmap(rw, size);
    }
  }
  close(fd);
  if (error) return error;
  *writable = rw;
  *executable = rx;
  return 0;
}

void x86_serialize(void) {
  uint32_t out[4];
  x86_cpuid(0, 0, out);
}

int x86_saves_x87_pointers(void) {
  uint8_t image[512] __attribute__((aligned(16)));
  uint64_t pointer;
  memset(image, 0, sizeof image);
  __asm__ volatile("fninit\n\tfld1\n\tfxsave64 %0\n\tfninit" : "+m"(image));
  memcpy(&pointer, image + 8, 8);
  return pointer != 0;
}
