// Reads and writes a disk in a guest: disk DEVICE. For each kind of access a line when it begins and one when it ends, with operations,
// bytes and nanoseconds, so that the host can take the processor time of the same span.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>
#include <linux/fs.h>

static const char *path;
static uint64_t size;

static uint64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

struct job {
  int writes, sequential;
  size_t block;
  uint64_t limit, seed, operations, start;
};

static void *work(void *argument) {
  struct job *job = argument;
  int file = open(path, (job->writes ? O_RDWR : O_RDONLY) | O_DIRECT);
  void *buffer;
  if (file < 0 || posix_memalign(&buffer, 4096, job->block)) {
    perror(path);
    exit(1);
  }
  memset(buffer, 0x5A, job->block);
  uint64_t x = job->seed, end = now() + job->limit, at = 0, blocks = size / job->block;
  while (now() < end) {
    for (int i = 0; i < 16; i++) {
      x = x * 6364136223846793005u + 1442695040888963407u;
      uint64_t block = job->sequential ? at++ % blocks : (x >> 33) % blocks;
      off_t offset = (off_t)(block * job->block);
      ssize_t done = job->writes ? pwrite(file, buffer, job->block, offset) : pread(file, buffer, job->block, offset);
      if (done != (ssize_t)job->block) {
        perror("transfer");
        exit(1);
      }
      job->operations++;
    }
  }
  close(file);
  free(buffer);
  return NULL;
}

static void run(const char *name, int writes, int sequential, size_t block, int threads) {
  struct job jobs[16];
  pthread_t handles[16];
  printf("BEGIN %s\n", name);
  fflush(stdout);
  uint64_t start = now(), operations = 0;
  for (int i = 0; i < threads; i++) {
    jobs[i] = (struct job){.writes = writes, .sequential = sequential, .block = block, .limit = 2000000000u,
                           .seed = 88172645463325252u + (uint64_t)i};
    pthread_create(&handles[i], NULL, work, &jobs[i]);
  }
  for (int i = 0; i < threads; i++) {
    pthread_join(handles[i], NULL);
    operations += jobs[i].operations;
  }
  printf("END %s %llu %llu %llu\n", name, (unsigned long long)operations, (unsigned long long)(operations * block),
         (unsigned long long)(now() - start));
  fflush(stdout);
}

int main(int argc, char **argv) {
  path = argc > 1 ? argv[1] : "/dev/vda";
  int file = open(path, O_RDONLY);
  if (file < 0 || ioctl(file, BLKGETSIZE64, &size)) {
    perror(path);
    return 1;
  }
  close(file);
  run("random-read-4k", 0, 0, 4096, 1);
  run("random-read-4k-depth-8", 0, 0, 4096, 8);
  run("random-write-4k", 1, 0, 4096, 1);
  run("random-write-4k-depth-8", 1, 0, 4096, 8);
  run("sequential-read-1m", 0, 1, 1 << 20, 1);
  run("sequential-write-1m", 1, 1, 1 << 20, 1);
  printf("DISK-DONE\n");
  fflush(stdout);
  return 0;
}
