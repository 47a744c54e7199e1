// The least that a page of another process costs a guest of this host's KVM by userfaultfd, beside which benchmark-kvm-pages is to be read:
//
//     gcc -O2 -pthread Benchmarks/cluster/kvm-floor.c -o /tmp/kvm-floor && chrt -r 5 /tmp/kvm-floor [bare|page] [NUMBER]
//
// A flat 32-bit guest writes a word in each of NUMBER pages (300) that are in their file, but not mapped. A thread reads the fault and maps the page
// (UFFDIO_CONTINUE): bare; with a round trip of 4 KiB to another process over a socket and a copy before it: page. Beside it the round trip
// alone, and the same pages once more. Microseconds of wall-clock a page, the least of nine rounds. `taskset 1` before it: without wake-ups of other CPUs.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif
enum { size = 256 << 20, page = 4096, firstPage = 4 << 20, rounds = 9, frame = page + 32 };

static int faults, vcpu, peer, fetches;
static char *guestMap, *alias, buffer[frame];
static struct kvm_run *area;

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1e6 + time.tv_nsec / 1e3;
}

static int receive(int file, char *bytes, int count) {
  for (int done = 0; done < count;) {
    ssize_t got = read(file, bytes + done, count - done);
    if (got <= 0) return 0;
    done += got;
  }
  return 1;
}

static void roundTrip(void) {
  char header[32] = {0};
  if (write(peer, header, 32) != 32 || !receive(peer, buffer, frame)) fail("round trip");
}

static void answerPeer(int file) {
  char header[32];
  while (receive(file, header, 32) && write(file, buffer, frame) == frame) {}
  _exit(0);
}

static void *serveFaults(void *nothing) {
  struct uffd_msg message;
  while (read(faults, &message, sizeof message) == sizeof message) {
    unsigned long address = message.arg.pagefault.address & ~(page - 1UL);
    unsigned long offset = address - (unsigned long)guestMap;
    // Not the program's own page.
    if (fetches && offset >= firstPage) {
      roundTrip();
      memcpy(alias + offset, buffer + 32, page);
    }
    struct uffdio_continue one = {.range = {address, page}};
    ioctl(faults, UFFDIO_CONTINUE, &one);
  }
  return nothing;
}

static double runGuest(unsigned start, unsigned count) {
  struct kvm_regs registers = {.rip = 0x1000, .rflags = 2, .rdi = start, .rcx = count};
  ioctl(vcpu, KVM_SET_REGS, &registers);
  double begin = now();
  do {
    if (ioctl(vcpu, KVM_RUN, 0) < 0 && errno != EINTR) fail("KVM_RUN");
  } while (area->exit_reason != KVM_EXIT_HLT);
  return (now() - begin) / count;
}

static void makeMemory(void) {
  int device = open("/dev/userfaultfd", O_RDWR);
  faults = device >= 0 ? ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC) : (int)syscall(SYS_userfaultfd, O_CLOEXEC);
  struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_MINOR_SHMEM};
  if (faults < 0 || ioctl(faults, UFFDIO_API, &api) < 0) fail("userfaultfd");
  int file = memfd_create("ram", 0);
  if (ftruncate(file, size) < 0) fail("memfd");
  alias = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  for (long at = 0; at < size; at += page) alias[at] = 1;
  guestMap = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  madvise(guestMap, size, MADV_NOHUGEPAGE);
  struct uffdio_register range = {.range = {(unsigned long)guestMap, size}, .mode = UFFDIO_REGISTER_MODE_MINOR};
  if (ioctl(faults, UFFDIO_REGISTER, &range) < 0) fail("UFFDIO_REGISTER");
}

static void makeGuest(void) {
  // mov [edi], ecx; add edi, 4096; dec ecx; jnz; hlt
  static const unsigned char program[] = {0x89, 0x0F, 0x81, 0xC7, 0, 0x10, 0, 0, 0x49, 0x75, 0xF5, 0xF4};
  memcpy(alias + 0x1000, program, sizeof program);
  int kvm = open("/dev/kvm", O_RDWR), vm = ioctl(kvm, KVM_CREATE_VM, 0);
  struct kvm_userspace_memory_region slot = {.memory_size = size, .userspace_addr = (unsigned long)guestMap};
  if (kvm < 0 || vm < 0 || ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot) < 0) fail("/dev/kvm");
  vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
  area = mmap(0, ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
  struct kvm_sregs system;
  ioctl(vcpu, KVM_GET_SREGS, &system);
  struct kvm_segment code = {.limit = ~0U, .selector = 8, .type = 11, .present = 1, .s = 1, .db = 1, .g = 1};
  struct kvm_segment data = code;
  data.type = 3;
  data.selector = 16;
  system.cr0 = 0x11;
  system.cs = code;
  system.ds = system.es = system.fs = system.gs = system.ss = data;
  if (ioctl(vcpu, KVM_SET_SREGS, &system) < 0) fail("KVM_SET_SREGS");
}

int main(int count, char **words) {
  fetches = count > 1 && !strcmp(words[1], "page");
  unsigned number = count > 2 ? atoi(words[2]) : 300;
  if (number == 0 || number > (size - firstPage) / page / rounds) return 2;
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) < 0) fail("socketpair");
  pid_t child = fork();
  if (child == 0) {
    close(ends[0]);
    answerPeer(ends[1]);
  }
  close(ends[1]);
  peer = ends[0];
  makeMemory();
  makeGuest();
  pthread_t thread;
  pthread_create(&thread, 0, serveFaults, 0);
  double raw = 1e9, fault = 1e9, again = 1e9;
  for (unsigned n = 0; n < rounds; n++) {
    double begin = now(), one;
    for (unsigned k = 0; k < number; k++) roundTrip();
    if ((one = (now() - begin) / number) < raw) raw = one;
    unsigned start = firstPage + n * number * page;
    if ((one = runGuest(start, number)) < fault) fault = one;
    if ((one = runGuest(start, number)) < again) again = one;
  }
  printf("raw round trip %.1f, guest's fault (%s) %.1f, the same pages again %.1f\n", raw, fetches ? "page" : "bare", fault, again);
  fflush(stdout);
  kill(child, SIGKILL);
  _exit(0);
}
