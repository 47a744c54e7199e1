// Work that all vCPUs of a guest share, with a result that can be checked: pressure sort SECONDS MIB [DISK], pressure clock ROUNDS CPU CPU.
//
// `sort`: a thread on each vCPU. In each round they fill MIB of memory with numbers, sort them together (each its part, then merged in pairs,
// so that everything is read by another vCPU), and check order, sum and exclusive or; count under a mutex, with atomics in one line of the cache, and
// with a byte each of one word; look after a ballast of pages; and one of them writes what it has to DISK and reads it back from there.
// Prints "round N ..." and in the end "PRESSURE OK rounds N", or "MISMATCH ..." and has status 1.
//
// `clock`: two threads on two vCPUs pass a word to and fro; each reads time stamp counter and monotonic clock after it has got it. Neither may
// be before what the other has read before it passed it. Prints "CLOCK OK tsc MAX ns MAX", the largest steps back.
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

enum { THREADS = 64, PAGE = 4096, COUNTS = 200, DISK_BYTES = 1 << 20 };

static int thread_count;
static size_t count, part;
static uint64_t *array, *other;
static pthread_barrier_t barrier;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static uint64_t locked_count;
static struct {
  _Atomic uint64_t counts[4];
  volatile uint8_t bytes[THREADS];
} shared __attribute__((aligned(64)));
static uint64_t sums[THREADS], xors[THREADS], checked_sums[THREADS], checked_xors[THREADS];
static uint64_t *ballast;
static size_t ballast_pages;
static uint64_t round_number;
static _Atomic int is_over;
static double seconds;
static const char *disk;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

static void mismatch(const char *format, ...) {
  va_list list;
  va_start(list, format);
  flockfile(stdout);
  printf("MISMATCH ");
  vprintf(format, list);
  printf("\n");
  fflush(stdout);
  _exit(1);
}

static void pin(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  if (sched_setaffinity(0, sizeof set, &set) != 0) {
    perror("sched_setaffinity");
    _exit(1);
  }
}

static uint64_t next(uint64_t *state) {
  uint64_t x = *state;
  x ^= x << 13;
  x ^= x >> 7;
  x ^= x << 17;
  *state = x;
  return x * 0x2545f4914f6cdd1du;
}

static int compare(const void *a, const void *b) {
  uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return (x > y) - (x < y);
}

static void merge(const uint64_t *from, size_t begin, size_t middle, size_t end, uint64_t *to) {
  size_t a = begin, b = middle;
  for (size_t at = begin; at < end; at++)
    to[at] = b >= end || (a < middle && from[a] <= from[b]) ? from[a++] : from[b++];
}

static uint64_t ballast_word(size_t page, uint64_t age) { return page * 0x9e3779b97f4a7c15u + age; }

static void use_disk(const uint64_t *data) {
  static uint64_t back[DISK_BYTES / 8] __attribute__((aligned(PAGE)));
  size_t size = count * 8 < DISK_BYTES ? count * 8 : DISK_BYTES;
  int file = open(disk, O_RDWR);
  if (file < 0 || pwrite(file, data, size, 0) != (ssize_t)size || fsync(file) != 0) {
    perror(disk);
    _exit(1);
  }
  posix_fadvise(file, 0, size, POSIX_FADV_DONTNEED);
  close(file);
  file = open(disk, O_RDONLY | O_DIRECT);
  if (pread(file, back, size, 0) != (ssize_t)size) {
    perror(disk);
    _exit(1);
  }
  close(file);
  if (memcmp(back, data, size) != 0) mismatch("disk in round %lu", round_number);
}

static void *sorter(void *argument) {
  int me = (int)(intptr_t)argument;
  pin(me);
  size_t begin = me * part, end = begin + part;
  size_t ballast_begin = ballast_pages * me / thread_count;
  size_t ballast_end = ballast_pages * (me + 1) / thread_count;
  for (;;) {
    pthread_barrier_wait(&barrier);
    if (is_over) return NULL;
    uint64_t round = round_number, state = (round + 1) * 0x9e3779b97f4a7c15u + me + 1;
    uint64_t sum = 0, exclusive = 0;
    for (size_t at = begin; at < end; at++) {
      uint64_t value = array[at] = next(&state);
      sum += value;
      exclusive ^= value;
    }
    sums[me] = sum;
    xors[me] = exclusive;
    qsort(array + begin, part, 8, compare);
    uint64_t *from = array, *to = other;
    for (int width = 1; width < thread_count; width *= 2) {
      pthread_barrier_wait(&barrier);
      if (me % (2 * width) == 0) {
        size_t middle = (size_t)(me + width) * part, last = (size_t)(me + 2 * width) * part;
        size_t all = (size_t)thread_count * part;
        merge(from, begin, middle < all ? middle : all, last < all ? last : all, to);
      }
      uint64_t *swap = from;
      from = to;
      to = swap;
    }
    pthread_barrier_wait(&barrier);
    // Each checks the part of the next one: nobody reads what it has written itself, if it can be helped.
    int whose = (me + 1) % thread_count;
    size_t first = whose * part, last = first + part;
    sum = exclusive = 0;
    for (size_t at = first; at < last; at++) {
      if (at > 0 && from[at - 1] > from[at]) mismatch("order at %zu in round %lu", at, round);
      sum += from[at];
      exclusive ^= from[at];
    }
    checked_sums[me] = sum;
    checked_xors[me] = exclusive;
    for (int step = 0; step < COUNTS; step++) {
      pthread_mutex_lock(&mutex);
      locked_count++;
      pthread_mutex_unlock(&mutex);
      atomic_fetch_add(&shared.counts[step % 4], 1);
      shared.bytes[me]++;
    }
    // Its part of the ballast is a round older than what is written now.
    for (size_t page = ballast_begin; page < ballast_end; page++) {
      uint64_t *word = ballast + page * (PAGE / 8) + page % (PAGE / 8);
      if (round > 0 && *word != ballast_word(page, round - 1)) mismatch("ballast page %zu in round %lu", page, round);
      *word = ballast_word(page, round);
    }
    if (me == (int)(round % thread_count) && disk) use_disk(from);
    pthread_barrier_wait(&barrier);
  }
}

static int sort(int argc, char **argv) {
  seconds = atof(argv[2]);
  size_t bytes = strtoul(argv[3], NULL, 0) << 20;
  disk = argc > 4 ? argv[4] : NULL;
  thread_count = (int)sysconf(_SC_NPROCESSORS_ONLN);
  if (thread_count > THREADS) thread_count = THREADS;
  // A quarter each: numbers, and where they are merged to; the other half is ballast.
  part = bytes / 4 / 8 / thread_count;
  count = part * thread_count;
  ballast_pages = bytes / 2 / PAGE;
  array = mmap(NULL, count * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  other = mmap(NULL, count * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ballast = mmap(NULL, ballast_pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (array == MAP_FAILED || other == MAP_FAILED || ballast == MAP_FAILED) return perror("mmap"), 1;
  pthread_barrier_init(&barrier, NULL, thread_count + 1);
  pthread_t threads[THREADS];
  for (int i = 0; i < thread_count; i++) pthread_create(&threads[i], NULL, sorter, (void *)(intptr_t)i);
  double begin = now();
  int phases = 2;
  for (int width = 1; width < thread_count; width *= 2) phases++;
  for (;;) {
    pthread_barrier_wait(&barrier);
    for (int i = 0; i < phases; i++) pthread_barrier_wait(&barrier);
    uint64_t sum = 0, exclusive = 0;
    for (int i = 0; i < thread_count; i++) {
      sum += sums[i] - checked_sums[i];
      exclusive ^= xors[i] ^ checked_xors[i];
    }
    if (sum != 0 || exclusive != 0) mismatch("sum %lx xor %lx in round %lu", sum, exclusive, round_number);
    uint64_t expected = (round_number + 1) * COUNTS * thread_count, atomics = 0;
    for (int i = 0; i < 4; i++) atomics += shared.counts[i];
    if (locked_count != expected) mismatch("count under the mutex %lu, not %lu", locked_count, expected);
    if (atomics != expected) mismatch("atomic counts %lu, not %lu", atomics, expected);
    for (int i = 0; i < thread_count; i++)
      if (shared.bytes[i] != (uint8_t)((round_number + 1) * COUNTS)) mismatch("byte %d", i);
    round_number++;
    printf("round %lu at %.1f s\n", round_number, now() - begin);
    fflush(stdout);
    if (now() - begin >= seconds) break;
  }
  is_over = 1;
  pthread_barrier_wait(&barrier);
  for (int i = 0; i < thread_count; i++) pthread_join(threads[i], NULL);
  printf("PRESSURE OK rounds %lu threads %d\n", round_number, thread_count);
  return 0;
}

static struct {
  _Atomic uint64_t turn;
  uint64_t tsc, ns;
} passed __attribute__((aligned(64)));
static uint64_t rounds;
static int64_t worst_tsc[2], worst_ns[2];
static int cpus[2];

static void *clock_reader(void *argument) {
  int me = (int)(intptr_t)argument;
  pin(cpus[me]);
  for (uint64_t turn = me; turn < rounds; turn += 2) {
    while (atomic_load(&passed.turn) != turn) _mm_pause();
    uint64_t tsc = __rdtsc();
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    uint64_t ns = t.tv_sec * 1000000000ull + t.tv_nsec;
    if (turn > 0) {
      int64_t tsc_back = (int64_t)(passed.tsc - tsc), ns_back = (int64_t)(passed.ns - ns);
      if (tsc_back > worst_tsc[me]) worst_tsc[me] = tsc_back;
      if (ns_back > worst_ns[me]) worst_ns[me] = ns_back;
    }
    clock_gettime(CLOCK_MONOTONIC, &t);
    passed.ns = t.tv_sec * 1000000000ull + t.tv_nsec;
    passed.tsc = __rdtsc();
    atomic_store(&passed.turn, turn + 1);
  }
  return NULL;
}

static int clocks(char **argv) {
  rounds = strtoul(argv[2], NULL, 0);
  cpus[0] = atoi(argv[3]);
  cpus[1] = atoi(argv[4]);
  pthread_t thread;
  pthread_create(&thread, NULL, clock_reader, (void *)(intptr_t)1);
  pthread_t first;
  pthread_create(&first, NULL, clock_reader, (void *)(intptr_t)0);
  pthread_join(thread, NULL);
  pthread_join(first, NULL);
  printf("CLOCK OK tsc %ld ns %ld\n", worst_tsc[0] > worst_tsc[1] ? worst_tsc[0] : worst_tsc[1],
         worst_ns[0] > worst_ns[1] ? worst_ns[0] : worst_ns[1]);
  return 0;
}

int main(int argc, char **argv) {
  if (argc >= 4 && strcmp(argv[1], "sort") == 0) return sort(argc, argv);
  if (argc == 5 && strcmp(argv[1], "clock") == 0) return clocks(argv);
  fprintf(stderr, "usage: pressure sort SECONDS MIB [DISK] | pressure clock ROUNDS CPU CPU\n");
  return 2;
}
