// Disassembler libraries, loaded when first asked for. Their headers need not be installed: the few calls and the
// record that Capstone 4 fills are declared here. Any thread: one instruction at a time, behind a lock.
#define _GNU_SOURCE 1
#include "CLinux.h"
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

struct capstone_instruction {  // cs_insn of Capstone 4
  unsigned id;
  uint64_t address;
  uint16_t size;
  uint8_t bytes[16];
  char mnemonic[32];
  char operands[160];
  void *detail;
};

struct zydis_instruction {  // ZydisDisassembledInstruction of Zydis 4.0, as far as it matters
  uint64_t address;
  struct {
    uint64_t mnemonic;  // and machine mode
    uint8_t length;
    uint8_t encoding[16];
    uint8_t visible;  // operands
    uint8_t rest[302];
  } info;
  uint8_t operands[800];
  char text[96];
};
_Static_assert(sizeof(struct zydis_instruction) == 1232, "as the library fills it");

static struct {
  int (*open)(int architecture, int mode, size_t *handle);
  int (*option)(size_t handle, int type, size_t value);
  size_t (*disassemble)(size_t handle, const uint8_t *code, size_t size, uint64_t address, size_t count,
                        struct capstone_instruction **instructions);
  void (*release)(struct capstone_instruction *instructions, size_t count);
  size_t handles[3];
} capstone;

static struct {
  unsigned (*disassemble)(int mode, uint64_t address, const void *code, size_t size, void *instruction);
  unsigned (*prepare)(void *formatter, int style);
  unsigned (*property)(void *formatter, int property, uintptr_t value);
  unsigned (*format)(const void *formatter, const void *instruction, const void *operands, uint8_t count, char *text,
                     size_t room, uint64_t address, void *user);
  uint64_t formatter[128];  // ZydisFormatter has 584 bytes
} zydis;

static void find_libraries(void) {
  void *library = dlopen("libcapstone.so.4", RTLD_NOW | RTLD_LOCAL);
  if (library) {
    *(void **)&capstone.open = dlsym(library, "cs_open");
    *(void **)&capstone.option = dlsym(library, "cs_option");
    *(void **)&capstone.disassemble = dlsym(library, "cs_disasm");
    *(void **)&capstone.release = dlsym(library, "cs_free");
    for (int i = 0; i < 3 && capstone.open && capstone.option; i++)
      if (capstone.open(3, 2 << i, &capstone.handles[i]) == 0)  // CS_ARCH_X86; CS_MODE_16, _32, _64
        capstone.option(capstone.handles[i], 1, 2);             // CS_OPT_SYNTAX, AT&T
  }
  if (!capstone.release || !capstone.handles[2]) capstone.disassemble = 0;
  library = dlopen("libZydis.so.4.0", RTLD_NOW | RTLD_LOCAL);
  if (!library) return;
  *(void **)&zydis.prepare = dlsym(library, "ZydisFormatterInit");
  *(void **)&zydis.property = dlsym(library, "ZydisFormatterSetProperty");
  *(void **)&zydis.format = dlsym(library, "ZydisFormatterFormatInstruction");
  if (!zydis.prepare || !zydis.property || !zydis.format || zydis.prepare(zydis.formatter, 0) & 0x80000000u) return;
  // As near to Capstone as the library's settings go: RIP-relative operands as written, no padding, small letters.
  static const int settings[][2] = {{4, 1}, {9, 0}, {10, 0}, {13, 0}, {15, 2}, {16, 0}, {24, 0}};
  for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
    zydis.property(zydis.formatter, settings[i][0], (uintptr_t)settings[i][1]);
  *(void **)&zydis.disassemble = dlsym(library, "ZydisDisassembleATT");
}

int goliath_disassembler_libraries(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, find_libraries);
  return (capstone.disassemble ? GOLIATH_CAPSTONE : 0) | (zydis.disassemble ? GOLIATH_ZYDIS : 0);
}

static int with_capstone(int index, const unsigned char *code, uint64_t size, uint64_t address, char *text,
                         uint64_t room) {
  struct capstone_instruction *found = 0;
  size_t count = capstone.disassemble(capstone.handles[index], code, size, address, 1, &found);
  if (!count) return 0;
  int length = found->size;
  snprintf(text, room, "%-8s %s", found->mnemonic, found->operands);
  capstone.release(found, count);
  return length;
}

static int with_zydis(int index, const unsigned char *code, uint64_t size, uint64_t address, char *text,
                      uint64_t room) {
  struct zydis_instruction instruction;
  static const int modes[] = {5, 3, 0};  // REAL_16, LEGACY_32, LONG_64
  if (zydis.disassemble(modes[index], address, code, size, &instruction) & 0x80000000u) return 0;
  if (zydis.format(zydis.formatter, &instruction.info, instruction.operands, instruction.info.visible, text, room, address,
                   0) & 0x80000000u)
    return 0;
  return instruction.info.length;
}

int goliath_disassemble(int library, int bits, const unsigned char *code, uint64_t size, uint64_t address,
                        char *text, uint64_t room) {
  static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
  if (!(goliath_disassembler_libraries() & library)) return 0;
  int index = bits == 16 ? 0 : bits == 32 ? 1 : 2;
  // A handle of Capstone's serves one thread at a time.
  pthread_mutex_lock(&lock);
  int length = library == GOLIATH_CAPSTONE ? with_capstone(index, code, size, address, text, room)
                                           : with_zydis(index, code, size, address, text, room);
  pthread_mutex_unlock(&lock);
  return length;
}
