// User networking: libslirp 4.7, loaded with dlopen when first asked for: a run without it pays neither start time nor memory.
//
// One stack belongs to one thread. The caller waits for `goliath_slirp_descriptor` to become readable, or for the moment that
// `goliath_slirp_run` named, and runs it then; and after frames went in. No policy here.
#ifndef GOLIATH_CSLIRP_H
#define GOLIATH_CSLIRP_H
#include <stddef.h>
#include <stdint.h>

// Whether the library is there. Any thread.
int goliath_slirp_is_available(void);

typedef struct goliath_slirp goliath_slirp;

// What a network is like; addresses in network order. Texts may be null.
typedef struct {
  int restricted;
  int ipv4;
  uint32_t network, mask, host, dhcp_start, name_server;
  int ipv6;
  uint8_t prefix6[16], host6[16], name_server6[16];
  int prefix_length6;
  const char *host_name, *tftp_server_name, *tftp_path, *boot_file, *domain_name;
  const char *const *dns_search;  // ends with a null; null for none
  uint32_t mtu;
} goliath_slirp_configuration;

// Called by the functions below: a frame for the guest; what to say about the guest's or the library's errors; a rule's bytes from the guest.
typedef struct {
  void (*frame)(const uint8_t *bytes, size_t size, void *context);
  void (*complaint)(const char *text, void *context);
  // How many bytes were taken.
  int64_t (*forwarded)(int rule, const uint8_t *bytes, size_t size, void *context);
} goliath_slirp_callbacks;

// Null when the library is missing or refuses.
goliath_slirp *goliath_slirp_new(const goliath_slirp_configuration *configuration, const goliath_slirp_callbacks *callbacks,
                                 void *context);
void goliath_slirp_free(goliath_slirp *stack);
// Readable when a socket has something; owned by the stack.
int goliath_slirp_descriptor(const goliath_slirp *stack);
// A frame from the guest.
void goliath_slirp_input(goliath_slirp *stack, const uint8_t *bytes, size_t size);
// Does what sockets and timers ask for, and arranges to be woken for what comes next. Answers in how many milliseconds it wants to run at
// the latest, negative for never; `more` becomes 1 when it should run again at once.
int64_t goliath_slirp_run(goliath_slirp *stack, int *more);

// Rules: 0, or an errno.
int goliath_slirp_forward_host(goliath_slirp *stack, int is_udp, uint32_t host, int host_port, uint32_t guest,
                               int guest_port);
int goliath_slirp_unforward_host(goliath_slirp *stack, int is_udp, uint32_t host, int host_port);
// Guest connections to this address and port run a command, or come to `forwarded` with the number `rule`.
int goliath_slirp_forward_command(goliath_slirp *stack, const char *command, uint32_t address, int port);
int goliath_slirp_forward_unix(goliath_slirp *stack, const char *path, uint32_t address, int port);
int goliath_slirp_forward_guest(goliath_slirp *stack, int rule, uint32_t address, int port);
// How many bytes the guest's connection takes at present, and giving it some.
size_t goliath_slirp_room(goliath_slirp *stack, uint32_t address, int port);
void goliath_slirp_give(goliath_slirp *stack, uint32_t address, int port, const uint8_t *bytes, size_t size);

// A table of connections for people; release it with free(). Null when there is none.
char *goliath_slirp_connections(goliath_slirp *stack);
#endif
