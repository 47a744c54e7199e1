// Programs that live in the kernel: system calls, processes, page faults, pipes, files. Files are in /dev/shm, memory on both sides.
#define _GNU_SOURCE
#include "bench.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static uint64_t syscalls(double scale) {
  uint64_t hash = 0;
  uint8_t byte = 1;
  int null = open("/dev/null", O_WRONLY);
  if (null < 0) give_up("/dev/null");
  for (uint64_t r = rounds(scale, 350000); r; r--) {
    hash += (uint64_t)(syscall(SYS_getppid) > 0);
    hash += (uint64_t)write(null, &byte, 1);
  }
  close(null);
  return hash;
}

static uint64_t wait_for(pid_t child) {
  int status = 0;
  if (child < 0) give_up("fork");
  if (waitpid(child, &status, 0) != child) give_up("waitpid");
  return WIFEXITED(status) ? (uint64_t)WEXITSTATUS(status) : 999;
}

// The parent has a megabyte of touched memory, of which each child writes a part.
static uint64_t fork_exit(double scale) {
  enum { memory = 1 << 20 };
  uint8_t *data = pages(memory);
  memset(data, 1, memory);
  uint64_t hash = 0;
  for (uint64_t r = rounds(scale, 500); r; r--) {
    pid_t child = fork();
    if (child == 0) {
      for (size_t i = 0; i < memory; i += 32768) data[i] = (uint8_t)r;
      _exit((int)(r & 63));
    }
    hash = fold(hash, wait_for(child) + 1);
  }
  return hash;
}

static uint64_t fork_exec(double scale) {
  uint64_t hash = 0;
  int null = open("/dev/null", O_WRONLY);
  if (null < 0) give_up("/dev/null");
  for (uint64_t r = rounds(scale, 250); r; r--) {
    pid_t child = fork();
    if (child == 0) {
      dup2(null, 1);
      execl("/proc/self/exe", "bench", "nothing", "1", (char *)NULL);
      _exit(127);
    }
    hash = fold(hash, wait_for(child) + 1);
  }
  return hash;
}

// First touches of anonymous memory, then protection changes that fault again.
static uint64_t pagefault(double scale) {
  enum { memory = 8 << 20 };
  uint64_t hash = 0;
  for (uint64_t r = rounds(scale, 24); r; r--) {
    uint8_t *data = pages(memory);
    madvise(data, memory, MADV_NOHUGEPAGE);
    for (size_t i = 0; i < memory; i += 4096) data[i] = (uint8_t)(i >> 12);
    if (mprotect(data, memory, PROT_READ)) give_up("mprotect");
    for (size_t i = 0; i < memory; i += 4096) hash += data[i];
    munmap(data, memory);
  }
  return hash;
}

// A byte to a child and back: two context switches a round.
static uint64_t pipe_pingpong(double scale) {
  int there[2], back[2];
  if (pipe(there) || pipe(back)) give_up("pipe");
  uint64_t count = rounds(scale, 20000), hash = 0;
  pid_t child = fork();
  if (child == 0) {
    uint8_t byte;
    close(there[1]);
    while (read(there[0], &byte, 1) == 1) {
      byte ^= 0x5A;
      if (write(back[1], &byte, 1) != 1) _exit(1);
    }
    _exit(0);
  }
  for (uint64_t r = 0; r < count; r++) {
    uint8_t byte = (uint8_t)r;
    if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1) give_up("pipe");
    hash = fold(hash, byte);
  }
  close(there[1]);
  return fold(hash, wait_for(child));
}

static uint64_t file_copy(double scale) {
  enum { chunk = 16 << 10, chunks = 256 };
  char from[64], to[64];
  snprintf(from, sizeof from, "/dev/shm/bench-a-%d", (int)getpid());
  snprintf(to, sizeof to, "/dev/shm/bench-b-%d", (int)getpid());
  uint8_t *buffer = pages(chunk);
  uint64_t seed = 23, hash = 0;
  int a = open(from, O_RDWR | O_CREAT | O_TRUNC, 0600);
  if (a < 0) give_up(from);
  for (int i = 0; i < chunks; i++) {
    for (size_t j = 0; j < chunk; j += 8) {
      uint64_t word = next_random(&seed);
      memcpy(buffer + j, &word, 8);
    }
    if (write(a, buffer, chunk) != chunk) give_up("write");
  }
  for (uint64_t r = rounds(scale, 50); r; r--) {
    int b = open(to, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (b < 0) give_up(to);
    lseek(a, 0, SEEK_SET);
    for (;;) {
      ssize_t n = read(a, buffer, chunk);
      if (n <= 0) break;
      if (write(b, buffer, (size_t)n) != n) give_up("write");
      hash = fold(hash, buffer[r % chunk]);
    }
    close(b);
  }
  close(a);
  unlink(from);
  unlink(to);
  return hash;
}

const struct program system_programs[] = {
    {"syscall", "system", syscalls},   {"fork", "system", fork_exit},         {"fork_exec", "system", fork_exec},
    {"pagefault", "system", pagefault}, {"pipe", "system", pipe_pingpong}, {"file_copy", "system", file_copy},
    {0}};
