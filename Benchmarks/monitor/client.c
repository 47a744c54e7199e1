// A monitor client that costs next to nothing, and a bare echo server to hold it against. Built by run.py.
//
//   client echo PATH                     echo server on a Unix socket, for one client after the other, until killed
//   client trip PATH N TEXT              N round trips of TEXT on a bare socket (an echo server)
//   client qmp PATH N TEXT               N round trips of the request TEXT, after negotiation
//   client window PATH N WIDTH TEXT      N requests with WIDTH of them on their way
//   client many N TEXT PATH...           one client for each PATH, each with one request on its way, N in all
//   client large PATH BYTES KIND         one request of BYTES bytes (KIND text or list) and its reply
//   client hmp unix:PATH|tcp:PORT N TEXT N lines of a human monitor, to the next prompt
//
// Prints JSON: nanoseconds (p50, minimum) or requests a second.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static char buffer[4 << 20];

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static int64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static int open_unix(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
  int number = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  for (int attempt = 0; attempt < 2000; attempt++) {
    if (connect(number, (struct sockaddr *)&address, sizeof address) == 0) return number;
    usleep(1000);
  }
  fail(path);
  return -1;
}

static int open_tcp(int port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int number = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
  setsockopt(number, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  for (int attempt = 0; attempt < 2000; attempt++) {
    if (connect(number, (struct sockaddr *)&address, sizeof address) == 0) return number;
    usleep(1000);
  }
  fail("tcp");
  return -1;
}

static void put(int number, const char *bytes, size_t count) {
  while (count > 0) {
    ssize_t sent = send(number, bytes, count, MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno == EINTR) continue;
      fail("send");
    }
    bytes += sent;
    count -= sent;
  }
}

// Reads once; counts the messages (lines) that end in what came.
static int lines(int number) {
  ssize_t count = recv(number, buffer, sizeof buffer, 0);
  if (count <= 0) fail("recv");
  int found = 0;
  for (char *at = buffer; (at = memchr(at, '\n', buffer + count - at)) != NULL; at++) found++;
  return found;
}

static void skip(int number, int count) {
  while (count > 0) count -= lines(number);
}

static void negotiate(int number) {
  static const char request[] = "{\"execute\":\"qmp_capabilities\"}\n";
  skip(number, 1);
  put(number, request, sizeof request - 1);
  skip(number, 1);
}

static int ascending(const void *left, const void *right) {
  int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
  return (a > b) - (a < b);
}

static void report(int64_t *times, int count) {
  qsort(times, count, sizeof *times, ascending);
  printf("{\"p50\": %lld, \"minimum\": %lld, \"p99\": %lld}\n", (long long)times[count / 2],
         (long long)times[0], (long long)times[count - 1 - count / 100]);
}

static void trips(int number, int count, const char *text) {
  int64_t *times = calloc(count, sizeof *times);
  size_t length = strlen(text);
  for (int index = -100; index < count; index++) {
    int64_t begin = now();
    put(number, text, length);
    skip(number, 1);
    if (index >= 0) times[index] = now() - begin;
  }
  report(times, count);
}

static void window(int number, int count, int width, const char *text) {
  size_t length = strlen(text);
  char *all = malloc(length * width);
  for (int index = 0; index < width; index++) memcpy(all + index * length, text, length);
  int64_t begin = now();
  int sent = width, answered = 0;
  put(number, all, length * width);
  while (answered < count) {
    int got = lines(number);
    answered += got;
    // As many again as were answered, in one write.
    if (sent + got > count) got = count - sent;
    if (got > 0) put(number, all, length * got);
    sent += got;
  }
  printf("{\"rate\": %.0f}\n", answered * 1e9 / (now() - begin));
}

static void many(int count, const char *text, char **paths, int clients) {
  size_t length = strlen(text);
  int poll = epoll_create1(EPOLL_CLOEXEC);
  for (int index = 0; index < clients; index++) {
    int number = open_unix(paths[index]);
    negotiate(number);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = number};
    epoll_ctl(poll, EPOLL_CTL_ADD, number, &event);
  }
  struct epoll_event events[64];
  int64_t begin = 0;
  int answered = 0;
  for (int index = 0; index < clients; index++) {
    // Descriptors of the clients follow each other.
    put(poll + 1 + index, text, length);
  }
  begin = now();
  while (answered < count) {
    int ready = epoll_wait(poll, events, 64, -1);
    for (int index = 0; index < ready; index++) {
      int got = lines(events[index].data.fd);
      answered += got;
      if (got > 0) put(events[index].data.fd, text, length);
    }
  }
  printf("{\"rate\": %.0f}\n", answered * 1e9 / (now() - begin));
}

static void large(int number, size_t size, bool isList) {
  static const char head[] = "{\"execute\":\"query-status\",\"arguments\":{\"pad\":";
  static const char unit[] = "1234567,";
  char *text = malloc(size);
  size_t at = sizeof head - 1;
  memcpy(text, head, at);
  text[at++] = isList ? '[' : '"';
  while (at + sizeof unit + 4 < size) {
    if (isList) {
      memcpy(text + at, unit, sizeof unit - 1);
      at += sizeof unit - 1;
    } else {
      text[at++] = 'x';
    }
  }
  text[at++] = isList ? '0' : 'x';
  text[at++] = isList ? ']' : '"';
  text[at++] = '}';
  text[at++] = '}';
  int64_t begin = now();
  put(number, text, at);
  skip(number, 1);
  printf("{\"p50\": %lld}\n", (long long)(now() - begin));
}

static void prompt(int number) {
  static const char expected[] = "(qemu) ";
  size_t held = 0;
  while (true) {
    ssize_t count = recv(number, buffer + held, sizeof buffer - held, 0);
    if (count <= 0) fail("recv");
    held += count;
    if (held >= sizeof expected - 1 &&
        memcmp(buffer + held - (sizeof expected - 1), expected, sizeof expected - 1) == 0)
      return;
  }
}

static void human(const char *address, int count, const char *text) {
  int number = strncmp(address, "unix:", 5) == 0 ? open_unix(address + 5) : open_tcp(atoi(address + 4));
  int64_t *times = calloc(count, sizeof *times);
  char line[256];
  int length = snprintf(line, sizeof line, "%s\r", text);
  prompt(number);
  for (int index = -5; index < count; index++) {
    int64_t begin = now();
    put(number, line, length);
    prompt(number);
    if (index >= 0) times[index] = now() - begin;
  }
  report(times, count);
}

static void echo(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
  int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  unlink(path);
  if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0) fail("bind");
  listen(listener, 1);
  int poll = epoll_create1(EPOLL_CLOEXEC);
  while (true) {
    int number = accept(listener, NULL, NULL);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = number};
    epoll_ctl(poll, EPOLL_CTL_ADD, number, &event);
    while (epoll_wait(poll, &event, 1, -1) >= 0) {
      ssize_t count = recv(number, buffer, sizeof buffer, 0);
      if (count <= 0) break;
      put(number, buffer, count);
    }
    close(number);
  }
}

int main(int count, char **arguments) {
  const char *mode = count > 2 ? arguments[1] : "";
  if (strcmp(mode, "echo") == 0) echo(arguments[2]);
  if (strcmp(mode, "many") == 0) {
    many(atoi(arguments[2]), arguments[3], arguments + 4, count - 4);
    return 0;
  }
  if (strcmp(mode, "hmp") == 0) {
    human(arguments[2], atoi(arguments[3]), arguments[4]);
    return 0;
  }
  int number = count > 4 ? open_unix(arguments[2]) : -1;
  if (strcmp(mode, "trip") == 0) {
    trips(number, atoi(arguments[3]), arguments[4]);
    return 0;
  }
  if (number >= 0) negotiate(number);
  if (strcmp(mode, "qmp") == 0) {
    trips(number, atoi(arguments[3]), arguments[4]);
  } else if (strcmp(mode, "window") == 0 && count > 5) {
    window(number, atoi(arguments[3]), atoi(arguments[4]), arguments[5]);
  } else if (strcmp(mode, "large") == 0) {
    large(number, strtoul(arguments[3], NULL, 10), strcmp(arguments[4], "list") == 0);
  } else {
    fprintf(stderr, "see the head of client.c\n");
    return 2;
  }
  return 0;
}
