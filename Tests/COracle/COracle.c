#define _GNU_SOURCE
#include "COracle.h"

#include <cpuid.h>
#include <errno.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

struct OracleProcess {
  size_t capacity;
  size_t bytes;
  uint8_t *shared;
  volatile uint64_t *progress;
  int writableCode;
  int toChild, fromChild;
  pid_t child;
};

#define HEADER 4096

OracleCase *oracle_cases(OracleProcess *p) {
  return (OracleCase *)(p->shared + HEADER + ORACLE_DATA_BYTES);
}
uint8_t *oracle_data(OracleProcess *p) { return p->shared + HEADER; }

const uint8_t *oracle_result_data(OracleProcess *p, size_t index) {
  return oracle_cases(p)[index].data;
}

const uint8_t *oracle_result_code(OracleProcess *p, size_t index) {
  return oracle_cases(p)[index].codeAfter;
}

char *oracle_report_text(OracleReport *report) { return report->text; }

void oracle_flush(void) { fflush(stdout); }

uint64_t oracle_components(void) {
  uint32_t a, b, c, d;
  __cpuid(1, a, b, c, d);
  if (!(c & bit_OSXSAVE)) return 3;
  __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
  return ((uint64_t)d << 32 | a) & 7;
}

// In the child.

static OracleCase *current;
static uint64_t components;
/// A snippet runs; how many did before it.
static volatile int isInside;
static volatile uint64_t ticket;

uint64_t oracle_target = ORACLE_CODE;

void oracle_enter(OracleCase *c, uint64_t mask);
extern const char oracle_leave[];

// Saves the callee's registers, loads everything from the case, jumps to the code. The signal handler comes back to oracle_leave.
__asm__(
  ".text\n"
  ".type oracle_enter,@function\n"
  "oracle_enter:\n"
  "  push %rbx\n  push %rbp\n  push %r12\n  push %r13\n  push %r14\n  push %r15\n"
  "  mov %rsp,oracle_saved_rsp(%rip)\n"
  "  fld1\n  fninit\n"
  "  mov %esi,%eax\n"
  "  xor %edx,%edx\n"
  "  xrstor64 192(%rdi)\n"
  "  pushq 136(%rdi)\n"
  "  popfq\n"
  "  mov 0(%rdi),%rax\n  mov 8(%rdi),%rcx\n  mov 16(%rdi),%rdx\n  mov 24(%rdi),%rbx\n"
  "  mov 32(%rdi),%rsp\n  mov 40(%rdi),%rbp\n  mov 48(%rdi),%rsi\n"
  "  mov 64(%rdi),%r8\n  mov 72(%rdi),%r9\n  mov 80(%rdi),%r10\n  mov 88(%rdi),%r11\n"
  "  mov 96(%rdi),%r12\n  mov 104(%rdi),%r13\n  mov 112(%rdi),%r14\n  mov 120(%rdi),%r15\n"
  "  mov 56(%rdi),%rdi\n"
  "  jmp *oracle_target(%rip)\n"
  "oracle_leave:\n"
  "  mov oracle_saved_rsp(%rip),%rsp\n"
  "  pop %r15\n  pop %r14\n  pop %r13\n  pop %r12\n  pop %rbp\n  pop %rbx\n"
  "  cld\n"
  "  fninit\n"
  "  ret\n"
  ".size oracle_enter,.-oracle_enter\n"
  ".data\n"
  "oracle_saved_rsp: .quad 0\n"
  ".text\n");

_Static_assert(offsetof(OracleCase, before.rflags) == 136, "layout");
_Static_assert(offsetof(OracleCase, before.xsave) == 192, "layout");
_Static_assert(sizeof(OracleRegisters) % 64 == 0, "layout");
_Static_assert(sizeof(OracleCase) % 64 == 0, "layout");

static void finish(int number, siginfo_t *info, void *opaque) {
  (void)info;
  ucontext_t *context = opaque;
  greg_t *g = context->uc_mcontext.gregs;
  isInside = 0;
  static const int order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
  OracleRegisters *after = &current->after;
  for (int i = 0; i < 16; i++) after->gpr[i] = (uint64_t)g[order[i]];
  after->rip = (uint64_t)g[REG_RIP];
  after->rflags = (uint64_t)g[REG_EFL];
  after->vector = number == SIGVTALRM || number == SIGALRM ? ORACLE_ENDLESS : (uint64_t)g[REG_TRAPNO];
  after->error = (uint64_t)g[REG_ERR];
  after->cr2 = (uint64_t)g[REG_CR2];
  uint8_t *area = (uint8_t *)context->uc_mcontext.fpregs;
  uint64_t present = 3;
  uint32_t magic;
  memset(after->xsave, 0, sizeof after->xsave);
  memcpy(&magic, area + 464, 4);
  if (magic == 0x46505853) {
    memcpy(&present, area + 512, 8);
    if (present & 4) memcpy(after->xsave + 576, area + 576, 256);
  }
  memcpy(after->xsave + 24, area + 24, 8);
  if (present & 1) {
    memcpy(after->xsave, area, 24);
    memcpy(after->xsave + 32, area + 32, 128);
  } else {
    after->xsave[0] = 0x7F;
    after->xsave[1] = 3;
  }
  if (present & 2) memcpy(after->xsave + 160, area + 160, 256);
  // Go back with a clean state.
  g[REG_RIP] = (greg_t)oracle_leave;
  g[REG_EFL] = 0x202;
  uint32_t mxcsr = 0x1F80;
  memcpy(area + 24, &mxcsr, 4);
  area[0] = 0x7F;
  area[1] = 3;
  area[2] = 0;
  area[3] = 0;
}

/// Ends a snippet that was already running a few ticks before: of its own time, or of the clock (it may wait in the kernel).
static void tick(int number, siginfo_t *info, void *opaque) {
  static uint64_t seen[2];
  static int count[2];
  int kind = number == SIGALRM;
  if (!isInside) return;
  if (seen[kind] != ticket) {
    seen[kind] = ticket;
    count[kind] = 0;
  }
  if (++count[kind] > (kind ? 5 : 1)) finish(number, info, opaque);
}

static int install(void) {
  static uint8_t stack[1 << 16];
  stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
  if (sigaltstack(&alternate, NULL) != 0) return -1;
  static const int numbers[] = {SIGSEGV, SIGFPE, SIGILL, SIGBUS, SIGTRAP};
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = finish;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaddset(&action.sa_mask, SIGVTALRM);
    sigaddset(&action.sa_mask, SIGALRM);
    if (sigaction(numbers[i], &action, NULL) != 0) return -1;
  }
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_sigaction = tick;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
  sigaddset(&action.sa_mask, SIGVTALRM);
  sigaddset(&action.sa_mask, SIGALRM);
  if (sigaction(SIGVTALRM, &action, NULL) != 0 || sigaction(SIGALRM, &action, NULL) != 0) return -1;
  struct itimerval interval = {.it_interval = {.tv_usec = 10000}, .it_value = {.tv_usec = 10000}};
  if (setitimer(ITIMER_VIRTUAL, &interval, NULL) != 0) return -1;
  interval.it_interval.tv_usec = interval.it_value.tv_usec = 100000;
  return setitimer(ITIMER_REAL, &interval, NULL);
}

static void child(OracleProcess *p, int in, int out) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  components = oracle_components();
  // The snippets see their own code as the guest's do: readable and executable. It is written through a second mapping.
  int file = memfd_create("oracle-code", MFD_CLOEXEC);
  if (file < 0 || ftruncate(file, ORACLE_CODE_SPACE) != 0) _exit(1);
  int rights = PROT_READ | PROT_EXEC | (p->writableCode ? PROT_WRITE : 0);
  uint8_t *code = mmap((void *)ORACLE_CODE, ORACLE_CODE_SPACE, rights, MAP_SHARED | MAP_FIXED_NOREPLACE, file, 0);
  uint8_t *alias = mmap(NULL, ORACLE_CODE_SPACE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (alias == MAP_FAILED) _exit(1);
  uint8_t *data = mmap((void *)ORACLE_DATA, ORACLE_DATA_BYTES, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  if (code != (void *)ORACLE_CODE || data != (void *)ORACLE_DATA || install() != 0) _exit(1);
  size_t writable = ORACLE_DATA_BYTES - 4096;
  memcpy(data, oracle_data(p), ORACLE_DATA_BYTES);
  if (mprotect(data + writable, 4096, PROT_READ) != 0) _exit(1);
  // Code that goes anywhere may find a SYSCALL: only read, write and sigreturn are left to it.
  if (p->writableCode && prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) != 0) _exit(1);
  uint32_t count;
  while (read(in, &count, 4) == 4) {
    for (uint32_t i = 0; i < count; i++) {
      *p->progress = i;
      current = &oracle_cases(p)[i];
      memcpy(data, oracle_data(p), writable);
      memset(alias, 0xCC, ORACLE_CODE_SPACE);
      memcpy(alias + current->offset, current->code, current->length);
      oracle_target = ORACLE_CODE + current->offset;
      // Code written at another linear address needs a serialising instruction (Intel SDM vol. 3A, 8.1.3).
      unsigned a, b, c, d;
      __get_cpuid(0, &a, &b, &c, &d);
      ticket++;
      isInside = 1;
      oracle_enter(current, components);
      if (p->writableCode) memcpy(current->codeAfter, alias, ORACLE_CODE_SPACE);
      memcpy(current->data, data, writable);
      memcpy(current->data + writable, oracle_data(p) + writable, 4096);
    }
    if (write(out, &count, 4) != 4) break;
  }
  _exit(0);
}

OracleProcess *oracle_start(size_t capacity, int writableCode) {
  OracleProcess *p = calloc(1, sizeof *p);
  if (!p) return NULL;
  p->capacity = capacity;
  p->writableCode = writableCode;
  p->bytes = HEADER + ORACLE_DATA_BYTES + capacity * sizeof(OracleCase);
  p->bytes = (p->bytes + 4095) & ~(size_t)4095;
  p->shared = mmap(NULL, p->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  int down[2], up[2];
  if (p->shared == MAP_FAILED || pipe(down) != 0 || pipe(up) != 0) {
    free(p);
    return NULL;
  }
  p->progress = (volatile uint64_t *)p->shared;
  // The data pages are filled before the first run; the read-only page is copied at the child's start.
  uint64_t seed = 0x9E3779B97F4A7C15ull;
  for (size_t i = 0; i < ORACLE_DATA_BYTES; i += 8) {
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    memcpy(oracle_data(p) + i, &seed, 8);
  }
  // Counters of loops.
  memset(oracle_data(p) + 128, 0, 32);
  p->child = fork();
  if (p->child == 0) {
    close(down[1]);
    close(up[0]);
    child(p, down[0], up[1]);
  }
  close(down[0]);
  close(up[1]);
  p->toChild = down[1];
  p->fromChild = up[0];
  if (p->child < 0) {
    oracle_stop(p);
    return NULL;
  }
  return p;
}

int oracle_run(OracleProcess *p, size_t count) {
  uint32_t number = (uint32_t)count;
  if (write(p->toChild, &number, 4) != 4) return 1;
  struct pollfd descriptor = {.fd = p->fromChild, .events = POLLIN};
  int ready;
  do ready = poll(&descriptor, 1, 30000);
  while (ready < 0 && errno == EINTR);
  if (ready == 1 && read(p->fromChild, &number, 4) == 4) return 0;
  return 1 + (int)*p->progress;
}

void oracle_stop(OracleProcess *p) {
  close(p->toChild);
  close(p->fromChild);
  if (p->child > 0) {
    kill(p->child, SIGKILL);
    waitpid(p->child, NULL, 0);
  }
  munmap(p->shared, p->bytes);
  free(p);
}

OracleReport *oracle_report(void) {
  static OracleReport *report;
  if (!report) {
    void *memory = mmap(NULL, sizeof *report, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return NULL;
    report = memory;
  }
  return report;
}

int oracle_isolate(void (*body)(void *), void *context, unsigned seconds) {
  OracleReport *report = oracle_report();
  if (!report) return -1;
  memset(report, 0, offsetof(OracleReport, text) + 1);
  pid_t child = fork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    alarm(seconds);
    // A crash is told by the status, without a backtrace.
    static const int numbers[] = {SIGSEGV, SIGFPE, SIGILL, SIGBUS, SIGTRAP, SIGABRT};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) signal(numbers[i], SIG_DFL);
    body(context);
    _exit(0);
  }
  int status;
  if (child < 0) return -1;
  while (waitpid(child, &status, 0) < 0)
    if (errno != EINTR) return -1;
  return status;
}
