// One static binary with all programs.
//
//   bench NAME [SCALE]     run one; prints "NAME seconds checksum"
//   bench --list           "NAME group" for each
//   bench --serve          read lines "NAME SCALE", run each in a process of its own, print "done STATUS" after it
//   bench --all SCALE REPETITIONS NAME...    the named programs (all without names), each in a process of its own
//
// The seconds are CPU seconds of the process and of its children by this system's own clocks. In a guest those are as good as the
// guest's clock; Benchmarks/guest/README.md says what the comparison uses instead.
#include "bench.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static uint64_t nothing(double scale) { return (uint64_t)(scale > 0); }

static const struct program base_programs[] = {{"nothing", "base", nothing}, {0}};
static const struct program *const groups[] = {base_programs, integer_programs, fp_simd_programs, copy_programs,
                                               system_programs, codegen_programs, scaling_programs};
#define GROUPS (sizeof groups / sizeof *groups)

_Noreturn void give_up(const char *what) {
  perror(what);
  exit(3);
}

void *pages(size_t size) {
  void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) give_up("mmap");
  return memory;
}

static const struct program *find(const char *name) {
  for (size_t g = 0; g < GROUPS; g++)
    for (const struct program *p = groups[g]; p->name; p++)
      if (!strcmp(p->name, name)) return p;
  return NULL;
}

static double cpu_seconds(void) {
  struct timespec own;
  struct rusage children;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &own);
  getrusage(RUSAGE_CHILDREN, &children);
  double micro = (double)children.ru_utime.tv_usec + (double)children.ru_stime.tv_usec;
  return (double)own.tv_sec + (double)own.tv_nsec / 1e9 + (double)children.ru_utime.tv_sec +
         (double)children.ru_stime.tv_sec + micro / 1e6;
}

static int run_here(const char *name, double scale) {
  const struct program *program = find(name);
  if (!program) {
    printf("%s unknown unknown\n", name);
    return 2;
  }
  double start = cpu_seconds();
  uint64_t checksum = program->body(scale);
  double seconds = cpu_seconds() - start;
  if (checksum == NOT_AVAILABLE)
    printf("%s %.6f skipped\n", name, seconds);
  else
    printf("%s %.6f %016" PRIx64 "\n", name, seconds, checksum);
  fflush(stdout);
  return 0;
}

// In a process of its own, freshly executed, as a shell would.
static int run_child(const char *name, const char *scale) {
  fflush(stdout);
  pid_t child = fork();
  if (child < 0) give_up("fork");
  if (child == 0) {
    execl("/proc/self/exe", "bench", name, scale, (char *)NULL);
    _exit(127);
  }
  int status = 0;
  if (waitpid(child, &status, 0) != child) give_up("waitpid");
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int serve(void) {
  char line[128], name[64], scale[32];
  printf("bench-ready\n");
  fflush(stdout);
  while (fgets(line, sizeof line, stdin)) {
    if (sscanf(line, "%63s %31s", name, scale) != 2) break;
    int status = run_child(name, scale);
    printf("done %d\n", status);
    fflush(stdout);
  }
  return 0;
}

int main(int count, char **arguments) {
  if (count >= 2 && !strcmp(arguments[1], "--list")) {
    for (size_t g = 0; g < GROUPS; g++)
      for (const struct program *p = groups[g]; p->name; p++) printf("%s %s\n", p->name, p->group);
    return 0;
  }
  if (count >= 2 && !strcmp(arguments[1], "--serve")) return serve();
  if (count >= 4 && !strcmp(arguments[1], "--all")) {
    int failed = 0;
    for (int n = atoi(arguments[3]); n > 0; n--) {
      for (int i = 4; i < count; i++) failed |= run_child(arguments[i], arguments[2]);
      for (size_t g = 0; g < GROUPS && count == 4; g++)
        for (const struct program *p = groups[g]; p->name; p++) failed |= run_child(p->name, arguments[2]);
    }
    return failed;
  }
  if (count >= 2 && arguments[1][0] != '-') return run_here(arguments[1], count > 2 ? atof(arguments[2]) : 1);
  fprintf(stderr, "bench NAME [SCALE] | --list | --serve | --all SCALE REPETITIONS [NAME...]\n");
  return 2;
}
