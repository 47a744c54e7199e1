// What Zydis 4 says of an instruction, when the library and its headers are there.
#pragma once
#include <stddef.h>
#include <stdint.h>

#define ZYDIS4_READ 1
#define ZYDIS4_WRITE 2
#define ZYDIS4_CONDITIONAL_READ 4
#define ZYDIS4_CONDITIONAL_WRITE 8

/// An operand that ModRM, VEX.vvvv or the opcode names.
typedef struct {
  /// 0: none; 1: general register; 2: memory; 3: address only (LEA); 4: another register.
  uint8_t kind;
  /// ZYDIS4_READ and so on.
  uint8_t actions;
  /// Of a general register: 0 to 15 of the register that it is part of.
  uint8_t number;
  uint16_t bytes;
} Zydis4Operand;

typedef struct {
  uint8_t length;
  /// RFLAGS bits.
  uint32_t tested, written;
  Zydis4Operand reg, rm, vvvv;
  /// General registers of operands that the text does not show or the opcode fixes; bits by number.
  uint16_t implicitRead, implicitWritten;
  char name[32];
} Zydis4Instruction;

/// Whether the library is there.
int zydis4_open(void);
/// Decodes 64-bit code. 0 when the bytes are an instruction.
int zydis4_decode(const uint8_t *_Nonnull code, size_t size, Zydis4Instruction *_Nonnull out);
