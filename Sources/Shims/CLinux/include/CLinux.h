// Linux interfaces that Swift's Glibc module does not export. No policy; failures are -errno.
#pragma once
// _GNU_SOURCE stays undefined here: it would change types (fd_set) that Swift's Glibc module has already imported.
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>
#include <linux/futex.h>

#include "BlockFile.h"
#include "Userfault.h"

/// Mixes `blocks` blocks of 64 bytes into the eight words of `state` (SHA-256).
void goliath_sha256(uint32_t *state, const uint8_t *data, size_t blocks, int is_portable);

/// Sleeps while *word == expected, at most `nanoseconds` (negative: for ever). 0 or -errno.
int goliath_futex_wait(const void *word, uint32_t expected, int64_t nanoseconds);

/// recv(2) and sendmsg(2), but no points where a thread could be cancelled, which cost a twentieth of a small message. -errno on failure.
int64_t goliath_socket_receive(int descriptor, void *buffer, size_t count, int flags);
int64_t goliath_socket_send(int descriptor, const struct msghdr *message, int flags);

/// Asks for turns on the processor of so many nanoseconds for the calling thread.
void goliath_short_turns(uint64_t nanoseconds);

/// Wakes at most `count` sleepers on `word`.
void goliath_futex_wake(const void *word, int count);

/// An anonymous memory file, sealable. A descriptor or -errno.
int goliath_memfd(const char *name);

/// The same with huge pages of that many bytes, a power of two (0: ordinary pages, 1: huge pages of the host's default).
int goliath_memfd_of(const char *name, uint64_t huge_page);

/// Fixes the size of a memory file for good. 0 or -errno.
int goliath_seal_size(int descriptor);

/// Sets the NUMA policy of a mapping: 0 default, 1 preferred, 2 bind, 3 interleave; `nodes` are 128 bits and one word more. 0 or -errno.
int goliath_bind_memory(void *start, uint64_t size, int policy, const uint64_t *nodes);

/// Bytes of a page of a file: more than 4096 on hugetlbfs.
uint64_t goliath_file_page_size(int descriptor);

/// Makes a file from a template that ends in XXXXXX and removes its name. A descriptor or -errno.
int goliath_nameless_file(char *path);

/// Makes all pages of a mapping, whose contents stay. 0 or -errno.
int goliath_populate(void *start, uint64_t size, uint64_t page, int writable);

/// Names the calling thread (at most 15 bytes). 0 or -errno.
int goliath_set_thread_name(const char *name);

/// The calling thread's kernel id.
int64_t goliath_thread_id(void);

/// Waits of the calling thread end when they are due, not up to 50 us later.
void goliath_exact_timers(void);
/// At most `count` arenas for malloc: each may reserve 64 MiB of address space.
void goliath_limit_arenas(int count);

static inline uint64_t goliath_rdtsc(void) { return __builtin_ia32_rdtsc(); }

/// Installs an empty handler for `signal` (no SA_RESTART), so that it interrupts system calls and does no more.
int goliath_install_kick_handler(int signal);

/// Forks. In the child: a new session, and *ready is the descriptor to write the status byte to; 0.
/// In the parent: waits for that byte and does not return (exit status: the byte, or 1 if the child died first).
/// -errno when there is no child. Only before any thread was made.
int goliath_daemonize(int *ready);

/// Receives up to `size` bytes and up to `*count` descriptors (SCM_RIGHTS, close-on-exec) without waiting.
/// The number of bytes, 0 at the end, or -errno; `*count` becomes the number of descriptors.
int64_t goliath_receive(int socket, void *bytes, uint64_t size, int *descriptors, int *count);

/// Sends `size` bytes with a descriptor (SCM_RIGHTS). The number of bytes, or -errno.
int64_t goliath_send_descriptor(int socket, const void *bytes, uint64_t size, int descriptor);

/// The width of a terminal in columns; 0 when it is none.
int goliath_terminal_columns(int descriptor);

/// Copies a key's payload (KEYCTL_READ), as much as fits; how long it is, or -errno.
int64_t goliath_read_key(int serial, void *bytes, uint64_t size);

/// Opens a pseudo-terminal in raw mode; the other side's path goes to `path`. The master's descriptor or -errno.
int goliath_open_pty(char *path, uint64_t size);

/// Whether a terminal of the master `descriptor` has been opened by someone.
int goliath_pty_is_open(int descriptor);

/// Puts the terminal into raw mode (with `signals`: keys still raise signals) and restores it at exit. 0 or -errno.
int goliath_terminal_raw(int descriptor, int signals);

/// Restores what `goliath_terminal_raw` changed. Safe in signal handlers.
void goliath_terminal_restore(void);

/// Sets a serial line: speed, data bits (5 to 8), parity ('N', 'E', 'O'), stop bits. 0 or -errno.
int goliath_serial_set(int descriptor, int speed, int data_bits, int parity, int stop_bits);

#define GOLIATH_CAPSTONE 1
#define GOLIATH_ZYDIS 2

/// The disassembler libraries that this host has: GOLIATH_CAPSTONE and GOLIATH_ZYDIS or'ed, 0 for none. Looks once.
int goliath_disassembler_libraries(void);

/// Disassembles one x86 instruction (`bits`: 16, 32, 64) with `library` as "mnemonic operands" in that library's AT&T syntax.
/// Its length, or 0.
int goliath_disassemble(int library, int bits, const unsigned char *code, uint64_t size, uint64_t address,
                        char *text, uint64_t room);

#define GOLIATH_ZLIB 1
#define GOLIATH_LZO 2
#define GOLIATH_SNAPPY 4

/// The compression libraries that this host has, or'ed. Looks once.
int32_t goliath_compression_libraries(void);

/// The state of one compressing thread, or NULL when the library is missing or memory is short.
struct goliath_compressor;
struct goliath_compressor *goliath_compressor_make(int32_t kind);
void goliath_compressor_free(struct goliath_compressor *compressor);

/// Compresses `count` bytes (at most 64 KiB) for themselves. The length, or -1 when they do not fit into `room`.
int64_t goliath_compress(struct goliath_compressor *compressor, const void *in, uint64_t count, void *out, uint64_t room);

#define GOLIATH_CODEC_ZLIB 1
#define GOLIATH_CODEC_ZSTD 2

/// The libraries for clusters of disk images that this host has, or'ed. Looks once.
int32_t goliath_codec_libraries(void);

/// What one thread compresses and decompresses clusters with, or NULL when the library is missing or memory is short. `kind` is one of them.
struct goliath_codec;
struct goliath_codec *goliath_codec_make(int32_t kind);
void goliath_codec_free(struct goliath_codec *codec);

/// Compresses `count` bytes for themselves (zlib: raw deflate, window of 4 KiB). The length; -1 when it does not fit into `room` or a sample says that it
/// hardly would, -2 when the library fails.
int64_t goliath_codec_compress(struct goliath_codec *codec, const void *in, uint64_t count, void *out, uint64_t room);

/// Decompresses exactly `count` bytes from the beginning of `in`, whose end may be anything. 0, or -1 for damaged input.
int32_t goliath_codec_decompress(struct goliath_codec *codec, const void *in, uint64_t length, void *out, uint64_t count);
// MARK: Networks (Network.c). Negative results are -errno.

/// Opens a tap device; `name` (empty for the kernel's choice) becomes its name. `vnet_header` becomes 0 when the kernel has no such headers.
int goliath_tap_open(char *name, uint64_t room, int *vnet_header, int require_header, int queues);
/// Whether frames of a tap descriptor have headers for offloads.
int goliath_tap_has_header(int descriptor);
int goliath_tap_set_header_size(int descriptor, int size);
/// What the kernel may leave to the reader of a tap device (TUN_F_...).
int goliath_tap_set_offload(int descriptor, unsigned offloads);
int goliath_tap_set_send_buffer(int descriptor, int size);
int goliath_tap_set_queue(int descriptor, int is_on);
/// For a new process before it becomes another program: no signal is blocked or ignored any more. Threads of this one block many.
void goliath_usual_signals(void);
/// Runs a script with one argument and waits for it: its status.
int goliath_run_script(const char *path, const char *argument);
/// Runs a helper that makes a tap device on a bridge and hands over its descriptor.
int goliath_run_bridge_helper(const char *helper, const char *bridge, int with_header);
/// A datagram socket in a multicast group (struct sockaddr_in); `local`: the interface's address (struct in_addr), or null.
int goliath_multicast_socket(const void *group, const void *local);
/// The ones' complement sum of 16-bit words as they lie in memory, added to `sum` (RFC 1071); 16 bits.
uint32_t goliath_ones_sum(const void *bytes, uint64_t size, uint32_t sum);

// MARK: Nodes of a cluster

/// CRC-32C (RFC 3720, B.4) of four little-endian words. `portable`: without the processor's instruction for it.
uint32_t goliath_crc32c(uint64_t a, uint64_t b, uint64_t c, uint64_t d, int portable);

/// A number that belongs to the calling thread, at first 0. Changes it unless `change` is negative; what it was before.
int goliath_thread_duty(int change);
