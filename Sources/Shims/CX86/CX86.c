#include "CX86.h"

static uint8_t splitLock;

void x86_split_lock(void) {
  while (__atomic_exchange_n(&splitLock, 1, __ATOMIC_ACQUIRE)) __builtin_ia32_pause();
}

void x86_split_unlock(void) { __atomic_store_n(&splitLock, 0, __ATOMIC_RELEASE); }
