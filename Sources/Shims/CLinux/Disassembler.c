// Disassembler libraries, loaded when first asked for. Their headers need not be installed: the few calls and the
// record that Capstone 4 fills are declared here. Main loop only.
#define _GNU_SOURCE 1
#include "CLinux.h"
#include <dlfcn.h>
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
  uint64_t unused;
  uint8_t length;
  uint8_t rest[1119];
  char text[96];
};
_Static_assert(sizeof(struct zydis_instruction) == 1232, "as the library fills it");

static struct {
  int tried;
  int (*open)(int architecture, int mode, size_t *handle);
  int (*option)(size_t handle, int type, size_t value);
  size_t (*disassemble)(size_t handle, const uint8_t *code, size_t size, uint64_t address, size_t count,
                        struct capstone_instruction **instructions);
  void (*release)(struct capstone_instruction *instructions, size_t count);
  size_t handles[3];
} capstone;

static struct {
  unsigned (*disassemble)(int mode, uint64_t address, const void *code, size_t size, void *instruction);
} zydis;

int goliath_disassembler_open(void) {
  if (!capstone.tried) {
    capstone.tried = 1;
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
    if (!capstone.disassemble || !capstone.release || !capstone.handles[2]) capstone.disassemble = 0;
    if (!capstone.disassemble) {
      library = dlopen("libZydis.so.4.0", RTLD_NOW | RTLD_LOCAL);
      if (library) *(void **)&zydis.disassemble = dlsym(library, "ZydisDisassembleATT");
    }
  }
  return capstone.disassemble || zydis.disassemble ? 0 : -1;
}

int goliath_disassemble(int bits, const unsigned char *code, uint64_t size, uint64_t address, char *text,
                        uint64_t room) {
  if (goliath_disassembler_open() < 0) return 0;
  int index = bits == 16 ? 0 : bits == 32 ? 1 : 2;
  if (capstone.disassemble) {
    struct capstone_instruction *found = 0;
    size_t count = capstone.disassemble(capstone.handles[index], code, size, address, 1, &found);
    if (!count) return 0;
    int length = found->size;
    snprintf(text, room, "%-8s %s", found->mnemonic, found->operands);
    capstone.release(found, count);
    return length;
  }
  static struct zydis_instruction instruction;
  static const int modes[] = {5, 3, 0};  // REAL_16, LEGACY_32, LONG_64
  if (zydis.disassemble(modes[index], address, code, size, &instruction) & 0x80000000u) return 0;
  snprintf(text, room, "%.*s", (int)sizeof instruction.text, instruction.text);
  return instruction.length;
}
