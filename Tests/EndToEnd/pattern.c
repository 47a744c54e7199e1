// Writes a disk, or several the same, and checks all the time that what it wrote is there: pattern THREADS BLOCKS LOG DEVICE...
//
// Each thread has BLOCKS blocks of 4 KiB, three blocks apart. Step `s` of thread `t` takes block `place(t, s)`: it must hold what the last
// step there wrote; then the new contents go to each device in turn. So whoever sees the disks later can tell which step each thread had
// reached, and whether all of its steps up to there and none of the later ones are there (diskload.py does).
//
// LOG gets "FLUSHED t s" when all up to step `s` has been flushed, "MISMATCH ..." and "ERROR ..." when something is wrong, and "END t s"
// after SIGTERM, when everything is written and flushed. A failed access ends the program with status 1.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 4096, STRIDE = 3 * BLOCK, WORDS = BLOCK / 32 };
static const uint64_t magic = 0x4e52455454415021u;

static int log_file, device_count;
static uint64_t blocks;
static char **devices;
static volatile sig_atomic_t is_over;

static void stop(int number) {
  (void)number;
  is_over = 1;
}

static uint64_t place(uint64_t thread, uint64_t step) {
  uint64_t x = step * 0x9E3779B97F4A7C15u + thread * 0xD1B54A32D192ED03u;
  x ^= x >> 29;
  x *= 0xBF58476D1CE4E5B9u;
  x ^= x >> 32;
  return x % blocks;
}

static void say(const char *word, uint64_t thread, uint64_t step, uint64_t third) {
  char line[100];
  int count = snprintf(line, sizeof line, "%s %s %llu %llu %llu\n", word, devices[0], (unsigned long long)thread,
                       (unsigned long long)step, (unsigned long long)third);
  if (write(log_file, line, (size_t)count) != count) _exit(2);
}

static void contents(uint64_t *buffer, uint64_t thread, uint64_t block, uint64_t step) {
  for (int i = 0; i < WORDS; i++, buffer += 4) {
    buffer[0] = step ? magic : 0;
    buffer[1] = step ? thread << 32 | block : 0;
    buffer[2] = step;
    buffer[3] = step ? ~step : 0;
  }
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void *work(void *argument) {
  uint64_t thread = (uint64_t)(uintptr_t)argument, *last = calloc(blocks, sizeof *last), *wanted, *found;
  int files[8];
  if (!last || posix_memalign((void **)&wanted, BLOCK, BLOCK) || posix_memalign((void **)&found, BLOCK, BLOCK)) _exit(2);
  for (int i = 0; i < device_count; i++) {
    files[i] = open(devices[i], O_RDWR | O_DIRECT);
    if (files[i] < 0) {
      say("ERROR-open", thread, 0, (uint64_t)errno);
      _exit(1);
    }
  }
  double flushed = now();
  for (uint64_t step = 1;; step++) {
    uint64_t block = place(thread, step);
    off_t offset = (off_t)((thread * blocks + block) * STRIDE);
    if (pread(files[step % (uint64_t)device_count], found, BLOCK, offset) != BLOCK) {
      say("ERROR-read", thread, step, (uint64_t)errno);
      _exit(1);
    }
    contents(wanted, thread, block, last[block]);
    if (memcmp(wanted, found, BLOCK)) say("MISMATCH", thread, step, found[2]);
    contents(wanted, thread, block, step);
    for (int i = 0; i < device_count; i++)
      if (pwrite(files[i], wanted, BLOCK, offset) != BLOCK) {
        say("ERROR-write", thread, step, (uint64_t)errno);
        _exit(1);
      }
    last[block] = step;
    int ends = is_over;
    if (!ends && now() - flushed < 0.1) continue;
    for (int i = 0; i < device_count; i++)
      if (fdatasync(files[i])) {
        say("ERROR-flush", thread, step, (uint64_t)errno);
        _exit(1);
      }
    say(ends ? "END" : "FLUSHED", thread, step, 0);
    flushed = now();
    if (ends) return NULL;
  }
}

int main(int argc, char **argv) {
  pthread_t handles[16];
  if (argc < 5 || argc > 12) return 2;
  int threads = atoi(argv[1]);
  blocks = strtoull(argv[2], NULL, 10);
  log_file = open(argv[3], O_WRONLY | O_APPEND | O_NOCTTY);
  devices = argv + 4;
  device_count = argc - 4;
  if (log_file < 0 || threads < 1 || threads > 16 || !blocks) return 2;
  signal(SIGTERM, stop);
  for (int i = 0; i < threads; i++) pthread_create(&handles[i], NULL, work, (void *)(uintptr_t)i);
  for (int i = 0; i < threads; i++) pthread_join(handles[i], NULL);
  return 0;
}
