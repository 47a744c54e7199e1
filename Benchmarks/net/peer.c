// One end of a measurement: sends, receives, or plays ping-pong over TCP, and says how long it took.
//   peer send|receive|ping|pong HOST|listen PORT AMOUNT     (AMOUNT: bytes, or round trips)
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static int open_socket(const char *host, int port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
  int one = 1, number = socket(AF_INET, SOCK_STREAM, 0);
  setsockopt(number, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (!strcmp(host, "listen")) {
    if (bind(number, (struct sockaddr *)&address, sizeof address) || listen(number, 1)) return -1;
    number = accept(number, 0, 0);
  } else {
    inet_pton(AF_INET, host, &address.sin_addr);
    for (int i = 0; connect(number, (struct sockaddr *)&address, sizeof address); i++) {
      if (i == 100) return -1;
      close(number);
      usleep(100000);
      number = socket(AF_INET, SOCK_STREAM, 0);
    }
  }
  setsockopt(number, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  return number;
}

int main(int count, char **words) {
  static char bytes[1 << 16];
  if (count != 5) return 2;
  long long amount = atoll(words[4]), done = 0;
  int number = open_socket(words[2], atoi(words[3]));
  if (number < 0) return 1;
  double start = now();
  if (!strcmp(words[1], "send")) {
    while (done < amount) {
      long long left = amount - done;
      ssize_t part = write(number, bytes, left < (long long)sizeof bytes ? (size_t)left : sizeof bytes);
      if (part <= 0) return 1;
      done += part;
    }
    shutdown(number, SHUT_WR);
    if (read(number, bytes, 1) < 0) return 1;
  } else if (!strcmp(words[1], "receive")) {
    ssize_t part;
    while ((part = read(number, bytes, sizeof bytes)) > 0) done += part;
  } else {
    int first = !strcmp(words[1], "ping");
    for (; done < amount; done++) {
      if (first && write(number, bytes, 1) != 1) return 1;
      if (read(number, bytes, 1) != 1) return 1;
      if (!first && write(number, bytes, 1) != 1) return 1;
    }
  }
  printf("peer-result %s %lld %.6f\n", words[1], done, now() - start);
  return 0;
}
