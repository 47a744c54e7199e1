// Network interfaces of the host: tap devices, multicast groups, helpers that hand descriptors over.
#define _GNU_SOURCE 1
#include "CLinux.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

int goliath_tap_open(char *name, uint64_t room, int *vnet_header, int require_header, int queues) {
  int descriptor = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) return -errno;
  struct ifreq request = {0};
  request.ifr_flags = IFF_TAP | IFF_NO_PI;
  unsigned features = 0;
  ioctl(descriptor, TUNGETFEATURES, &features);
  if (*vnet_header) {
    if (features & IFF_VNET_HDR) {
      request.ifr_flags |= IFF_VNET_HDR;
    } else {
      *vnet_header = 0;
      if (require_header) {
        close(descriptor);
        return -ENOTSUP;
      }
    }
  }
  if (features & IFF_ONE_QUEUE) request.ifr_flags |= IFF_ONE_QUEUE;
  if (queues > 1) {
    if (!(features & IFF_MULTI_QUEUE)) {
      close(descriptor);
      return -ENOTSUP;
    }
    request.ifr_flags |= IFF_MULTI_QUEUE;
  }
  snprintf(request.ifr_name, sizeof request.ifr_name, "%s", *name ? name : "tap%d");
  if (ioctl(descriptor, TUNSETIFF, &request)) {
    int code = errno;
    close(descriptor);
    return -code;
  }
  snprintf(name, room, "%s", request.ifr_name);
  return descriptor;
}

int goliath_tap_has_header(int descriptor) {
  struct ifreq request = {0};
  if (ioctl(descriptor, TUNGETIFF, &request)) return -errno;
  return (request.ifr_flags & IFF_VNET_HDR) != 0;
}

int goliath_tap_set_header_size(int descriptor, int size) {
  return ioctl(descriptor, TUNSETVNETHDRSZ, &size) ? -errno : 0;
}

int goliath_tap_set_offload(int descriptor, unsigned offloads) {
  if (!ioctl(descriptor, TUNSETOFFLOAD, (unsigned long)offloads)) return 0;
  // Kernels without fragmentation offload for UDP.
  offloads &= ~(unsigned)TUN_F_UFO;
  return ioctl(descriptor, TUNSETOFFLOAD, (unsigned long)offloads) ? -errno : 0;
}

int goliath_tap_set_send_buffer(int descriptor, int size) { return ioctl(descriptor, TUNSETSNDBUF, &size) ? -errno : 0; }

int goliath_tap_set_queue(int descriptor, int is_on) {
  struct ifreq request = {0};
  request.ifr_flags = is_on ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE;
  return ioctl(descriptor, TUNSETQUEUE, &request) ? -errno : 0;
}

void goliath_usual_signals(void) {
  for (int number = 1; number < NSIG; number++) signal(number, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, 0);
}

int goliath_run_script(const char *path, const char *argument) {
  pid_t child = fork();
  if (child < 0) return -errno;
  if (child == 0) {
    goliath_usual_signals();
    int limit = (int)sysconf(_SC_OPEN_MAX);
    for (int i = 3; i < limit && i < 65536; i++) close(i);
    execl(path, path, argument, (char *)0);
    _exit(1);
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0)
    if (errno != EINTR) return -errno;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

int goliath_run_bridge_helper(const char *helper, const char *bridge, int with_header) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) return -errno;
  pid_t child = fork();
  if (child < 0) {
    int code = errno;
    close(pair[0]);
    close(pair[1]);
    return -code;
  }
  if (child == 0) {
    goliath_usual_signals();
    int limit = (int)sysconf(_SC_OPEN_MAX);
    for (int i = 3; i < limit && i < 65536; i++)
      if (i != pair[1]) close(i);
    char number[32], name[256], line[1024];
    snprintf(number, sizeof number, "--fd=%d", pair[1]);
    snprintf(name, sizeof name, "--br=%s", bridge);
    if (strpbrk(helper, " \t")) {
      // A command line of the user's own; the bridge is added unless it is named already.
      snprintf(line, sizeof line, "%s %s %s%s", helper, with_header ? "--use-vnet" : "", number,
               strstr(helper, "--br=") ? "" : "");
      if (!strstr(helper, "--br=")) {
        size_t used = strlen(line);
        snprintf(line + used, sizeof line - used, " %s", name);
      }
      execl("/bin/sh", "sh", "-c", line, (char *)0);
    } else if (with_header) {
      execl(helper, helper, "--use-vnet", number, name, (char *)0);
    } else {
      execl(helper, helper, number, name, (char *)0);
    }
    _exit(1);
  }
  close(pair[1]);
  char byte;
  int descriptor = -1, count = 1;
  int64_t got = goliath_receive(pair[0], &byte, 1, &descriptor, &count);
  close(pair[0]);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {}
  if (got <= 0 || count != 1) return -EPROTO;
  if (status) {
    close(descriptor);
    return -EPROTO;
  }
  int flags = fcntl(descriptor, F_GETFL);
  fcntl(descriptor, F_SETFL, flags | O_NONBLOCK);
  fcntl(descriptor, F_SETFD, FD_CLOEXEC);
  return descriptor;
}

int goliath_multicast_socket(const void *group, const void *local) {
  const struct sockaddr_in *address = group;
  const struct in_addr *interface = local;
  if (!IN_MULTICAST(ntohl(address->sin_addr.s_addr))) return -EADDRNOTAVAIL;
  int descriptor = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (descriptor < 0) return -errno;
  int one = 1;
  struct ip_mreq membership = {.imr_multiaddr = address->sin_addr};
  if (interface) membership.imr_interface = *interface;
  if (setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) ||
      bind(descriptor, (const struct sockaddr *)address, sizeof *address) ||
      setsockopt(descriptor, IPPROTO_IP, IP_ADD_MEMBERSHIP, &membership, sizeof membership) ||
      setsockopt(descriptor, IPPROTO_IP, IP_MULTICAST_LOOP, &one, sizeof one) ||
      (interface && setsockopt(descriptor, IPPROTO_IP, IP_MULTICAST_IF, interface, sizeof *interface))) {
    int code = errno;
    close(descriptor);
    return -code;
  }
  return descriptor;
}

static uint64_t add_carry(uint64_t sum, uint64_t value) {
  sum += value;
  return sum + (sum < value);
}

uint32_t goliath_ones_sum(const void *bytes, uint64_t size, uint32_t sum) {
  const uint8_t *at = bytes;
  uint64_t a = sum, b = 0, c = 0, d = 0;
  // Sums of 32-bit words in 64 bits never overflow within a frame; the compiler makes vectors of it.
  uint64_t lanes[4] = {0};
  while (size >= 32) {
    uint32_t words[8];
    memcpy(words, at, 32);
    for (int i = 0; i < 4; i++) lanes[i] += (uint64_t)words[2 * i] + words[2 * i + 1];
    at += 32;
    size -= 32;
  }
  a = add_carry(a, lanes[0]);
  b = add_carry(lanes[1], lanes[2]);
  c = lanes[3];
  while (size >= 4) {
    uint32_t word;
    memcpy(&word, at, 4);
    d += word;
    at += 4;
    size -= 4;
  }
  if (size >= 2) {
    uint16_t word;
    memcpy(&word, at, 2);
    d += word;
    at += 2;
    size -= 2;
  }
  if (size) d += *at;
  a = add_carry(a, b);
  a = add_carry(a, c);
  a = add_carry(a, d);
  a = (a & 0xFFFFFFFF) + (a >> 32);
  a = (a & 0xFFFFFFFF) + (a >> 32);
  a = (a & 0xFFFF) + (a >> 16);
  a = (a & 0xFFFF) + (a >> 16);
  a = (a & 0xFFFF) + (a >> 16);
  return (uint32_t)a;
}
