#define _GNU_SOURCE 1
#include "CSlirp.h"
#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <slirp/libslirp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

// A bit that epoll has no event in, at least none that is asked for here: the descriptor is known, whatever the events.
#define KNOWN (1u << 31)

static struct {
  __typeof__(&slirp_new) make;
  __typeof__(&slirp_cleanup) cleanup;
  __typeof__(&slirp_pollfds_fill) fill;
  __typeof__(&slirp_pollfds_poll) poll;
  __typeof__(&slirp_input) input;
  __typeof__(&slirp_handle_timer) handle_timer;
  __typeof__(&slirp_add_hostfwd) add_hostfwd;
  __typeof__(&slirp_remove_hostfwd) remove_hostfwd;
  __typeof__(&slirp_add_exec) add_exec;
  __typeof__(&slirp_add_unix) add_unix;
  __typeof__(&slirp_add_guestfwd) add_guestfwd;
  __typeof__(&slirp_socket_can_recv) can_recv;
  __typeof__(&slirp_socket_recv) recv;
  __typeof__(&slirp_connection_info) connection_info;
} library;
static int is_loaded;

static void load(void) {
  void *handle = dlopen("libslirp.so.0", RTLD_NOW | RTLD_LOCAL);
  if (!handle) return;
#define FIND(member, name)                            \
  *(void **)&library.member = dlsym(handle, #name); \
  if (!library.member) return;
  FIND(make, slirp_new)
  FIND(cleanup, slirp_cleanup)
  FIND(fill, slirp_pollfds_fill)
  FIND(poll, slirp_pollfds_poll)
  FIND(input, slirp_input)
  FIND(handle_timer, slirp_handle_timer)
  FIND(add_hostfwd, slirp_add_hostfwd)
  FIND(remove_hostfwd, slirp_remove_hostfwd)
  FIND(add_exec, slirp_add_exec)
  FIND(add_unix, slirp_add_unix)
  FIND(add_guestfwd, slirp_add_guestfwd)
  FIND(can_recv, slirp_socket_can_recv)
  FIND(recv, slirp_socket_recv)
  FIND(connection_info, slirp_connection_info)
  is_loaded = 1;
}

int goliath_slirp_is_available(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, load);
  return is_loaded;
}

struct timer {
  struct timer *next;
  SlirpTimerId kind;
  void *argument;
  int64_t deadline;  // milliseconds; negative when not armed
};

struct rule {
  struct rule *next;
  goliath_slirp *stack;
  int number;
};

struct goliath_slirp {
  Slirp *slirp;
  goliath_slirp_callbacks callbacks;
  void *context;
  int epoll;
  struct pollfd *set;  // what the last fill asked for
  int count, room;
  uint32_t *registered;  // by descriptor: events that epoll knows
  int descriptors;
  uint32_t *marks;  // by descriptor: the last fill that named it
  uint32_t generation;
  int *watched;  // descriptors that epoll may know
  int watched_count, watched_room;
  struct timer *timers;
  struct rule *rules;
  int wants_turn;
};

static int64_t now_ns(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

// MARK: What the library calls

static ssize_t send_packet(const void *bytes, size_t size, void *context) {
  goliath_slirp *stack = context;
  stack->callbacks.frame(bytes, size, stack->context);
  return (ssize_t)size;
}

static void guest_error(const char *text, void *context) {
  goliath_slirp *stack = context;
  stack->callbacks.complaint(text, stack->context);
}

static int64_t clock_get_ns(void *context) {
  (void)context;
  return now_ns();
}

static void *timer_new_opaque(SlirpTimerId kind, void *argument, void *context) {
  goliath_slirp *stack = context;
  struct timer *timer = calloc(1, sizeof *timer);
  if (!timer) abort();
  timer->kind = kind;
  timer->argument = argument;
  timer->deadline = -1;
  timer->next = stack->timers;
  stack->timers = timer;
  return timer;
}

static void timer_free(void *which, void *context) {
  goliath_slirp *stack = context;
  for (struct timer **at = &stack->timers; *at; at = &(*at)->next)
    if (*at == which) {
      *at = (*at)->next;
      free(which);
      return;
    }
}

static void timer_mod(void *which, int64_t deadline, void *context) {
  (void)context;
  ((struct timer *)which)->deadline = deadline;
}

// A number may come back as another socket's: what epoll knew of it went with the old one.
static void forget(int descriptor, void *context) {
  goliath_slirp *stack = context;
  if (descriptor < 0 || descriptor >= stack->descriptors || !stack->registered[descriptor]) return;
  epoll_ctl(stack->epoll, EPOLL_CTL_DEL, descriptor, 0);
  stack->registered[descriptor] = 0;
}

static void notify(void *context) { ((goliath_slirp *)context)->wants_turn = 1; }

static int add_poll(int descriptor, int events, void *context) {
  goliath_slirp *stack = context;
  if (stack->count == stack->room) {
    int room = stack->room ? 2 * stack->room : 64;
    void *set = realloc(stack->set, (size_t)room * sizeof *stack->set);
    if (!set) return -1;
    stack->set = set;
    stack->room = room;
  }
  short wanted = 0;
  if (events & SLIRP_POLL_IN) wanted |= POLLIN;
  if (events & SLIRP_POLL_OUT) wanted |= POLLOUT;
  if (events & SLIRP_POLL_PRI) wanted |= POLLPRI;
  stack->set[stack->count] = (struct pollfd){descriptor, wanted, 0};
  return stack->count++;
}

static int get_revents(int index, void *context) {
  goliath_slirp *stack = context;
  if (index < 0 || index >= stack->count) return 0;
  short found = stack->set[index].revents;
  int events = 0;
  if (found & POLLIN) events |= SLIRP_POLL_IN;
  if (found & POLLOUT) events |= SLIRP_POLL_OUT;
  if (found & POLLPRI) events |= SLIRP_POLL_PRI;
  if (found & (POLLERR | POLLNVAL)) events |= SLIRP_POLL_ERR;
  if (found & POLLHUP) events |= SLIRP_POLL_HUP;
  return events;
}

static ssize_t forwarded(const void *bytes, size_t size, void *context) {
  struct rule *rule = context;
  goliath_slirp *stack = rule->stack;
  return stack->callbacks.forwarded(rule->number, bytes, size, stack->context);
}

// Commands of guestfwd= are forked in the midst of slirp_input, by whichever thread that runs on, with that thread's signals blocked.
static __thread int may_fork;

static void prepare_child(void) {
  if (!may_fork) return;
  for (int number = 1; number < NSIG; number++) signal(number, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, 0);
}

static void watch_forks(void) { pthread_atfork(0, 0, prepare_child); }

// MARK: Life

goliath_slirp *goliath_slirp_new(const goliath_slirp_configuration *wanted, const goliath_slirp_callbacks *callbacks,
                                 void *context) {
  static const SlirpCb table = {
      .send_packet = send_packet,
      .guest_error = guest_error,
      .clock_get_ns = clock_get_ns,
      .timer_free = timer_free,
      .timer_mod = timer_mod,
      .register_poll_fd = forget,
      .unregister_poll_fd = forget,
      .notify = notify,
      .timer_new_opaque = timer_new_opaque,
  };
  if (!goliath_slirp_is_available()) return 0;
  goliath_slirp *stack = calloc(1, sizeof *stack);
  if (!stack) return 0;
  stack->callbacks = *callbacks;
  stack->context = context;
  stack->epoll = epoll_create1(EPOLL_CLOEXEC);
  SlirpConfig configuration = {
      .version = 4,
      .restricted = wanted->restricted,
      .in_enabled = wanted->ipv4,
      .vnetwork = {wanted->network},
      .vnetmask = {wanted->mask},
      .vhost = {wanted->host},
      .in6_enabled = wanted->ipv6,
      .vprefix_len = (uint8_t)wanted->prefix_length6,
      .vhostname = wanted->host_name,
      .tftp_server_name = wanted->tftp_server_name,
      .tftp_path = wanted->tftp_path,
      .bootfile = wanted->boot_file,
      .vdhcp_start = {wanted->dhcp_start},
      .vnameserver = {wanted->name_server},
      .vdnssearch = (const char **)wanted->dns_search,
      .vdomainname = wanted->domain_name,
      .if_mtu = wanted->mtu,
      .if_mru = wanted->mtu,
  };
  memcpy(&configuration.vprefix_addr6, wanted->prefix6, 16);
  memcpy(&configuration.vhost6, wanted->host6, 16);
  memcpy(&configuration.vnameserver6, wanted->name_server6, 16);
  if (stack->epoll >= 0) stack->slirp = library.make(&configuration, &table, stack);
  if (!stack->slirp) {
    if (stack->epoll >= 0) close(stack->epoll);
    free(stack);
    return 0;
  }
  return stack;
}

void goliath_slirp_free(goliath_slirp *stack) {
  if (!stack) return;
  library.cleanup(stack->slirp);
  while (stack->timers) timer_free(stack->timers, stack);
  while (stack->rules) {
    struct rule *next = stack->rules->next;
    free(stack->rules);
    stack->rules = next;
  }
  close(stack->epoll);
  free(stack->set);
  free(stack->registered);
  free(stack->marks);
  free(stack->watched);
  free(stack);
}

int goliath_slirp_descriptor(const goliath_slirp *stack) { return stack->epoll; }

void goliath_slirp_input(goliath_slirp *stack, const uint8_t *bytes, size_t size) {
  may_fork = 1;
  if (size <= INT32_MAX) library.input(stack->slirp, bytes, (int)size);
  may_fork = 0;
}

// MARK: Turns

// Makes room for `descriptor` in the tables; 0 when there is no memory for it.
static int reserve(goliath_slirp *stack, int descriptor) {
  if (descriptor < stack->descriptors) return 1;
  int count = stack->descriptors ? stack->descriptors : 64;
  while (count <= descriptor) count *= 2;
  uint32_t *registered = realloc(stack->registered, (size_t)count * sizeof *registered);
  if (registered) stack->registered = registered;
  uint32_t *marks = realloc(stack->marks, (size_t)count * sizeof *marks);
  if (marks) stack->marks = marks;
  if (!registered || !marks) return 0;
  size_t added = (size_t)(count - stack->descriptors);
  memset(registered + stack->descriptors, 0, added * sizeof *registered);
  memset(marks + stack->descriptors, 0, added * sizeof *marks);
  stack->descriptors = count;
  return 1;
}

static void remember(goliath_slirp *stack, int descriptor) {
  if (stack->watched_count == stack->watched_room) {
    int room = stack->watched_room ? 2 * stack->watched_room : 64;
    int *watched = realloc(stack->watched, (size_t)room * sizeof *watched);
    if (!watched) return;
    stack->watched = watched;
    stack->watched_room = room;
  }
  stack->watched[stack->watched_count++] = descriptor;
}

// Lets epoll watch what the last fill named, and only that. (POLLIN and its like are EPOLLIN and its like.)
static void arrange(goliath_slirp *stack) {
  uint32_t generation = ++stack->generation;
  for (int i = 0; i < stack->count; i++) {
    int descriptor = stack->set[i].fd;
    uint32_t events = (uint16_t)stack->set[i].events;
    if (descriptor < 0 || !reserve(stack, descriptor)) continue;
    stack->marks[descriptor] = generation;
    uint32_t known = stack->registered[descriptor];
    if (known == (events | KNOWN)) continue;
    struct epoll_event event = {.events = events, .data.fd = descriptor};
    if (!known || epoll_ctl(stack->epoll, EPOLL_CTL_MOD, descriptor, &event)) {
      if (epoll_ctl(stack->epoll, EPOLL_CTL_ADD, descriptor, &event) && errno == EEXIST)
        epoll_ctl(stack->epoll, EPOLL_CTL_MOD, descriptor, &event);
      if (!known) remember(stack, descriptor);
    }
    stack->registered[descriptor] = events | KNOWN;  // a bit of ours: it is known, whatever the events
  }
  int kept = 0;
  for (int i = 0; i < stack->watched_count; i++) {
    int descriptor = stack->watched[i];
    if (!stack->registered[descriptor]) continue;
    if (stack->marks[descriptor] == generation) {
      stack->watched[kept++] = descriptor;
    } else {
      forget(descriptor, stack);
    }
  }
  stack->watched_count = kept;
}

int64_t goliath_slirp_run(goliath_slirp *stack, int *more) {
  *more = 0;
  stack->wants_turn = 0;
  uint32_t timeout = UINT32_MAX;
  stack->count = 0;
  library.fill(stack->slirp, &timeout, add_poll, stack);
  int ready = stack->count ? poll(stack->set, (nfds_t)stack->count, 0) : 0;
  library.poll(stack->slirp, ready < 0, get_revents, stack);
  int64_t now = now_ns() / 1000000;
  for (struct timer *timer = stack->timers; timer; timer = timer->next)
    if (timer->deadline >= 0 && timer->deadline <= now) {
      timer->deadline = -1;
      library.handle_timer(stack->slirp, timer->kind, timer->argument);
    }
  timeout = UINT32_MAX;
  stack->count = 0;
  library.fill(stack->slirp, &timeout, add_poll, stack);
  arrange(stack);
  *more = ready > 0 || stack->wants_turn;
  int64_t wait = timeout == UINT32_MAX ? -1 : (int64_t)timeout;
  for (struct timer *timer = stack->timers; timer; timer = timer->next)
    if (timer->deadline >= 0) {
      int64_t left = timer->deadline > now ? timer->deadline - now : 0;
      if (wait < 0 || left < wait) wait = left;
    }
  return wait;
}

// MARK: Rules

static int result(int value) { return value < 0 ? (errno ? errno : EINVAL) : 0; }

int goliath_slirp_forward_host(goliath_slirp *stack, int is_udp, uint32_t host, int host_port, uint32_t guest,
                               int guest_port) {
  errno = 0;
  return result(library.add_hostfwd(stack->slirp, is_udp, (struct in_addr){host}, host_port, (struct in_addr){guest}, guest_port));
}

int goliath_slirp_unforward_host(goliath_slirp *stack, int is_udp, uint32_t host, int host_port) {
  errno = 0;
  return result(library.remove_hostfwd(stack->slirp, is_udp, (struct in_addr){host}, host_port));
}

int goliath_slirp_forward_command(goliath_slirp *stack, const char *command, uint32_t address, int port) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, watch_forks);
  struct in_addr where = {address};
  errno = 0;
  return result(library.add_exec(stack->slirp, command, &where, port));
}

int goliath_slirp_forward_unix(goliath_slirp *stack, const char *path, uint32_t address, int port) {
  struct in_addr where = {address};
  errno = 0;
  return result(library.add_unix(stack->slirp, path, &where, port));
}

int goliath_slirp_forward_guest(goliath_slirp *stack, int number, uint32_t address, int port) {
  struct rule *rule = calloc(1, sizeof *rule);
  if (!rule) return ENOMEM;
  *rule = (struct rule){stack->rules, stack, number};
  stack->rules = rule;
  struct in_addr where = {address};
  errno = 0;
  return result(library.add_guestfwd(stack->slirp, forwarded, rule, &where, port));
}

size_t goliath_slirp_room(goliath_slirp *stack, uint32_t address, int port) {
  return library.can_recv(stack->slirp, (struct in_addr){address}, port);
}

void goliath_slirp_give(goliath_slirp *stack, uint32_t address, int port, const uint8_t *bytes, size_t size) {
  if (size <= INT32_MAX) library.recv(stack->slirp, (struct in_addr){address}, port, bytes, (int)size);
}

char *goliath_slirp_connections(goliath_slirp *stack) { return library.connection_info(stack->slirp); }
