// Linux interfaces that Swift's Glibc module does not export. No policy; failures are -errno.
#pragma once
// _GNU_SOURCE stays undefined here: it would change types (fd_set) that Swift's Glibc module has already imported.
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>
#include <linux/futex.h>

/// Sleeps while *word == expected, at most `nanoseconds` (negative: for ever). 0 or -errno.
int goliath_futex_wait(const void *word, uint32_t expected, int64_t nanoseconds);

/// Wakes at most `count` sleepers on `word`.
void goliath_futex_wake(const void *word, int count);

/// An anonymous memory file, sealable. A descriptor or -errno.
int goliath_memfd(const char *name);

/// Names the calling thread (at most 15 bytes). 0 or -errno.
int goliath_set_thread_name(const char *name);

/// The calling thread's kernel id.
int64_t goliath_thread_id(void);

static inline uint64_t goliath_rdtsc(void) { return __builtin_ia32_rdtsc(); }

/// Installs an empty handler for `signal` (no SA_RESTART), so that it interrupts system calls and does no more.
int goliath_install_kick_handler(int signal);

/// Forks. In the child: a new session, and *ready is the descriptor to write the status byte to; 0.
/// In the parent: waits for that byte and does not return (exit status: the byte, or 1 if the child died first).
/// -errno when there is no child. Only before any thread was made.
int goliath_daemonize(int *ready);
