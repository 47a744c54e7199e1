// What a client of monitors needs: descriptors to send along, the terminal's size.
#define _GNU_SOURCE 1
#include "CLinux.h"
#include <string.h>
#include <sys/ioctl.h>

int64_t goliath_send_descriptor(int socket, const void *bytes, uint64_t size, int descriptor) {
  union { struct cmsghdr header; char space[CMSG_SPACE(sizeof(int))]; } control;
  memset(&control, 0, sizeof control);
  struct iovec part = {(void *)bytes, size};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
                           .msg_controllen = sizeof control};
  struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(header), &descriptor, sizeof descriptor);
  ssize_t result = sendmsg(socket, &message, MSG_NOSIGNAL);
  return result < 0 ? -errno : result;
}

int goliath_terminal_columns(int descriptor) {
  struct winsize size = {0};
  return ioctl(descriptor, TIOCGWINSZ, &size) < 0 ? 0 : size.ws_col;
}
