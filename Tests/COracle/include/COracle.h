// Runs short pieces of code on the host CPU, in a child process, with all registers and a little memory given and taken back.
#pragma once
#include <stddef.h>
#include <stdint.h>

/// Where the child has the code page and the data pages. The page before the data and the one behind it are not mapped; of the
/// ORACLE_DATA_PAGES data pages the last is read-only.
#define ORACLE_CODE 0x40000000ull
#define ORACLE_DATA 0x40100000ull
#define ORACLE_DATA_PAGES 4
#define ORACLE_DATA_BYTES (ORACLE_DATA_PAGES * 4096)
#define ORACLE_CODE_BYTES 96
#define ORACLE_XSAVE_BYTES 832

/// Registers before or after, and what ended the run.
typedef struct {
  /// RAX RCX RDX RBX RSP RBP RSI RDI R8 to R15.
  uint64_t gpr[16];
  uint64_t rip;
  uint64_t rflags;
  /// Afterwards: exception vector, error code, CR2.
  uint64_t vector;
  uint64_t error;
  uint64_t cr2;
  uint64_t padding[3];
  /// The XSAVE area in standard form: x87, SSE, AVX.
  uint8_t xsave[ORACLE_XSAVE_BYTES];
} OracleRegisters;

typedef struct {
  OracleRegisters before;
  OracleRegisters after;
  uint8_t code[ORACLE_CODE_BYTES];
  uint8_t padding[32];
  /// The data pages afterwards; before, all cases have `OracleShared.data`.
  uint8_t data[ORACLE_DATA_BYTES];
} OracleCase;

typedef struct OracleProcess OracleProcess;

/// Starts a child that can run up to `capacity` cases at once. NULL with errno set when the host does not let us.
OracleProcess *_Nullable oracle_start(size_t capacity);
/// The cases, shared with the child.
OracleCase *_Nonnull oracle_cases(OracleProcess *_Nonnull process);
/// What the data pages hold before each case; ORACLE_DATA_BYTES.
uint8_t *_Nonnull oracle_data(OracleProcess *_Nonnull process);
/// The data pages as case `index` left them; ORACLE_DATA_BYTES.
const uint8_t *_Nonnull oracle_result_data(OracleProcess *_Nonnull process, size_t index);
/// Runs the first `count` cases. 0; or 1 + the number of the case at which the child died (it must be stopped then).
int oracle_run(OracleProcess *_Nonnull process, size_t count);
void oracle_stop(OracleProcess *_Nonnull process);

/// The XSAVE components that host and kernel give this process (XCR0).
uint64_t oracle_components(void);

#include "Zydis4.h"
