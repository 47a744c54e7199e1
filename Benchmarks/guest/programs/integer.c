// Programs of integer code: sorting, tables, hashing, branches, calls, an interpreter, pointers.
#include "bench.h"

#include <stdlib.h>
#include <string.h>

// Quicksort by hand down to 16 elements, insertion sort below.
static void quicksort(uint32_t *a, ptrdiff_t n) {
  while (n > 16) {
    uint32_t pivot = a[n / 2];
    ptrdiff_t i = 0, j = n - 1;
    while (i <= j) {
      while (a[i] < pivot) i++;
      while (a[j] > pivot) j--;
      if (i <= j) {
        uint32_t t = a[i];
        a[i++] = a[j];
        a[j--] = t;
      }
    }
    quicksort(a, j + 1);
    a += i;
    n -= i;
  }
  for (ptrdiff_t i = 1; i < n; i++) {
    uint32_t t = a[i];
    ptrdiff_t j = i;
    for (; j > 0 && a[j - 1] > t; j--) a[j] = a[j - 1];
    a[j] = t;
  }
}

static uint64_t sort(double scale) {
  enum { count = 200000 };
  uint32_t *a = pages(count * sizeof *a);
  uint64_t seed = 1, hash = 0;
  for (uint64_t r = rounds(scale, 5); r; r--) {
    for (size_t i = 0; i < count; i++) a[i] = (uint32_t)next_random(&seed);
    quicksort(a, count);
    for (size_t i = 0; i < count; i += 97) hash = fold(hash, a[i]);
  }
  return hash;
}

// CRC-32 (IEEE 802.3), a byte at a time by table.
static uint64_t crc(double scale) {
  enum { size = 1 << 20 };
  static uint32_t table[256];
  for (uint32_t i = 0; i < 256; i++) {
    uint32_t c = i;
    for (int bit = 0; bit < 8; bit++) c = c & 1 ? 0xEDB88320u ^ (c >> 1) : c >> 1;
    table[i] = c;
  }
  uint8_t *data = pages(size);
  uint64_t seed = 2;
  for (size_t i = 0; i < size; i++) data[i] = (uint8_t)next_random(&seed);
  uint32_t c = ~0u;
  for (uint64_t r = rounds(scale, 30); r; r--)
    for (size_t i = 0; i < size; i++) c = table[(c ^ data[i]) & 0xFF] ^ (c >> 8);
  return ~c;
}

static const uint32_t k256[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01,
    0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc,
    0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147,
    0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08,
    0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208,
    0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static inline uint32_t ror(uint32_t x, int n) { return x >> n | x << (32 - n); }

void sha256_blocks(uint32_t state[8], const uint8_t *data, size_t blocks) {
  for (; blocks; blocks--, data += 64) {
    uint32_t w[64];
    for (int i = 0; i < 16; i++) {
      uint32_t word;
      memcpy(&word, data + 4 * i, 4);
      w[i] = __builtin_bswap32(word);
    }
    for (int i = 16; i < 64; i++) {
      uint32_t s0 = ror(w[i - 15], 7) ^ ror(w[i - 15], 18) ^ w[i - 15] >> 3;
      uint32_t s1 = ror(w[i - 2], 17) ^ ror(w[i - 2], 19) ^ w[i - 2] >> 10;
      w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3], e = state[4], f = state[5], g = state[6], h = state[7];
    for (int i = 0; i < 64; i++) {
      uint32_t t1 = h + (ror(e, 6) ^ ror(e, 11) ^ ror(e, 25)) + ((e & f) ^ (~e & g)) + k256[i] + w[i];
      uint32_t t2 = (ror(a, 2) ^ ror(a, 13) ^ ror(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
      h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d, state[4] += e, state[5] += f, state[6] += g, state[7] += h;
  }
}

static uint64_t sha256(double scale) {
  enum { size = 64 << 10 };
  uint8_t *data = pages(size);
  uint64_t seed = 3;
  for (size_t i = 0; i < size; i++) data[i] = (uint8_t)next_random(&seed);
  uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  for (uint64_t r = rounds(scale, 320); r; r--) sha256_blocks(state, data, size / 64);
  uint64_t hash = 0;
  for (int i = 0; i < 8; i++) hash = fold(hash, state[i]);
  return hash;
}

// SipHash-2-4 of short keys, and a hash table of counters that they select.
static inline uint64_t rol(uint64_t x, int n) { return x << n | x >> (64 - n); }

static uint64_t siphash(const uint8_t *data, size_t length, uint64_t k0, uint64_t k1) {
  uint64_t a = k0 ^ 0x736f6d6570736575, b = k1 ^ 0x646f72616e646f6d, c = k0 ^ 0x6c7967656e657261, d = k1 ^ 0x7465646279746573;
  uint64_t word = 0;
#define ROUND \
  a += b, b = rol(b, 13) ^ a, a = rol(a, 32), c += d, d = rol(d, 16) ^ c, a += d, d = rol(d, 21) ^ a, c += b, \
      b = rol(b, 17) ^ c, c = rol(c, 32)
  for (size_t i = 0; i + 8 <= length; i += 8) {
    memcpy(&word, data + i, 8);
    d ^= word;
    ROUND;
    ROUND;
    a ^= word;
  }
  word = (uint64_t)length << 56;
  for (size_t i = length & ~(size_t)7; i < length; i++) word |= (uint64_t)data[i] << (8 * (i & 7));
  d ^= word;
  ROUND;
  ROUND;
  a ^= word;
  c ^= 0xFF;
  for (int i = 0; i < 4; i++) ROUND;
#undef ROUND
  return a ^ b ^ c ^ d;
}

static uint64_t mix(double scale) {
  enum { keys = 1024, counters = 4096 };
  static uint8_t text[keys * 24];
  static uint32_t count[counters];
  uint64_t seed = 4, hash = 0;
  for (size_t i = 0; i < sizeof text; i++) text[i] = (uint8_t)next_random(&seed);
  for (uint64_t r = rounds(scale, 2400); r; r--)
    for (size_t i = 0; i < keys; i++) {
      uint64_t h = siphash(text + 24 * i, 9 + (i * 7 & 15), r, hash & 1);
      hash += h >> 32;
      hash ^= ++count[h % counters];
    }
  return hash;
}

// A lexer over text like a program's: a branch or two for each character, most of them predictable, some not.
static uint64_t branchy(double scale) {
  enum { size = 32 << 10 };
  static const char *const words[] = {"if", "while", "return", "x", "total", "index", "(", ")", "{", "}", "+", "==", "=", ";",
                                      "\n  ", " ", "0x1F", "42", "7", "// remark\n", "\"text\"", "<=", "next_item", "-"};
  char *text = pages(size + 16);
  uint64_t seed = 5, tokens = 0, hash = 0, depth = 0, lines = 0;
  for (size_t at = 0; at < size;) {
    const char *word = words[next_random(&seed) % (sizeof words / sizeof *words)];
    size_t length = strlen(word);
    memcpy(text + at, word, at + length > size ? size - at : length);
    at += length;
    if (at < size) text[at++] = ' ';
  }
  for (uint64_t r = rounds(scale, 1200); r; r--) {
    const char *p = text, *end = text + size;
    while (p < end) {
      char c = *p;
      if (c == ' ') {
        p++;
        continue;
      }
      if (c == '\n') {
        lines++;
        p++;
        continue;
      }
      tokens++;
      if ((c >= 'a' && c <= 'z') || c == '_') {
        uint32_t h = 0;
        while ((*p >= 'a' && *p <= 'z') || *p == '_') h = h * 31 + (uint8_t)*p++;
        hash += h;
      } else if (c >= '0' && c <= '9') {
        uint64_t value = 0;
        if (c == '0' && p[1] == 'x') {
          for (p += 2;; p++) {
            if (*p >= '0' && *p <= '9') value = value * 16 + (uint64_t)(*p - '0');
            else if (*p >= 'A' && *p <= 'F') value = value * 16 + (uint64_t)(*p - 'A' + 10);
            else break;
          }
        } else
          while (*p >= '0' && *p <= '9') value = value * 10 + (uint64_t)(*p++ - '0');
        hash ^= value + depth;
      } else if (c == '"') {
        for (p++; p < end && *p != '"'; p++) hash += (uint8_t)*p;
        p++;
      } else if (c == '/' && p[1] == '/') {
        while (p < end && *p != '\n') p++;
      } else {
        switch (c) {
        case '(': case '{': depth++; break;
        case ')': case '}': depth = depth ? depth - 1 : 0; break;
        case '=': case '<': if (p[1] == '=') p++; hash += 3; break;
        case '+': hash += depth; break;
        case '-': hash -= depth; break;
        default: hash ^= (uint8_t)c;
        }
        p++;
      }
    }
    hash = fold(hash, tokens);
  }
  return fold(fold(hash, lines), depth);
}

static uint64_t (*volatile indirect)(uint64_t, uint64_t);

static __attribute__((noinline)) uint64_t leaf_add(uint64_t a, uint64_t b) { return a + b + (a >> 7); }
static __attribute__((noinline)) uint64_t leaf_xor(uint64_t a, uint64_t b) { return (a ^ b) * 3; }
static __attribute__((noinline, optimize("no-optimize-sibling-calls"))) uint64_t fibonacci(uint64_t n) {
  return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
}

// Direct, indirect and recursive calls.
static uint64_t calls(double scale) {
  uint64_t hash = 0;
  for (uint64_t r = rounds(scale, 15); r; r--) {
    hash = fold(hash, fibonacci(24));
    for (uint64_t i = 0; i < 700000; i++) {
      indirect = i & 4 ? leaf_add : leaf_xor;
      hash = indirect(leaf_add(hash, i), i);
    }
  }
  return hash;
}

// A register machine whose program sums primes by trial division; one indirect jump an instruction.
enum { LOADI, MOVE, ADD, SUB, MOD, ADDI, JZ, JLT, JMP, XOR, STOP };
struct code { uint8_t op, a, b; int32_t c; };

static uint64_t interpret(const struct code *program, uint64_t limit) {
  static const void *const labels[] = {&&loadi, &&move, &&add, &&sub, &&mod, &&addi, &&jz, &&jlt, &&jmp, &&xor, &&stop};
  uint64_t r[16] = {0};
  r[15] = limit;
  const struct code *pc = program;
#define NEXT goto *labels[pc->op]
  NEXT;
loadi: r[pc->a] = (uint64_t)(int64_t)pc->c; pc++; NEXT;
move: r[pc->a] = r[pc->b]; pc++; NEXT;
add: r[pc->a] += r[pc->b]; pc++; NEXT;
sub: r[pc->a] -= r[pc->b]; pc++; NEXT;
mod: r[pc->a] = (uint32_t)r[pc->a] % (uint32_t)r[pc->b]; pc++; NEXT;
addi: r[pc->a] += (uint64_t)(int64_t)pc->c; pc++; NEXT;
jz: pc += r[pc->a] == 0 ? pc->c : 1; NEXT;
jlt: pc += r[pc->a] < r[pc->b] ? pc->c : 1; NEXT;
jmp: pc += pc->c; NEXT;
xor: r[pc->a] ^= r[pc->b]; pc++; NEXT;
stop: return r[0] ^ r[5] << 32;
#undef NEXT
}

static uint64_t interp(double scale) {
  static const struct code primes[] = {
      {LOADI, 1, 0, 2},      // 0: n = 2
      {LOADI, 2, 0, 2},      // 1: outer: d = 2
      {MOVE, 3, 2, 0},       // 2: inner: t = d
      {MOVE, 4, 1, 0},       // 3: m = n
      {JLT, 3, 1, 2},        // 4: d < n: go on at 6
      {JMP, 0, 0, 6},        // 5: prime: to 11
      {MOD, 4, 3, 0},        // 6: m %= d
      {JZ, 4, 0, 6},         // 7: composite: to 13
      {ADDI, 2, 0, 1},       // 8: d++
      {XOR, 5, 2, 0},        // 9
      {JMP, 0, 0, -8},       // 10: to inner
      {ADD, 0, 1, 0},        // 11: sum += n
      {XOR, 5, 1, 0},        // 12
      {ADDI, 1, 0, 1},       // 13: n++
      {JLT, 1, 15, -13},     // 14: n < limit: to outer
      {STOP, 0, 0, 0},
  };
  uint64_t hash = 0;
  for (uint64_t r = rounds(scale, 12); r; r--) hash = fold(hash, interpret(primes, 3200 + r));
  return hash;
}

// One random cycle through `count` 64-byte nodes.
static uint64_t chase(size_t count, uint64_t steps) {
  struct node { struct node *next; uint64_t value[7]; };
  struct node *nodes = pages(count * sizeof *nodes);
  uint32_t *order = pages(count * sizeof *order);
  uint64_t seed = 7, sum = 0;
  for (size_t i = 0; i < count; i++) order[i] = (uint32_t)i;
  for (size_t i = count - 1; i > 0; i--) {
    size_t j = next_random(&seed) % (i + 1);
    uint32_t t = order[i];
    order[i] = order[j], order[j] = t;
  }
  for (size_t i = 0; i < count; i++) {
    nodes[order[i]].next = &nodes[order[(i + 1) % count]];
    nodes[order[i]].value[0] = i;
  }
  const struct node *at = nodes;
  for (; steps; steps--) {
    sum += at->value[0];
    at = at->next;
  }
  return sum;
}

static uint64_t chase_l1(double scale) { return chase(256, rounds(scale, 45000000)); }
static uint64_t chase_32m(double scale) { return chase(1 << 19, rounds(scale, 1200000)); }

const struct program integer_programs[] = {
    {"sort", "integer", sort},     {"crc", "integer", crc},
    {"sha256", "integer", sha256}, {"mix", "integer", mix},
    {"branchy", "integer", branchy}, {"calls", "integer", calls},
    {"interp", "integer", interp}, {"chase_l1", "integer", chase_l1},
    {"chase_32m", "integer", chase_32m}, {0}};
