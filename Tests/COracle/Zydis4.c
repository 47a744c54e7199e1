#include "Zydis4.h"

#if __has_include(<Zydis/Zydis.h>)
#include <Zydis/Zydis.h>
#include <dlfcn.h>
#include <pthread.h>
#include <string.h>

// The library is loaded when asked for, so that a host without it can still run the other tests.
static struct {
  ZyanStatus (*init)(ZydisDecoder *, ZydisMachineMode, ZydisStackWidth);
  ZyanStatus (*decode)(const ZydisDecoder *, const void *, ZyanUSize, ZydisDecodedInstruction *,
                       ZydisDecodedOperand *);
  ZydisRegister (*enclosing)(ZydisMachineMode, ZydisRegister);
  ZyanI8 (*number)(ZydisRegister);
  ZydisRegisterClass (*class)(ZydisRegister);
  const char *(*name)(ZydisMnemonic);
  ZydisDecoder decoder;
  int isOpen;
} zydis;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void load(void) {
  void *library = dlopen("libZydis.so.4.0", RTLD_NOW | RTLD_LOCAL);
  if (!library) return;
  *(void **)&zydis.init = dlsym(library, "ZydisDecoderInit");
  *(void **)&zydis.decode = dlsym(library, "ZydisDecoderDecodeFull");
  *(void **)&zydis.enclosing = dlsym(library, "ZydisRegisterGetLargestEnclosing");
  *(void **)&zydis.number = dlsym(library, "ZydisRegisterGetId");
  *(void **)&zydis.class = dlsym(library, "ZydisRegisterGetClass");
  *(void **)&zydis.name = dlsym(library, "ZydisMnemonicGetString");
  if (!zydis.init || !zydis.decode || !zydis.enclosing || !zydis.number || !zydis.class || !zydis.name) return;
  zydis.isOpen = ZYAN_SUCCESS(
    zydis.init(&zydis.decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64));
}

int zydis4_open(void) {
  pthread_once(&once, load);
  return zydis.isOpen;
}

/// 0 to 15, or -1 when it is not a general register.
static int general(ZydisRegister r) {
  switch (zydis.class(r)) {
  case ZYDIS_REGCLASS_GPR8:
  case ZYDIS_REGCLASS_GPR16:
  case ZYDIS_REGCLASS_GPR32:
  case ZYDIS_REGCLASS_GPR64:
    return zydis.number(zydis.enclosing(ZYDIS_MACHINE_MODE_LONG_64, r));
  default: return -1;
  }
}

static Zydis4Operand operand(const ZydisDecodedOperand *o) {
  Zydis4Operand result = {.actions = o->actions, .bytes = o->size / 8};
  if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
    result.kind = o->mem.type == ZYDIS_MEMOP_TYPE_AGEN ? 3 : 2;
  } else if (o->type == ZYDIS_OPERAND_TYPE_REGISTER) {
    int number = general(o->reg.value);
    result.kind = number < 0 ? 4 : 1;
    result.number = number < 0 ? 0 : number;
  }
  return result;
}

int zydis4_decode(const uint8_t *code, size_t size, Zydis4Instruction *out) {
  ZydisDecodedInstruction instruction;
  ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
  memset(out, 0, sizeof *out);
  if (!ZYAN_SUCCESS(zydis.decode(&zydis.decoder, code, size, &instruction, operands))) return -1;
  out->length = instruction.length;
  strncpy(out->name, zydis.name(instruction.mnemonic), sizeof out->name - 1);
  if (instruction.cpu_flags) {
    out->tested = instruction.cpu_flags->tested;
    out->written = instruction.cpu_flags->modified | instruction.cpu_flags->set_0 |
                   instruction.cpu_flags->set_1 | instruction.cpu_flags->undefined;
  }
  for (int n = 0; n < instruction.operand_count; n++) {
    const ZydisDecodedOperand *o = &operands[n];
    if (o->visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT) {
      switch (o->encoding) {
      case ZYDIS_OPERAND_ENCODING_MODRM_REG: out->reg = operand(o); continue;
      case ZYDIS_OPERAND_ENCODING_MODRM_RM:
      case ZYDIS_OPERAND_ENCODING_OPCODE: out->rm = operand(o); continue;
      case ZYDIS_OPERAND_ENCODING_NDSNDD: out->vvvv = operand(o); continue;
      default: break;
      }
    }
    if (o->type == ZYDIS_OPERAND_TYPE_REGISTER) {
      int number = general(o->reg.value);
      if (number < 0) continue;
      if (o->actions & (ZYDIS4_READ | ZYDIS4_CONDITIONAL_READ)) out->implicitRead |= 1u << number;
      if (o->actions & (ZYDIS4_WRITE | ZYDIS4_CONDITIONAL_WRITE)) out->implicitWritten |= 1u << number;
    } else if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
      int base = general(o->mem.base);
      if (base >= 0) out->implicitRead |= 1u << base;
    }
  }
  return 0;
}
#else
int zydis4_open(void) { return 0; }
int zydis4_decode(const uint8_t *code, size_t size, Zydis4Instruction *out) {
  (void)code, (void)size, (void)out;
  return -1;
}
#endif
