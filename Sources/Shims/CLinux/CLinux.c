#define _GNU_SOURCE 1
#include "CLinux.h"

#include <fcntl.h>

int goliath_futex_wait(const void *word, uint32_t expected, int64_t nanoseconds) {
  struct timespec t = {nanoseconds / 1000000000, nanoseconds % 1000000000};
  long r = syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, nanoseconds < 0 ? 0 : &t, 0, 0);
  return r < 0 ? -errno : 0;
}

void goliath_futex_wake(const void *word, int count) {
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, 0, 0, 0);
}

int goliath_memfd(const char *name) {
  int r = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
  return r < 0 ? -errno : r;
}

int goliath_set_thread_name(const char *name) { return -pthread_setname_np(pthread_self(), name); }

int64_t goliath_thread_id(void) { return syscall(SYS_gettid); }

static void ignore(int signal) { (void)signal; }

int goliath_install_kick_handler(int signal) {
  struct sigaction action = {.sa_handler = ignore};
  sigemptyset(&action.sa_mask);
  return sigaction(signal, &action, 0) < 0 ? -errno : 0;
}

int goliath_daemonize(int *ready) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) < 0) return -errno;
  pid_t child = fork();
  if (child < 0) return -errno;
  if (child > 0) {
    unsigned char status = 1;
    close(ends[1]);
    ssize_t n;
    do n = read(ends[0], &status, 1);
    while (n < 0 && errno == EINTR);
    _exit(n == 1 ? status : 1);
  }
  close(ends[0]);
  setsid();
  *ready = ends[1];
  return 0;
}
