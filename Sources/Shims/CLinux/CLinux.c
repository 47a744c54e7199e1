#define _GNU_SOURCE 1
#include "CLinux.h"
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <termios.h>

int goliath_futex_wait(const void *word, uint32_t expected, int64_t nanoseconds) {
  struct timespec t = {nanoseconds / 1000000000, nanoseconds % 1000000000};
  long r = syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, nanoseconds < 0 ? 0 : &t, 0, 0);
  return r < 0 ? -errno : 0;
}

void goliath_futex_wake(const void *word, int count) {
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, 0, 0, 0);
}

int64_t goliath_socket_receive(int descriptor, void *buffer, size_t count, int flags) {
  long got;
  do {
    got = syscall(SYS_recvfrom, descriptor, buffer, count, flags, 0, 0);
  } while (got < 0 && errno == EINTR);
  return got < 0 ? -errno : got;
}

int64_t goliath_socket_send(int descriptor, const struct msghdr *message, int flags) {
  long sent;
  do {
    sent = syscall(SYS_sendmsg, descriptor, message, flags);
  } while (sent < 0 && errno == EINTR);
  return sent < 0 ? -errno : sent;
}

void goliath_short_turns(uint64_t nanoseconds) {
  // sched_setattr(2), whose header does not go with <sched.h> everywhere; 48 bytes are its first version.
  struct {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
  } attributes = {0};
  if (syscall(SYS_sched_getattr, 0, &attributes, sizeof(attributes), 0) < 0) return;
  if (attributes.policy != 0) return;
  attributes.size = sizeof(attributes);
  attributes.runtime = nanoseconds;
  syscall(SYS_sched_setattr, 0, &attributes, 0);
}

int goliath_memfd(const char *name) {
  int r = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
  return r < 0 ? -errno : r;
}

int goliath_set_thread_name(const char *name) { return -pthread_setname_np(pthread_self(), name); }

int64_t goliath_thread_id(void) { return syscall(SYS_gettid); }

void goliath_exact_timers(void) { prctl(PR_SET_TIMERSLACK, 1); }

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

int64_t goliath_receive(int socket, void *bytes, uint64_t size, int *descriptors, int *count) {
  union { struct cmsghdr header; char space[CMSG_SPACE(sizeof(int) * 16)]; } control;
  struct iovec part = {bytes, size};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
                           .msg_controllen = sizeof control};
  int room = *count, taken = 0;
  ssize_t result = recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  *count = 0;
  if (result < 0) return -errno;
  for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    size_t number = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < number; i++) {
      int descriptor;
      memcpy(&descriptor, CMSG_DATA(c) + i * sizeof(int), sizeof descriptor);
      if (taken < room) descriptors[taken++] = descriptor;
      else close(descriptor);
    }
  }
  *count = taken;
  return result;
}

int64_t goliath_read_key(int serial, void *bytes, uint64_t size) {
  long result = syscall(SYS_keyctl, 11L, (long)serial, bytes, (unsigned long)size);  // KEYCTL_READ
  return result < 0 ? -errno : result;
}

static void make_raw(struct termios *t, int signals) {
  t->c_iflag &= ~(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
  t->c_oflag |= OPOST;
  t->c_lflag &= ~(ECHO | ECHONL | ICANON | IEXTEN);
  if (!signals) t->c_lflag &= ~ISIG;
  t->c_cflag = (t->c_cflag & ~(CSIZE | PARENB)) | CS8;
  t->c_cc[VMIN] = 1;
  t->c_cc[VTIME] = 0;
}

int goliath_open_pty(char *path, uint64_t size) {
  int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (master < 0) return -errno;
  struct termios mode;
  int slave = -1, error = 0;
  if (grantpt(master) < 0 || unlockpt(master) < 0 || ptsname_r(master, path, size) != 0) error = errno;
  if (!error && (slave = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC)) < 0) error = errno;
  if (!error && tcgetattr(slave, &mode) == 0) {
    cfmakeraw(&mode);
    tcsetattr(slave, TCSAFLUSH, &mode);
  }
  if (slave >= 0) close(slave);
  if (error) {
    close(master);
    return -error;
  }
  return master;
}

int goliath_pty_is_open(int descriptor) {
  struct pollfd p = {.fd = descriptor, .events = POLLOUT};
  return poll(&p, 1, 0) >= 0 && !(p.revents & POLLHUP);
}

static struct termios saved_mode, raw_mode;
static volatile sig_atomic_t saved_descriptor = -1;

// After a stop the shell has set its own mode: set ours again, unless the process goes on in the background.
static void continued(int signal) {
  (void)signal;
  int error = errno, descriptor = saved_descriptor;
  if (descriptor >= 0 && tcgetpgrp(descriptor) == getpgrp()) tcsetattr(descriptor, TCSANOW, &raw_mode);
  errno = error;
}

void goliath_terminal_restore(void) {
  int descriptor = saved_descriptor;
  if (descriptor < 0) return;
  saved_descriptor = -1;
  tcsetattr(descriptor, TCSANOW, &saved_mode);
}

int goliath_terminal_raw(int descriptor, int signals) {
  static int registered;
  struct termios mode;
  if (tcgetattr(descriptor, &mode) < 0) return -errno;
  if (saved_descriptor < 0) {
    saved_mode = mode;
    saved_descriptor = descriptor;
  }
  make_raw(&mode, signals);
  raw_mode = mode;
  if (!registered++) {
    struct sigaction action = {.sa_handler = continued, .sa_flags = SA_RESTART};
    atexit(goliath_terminal_restore);
    sigaction(SIGCONT, &action, 0);
  }
  return tcsetattr(descriptor, TCSANOW, &mode) < 0 ? -errno : 0;
}

int goliath_serial_set(int descriptor, int speed, int data_bits, int parity, int stop_bits) {
  static const struct { int rate; speed_t code; } rates[] = {
      {50, B50}, {75, B75}, {110, B110}, {300, B300}, {600, B600}, {1200, B1200}, {2400, B2400},
      {4800, B4800}, {9600, B9600}, {19200, B19200}, {38400, B38400}, {57600, B57600},
      {115200, B115200}};
  struct termios mode;
  if (tcgetattr(descriptor, &mode) < 0) return -errno;
  speed_t code = B115200;
  for (unsigned i = 0; i < sizeof rates / sizeof *rates; i++)
    if (rates[i].rate >= speed) { code = rates[i].code; break; }
  cfmakeraw(&mode);
  cfsetispeed(&mode, code);
  cfsetospeed(&mode, code);
  mode.c_cflag &= ~(CSIZE | PARENB | PARODD | CRTSCTS | CSTOPB);
  mode.c_cflag |= CLOCAL | CREAD;
  mode.c_cflag |= data_bits == 5 ? CS5 : data_bits == 6 ? CS6 : data_bits == 7 ? CS7 : CS8;
  if (parity == 'E') mode.c_cflag |= PARENB;
  if (parity == 'O') mode.c_cflag |= PARENB | PARODD;
  if (stop_bits == 2) mode.c_cflag |= CSTOPB;
  return tcsetattr(descriptor, TCSANOW, &mode) < 0 ? -errno : 0;
}

int goliath_thread_duty(int change) {
  static __thread int duty;
  int old = duty;
  if (change >= 0) duty = change;
  return old;
}
