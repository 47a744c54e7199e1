// Sleeping until a vCPU has taken what others asked of it: for threads of this process and of others that map the mailbox.
#define _GNU_SOURCE
#include "CX86.h"

#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

void x86_mailbox_wake(X86Mailbox *m) {
  __atomic_fetch_add(&m->progress, 1, __ATOMIC_SEQ_CST);
  syscall(SYS_futex, &m->progress, FUTEX_WAKE, INT_MAX, 0, 0, 0);
}

void x86_mailbox_wait(X86Mailbox *m, uint64_t number) {
  // A vCPU whose process dies wakes nobody.
  const struct timespec limit = {0, 1000000};
  uint32_t seen = __atomic_load_n(&m->progress, __ATOMIC_SEQ_CST);
  __atomic_fetch_add(&m->sleepers, 1, __ATOMIC_SEQ_CST);
  if (x86_is_executing(m) && x86_mailbox_taken(m) < number) {
    syscall(SYS_futex, &m->progress, FUTEX_WAIT, seen, &limit, 0, 0);
  }
  __atomic_fetch_sub(&m->sleepers, 1, __ATOMIC_SEQ_CST);
}
