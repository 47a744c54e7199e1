// Atomics and threads. The number of threads does not depend on the number of processors: checksums are equal everywhere.
#include "bench.h"

#include <pthread.h>
#include <stdatomic.h>

static uint64_t atomics(double scale) {
  _Atomic uint64_t word = 1;
  _Atomic uint32_t flags = 0;
  uint64_t hash = 0;
  for (uint64_t i = rounds(scale, 3000000); i; i--) {
    hash += atomic_fetch_add(&word, i);
    uint32_t seen = (uint32_t)i;
    if (!atomic_compare_exchange_strong(&flags, &seen, (uint32_t)hash)) hash ^= seen;
    atomic_fetch_or(&flags, 1u << (i & 31));
    if ((i & 15) == 0) hash += atomic_exchange(&flags, (uint32_t)i);
  }
  return fold(fold(hash, word), flags);
}

struct share {
  pthread_t thread;
  uint64_t count, result;
};

static void *hash_share(void *opaque) {
  struct share *share = opaque;
  static const uint8_t data[64 << 10];
  uint32_t state[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  for (uint64_t r = share->count; r; r--) sha256_blocks(state, data, sizeof data / 64);
  for (int i = 0; i < 8; i++) share->result = fold(share->result, state[i]);
  return NULL;
}

static uint64_t on_threads(unsigned threads, void *(*body)(void *), uint64_t count) {
  struct share shares[8] = {0};
  uint64_t hash = 0;
  for (unsigned i = 0; i < threads; i++) {
    shares[i].count = count;
    if (pthread_create(&shares[i].thread, NULL, body, &shares[i])) give_up("pthread_create");
  }
  for (unsigned i = 0; i < threads; i++) {
    pthread_join(shares[i].thread, NULL);
    hash = fold(hash, shares[i].result);
  }
  return hash;
}

// The same work for each thread: with two processors, sha_2threads should take the wall time of sha_1thread.
static uint64_t sha_1thread(double scale) { return on_threads(1, hash_share, rounds(scale, 250)); }
static uint64_t sha_2threads(double scale) { return on_threads(2, hash_share, rounds(scale, 250)); }

static _Atomic uint64_t shared_count;

static void *count_share(void *opaque) {
  struct share *share = opaque;
  for (uint64_t i = share->count; i; i--) atomic_fetch_add(&shared_count, i);
  return NULL;
}

static uint64_t atomic_2threads(double scale) {
  on_threads(2, count_share, rounds(scale, 2000000));
  return shared_count;
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t guarded;

static void *lock_share(void *opaque) {
  struct share *share = opaque;
  for (uint64_t i = share->count; i; i--) {
    pthread_mutex_lock(&lock);
    guarded += i;
    pthread_mutex_unlock(&lock);
  }
  return NULL;
}

static uint64_t mutex_2threads(double scale) {
  on_threads(2, lock_share, rounds(scale, 1000000));
  return guarded;
}

const struct program scaling_programs[] = {{"atomics", "scaling", atomics},
                                           {"sha_1thread", "scaling", sha_1thread},
                                           {"sha_2threads", "scaling", sha_2threads},
                                           {"atomic_2threads", "scaling", atomic_2threads},
                                           {"mutex_2threads", "scaling", mutex_2threads},
                                           {0}};
