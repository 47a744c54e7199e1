// Runs short pieces of code on the host CPU, in a child process, with all registers and a little memory given and taken back.
#pragma once
#include <stddef.h>
#include <stdint.h>

/// Where the child has the code pages and the data pages. The page before the data and the one behind it are not mapped; of the
/// ORACLE_DATA_PAGES data pages the last is read-only.
#define ORACLE_CODE 0x40000000ull
#define ORACLE_CODE_PAGES 2
#define ORACLE_CODE_SPACE (ORACLE_CODE_PAGES * 4096)
#define ORACLE_DATA 0x40100000ull
#define ORACLE_DATA_PAGES 4
#define ORACLE_DATA_BYTES (ORACLE_DATA_PAGES * 4096)
/// The longest piece of code.
#define ORACLE_CODE_BYTES 1024
#define ORACLE_XSAVE_BYTES 832
#define ORACLE_ENDLESS 255

/// Registers before or after, and what ended the run.
typedef struct {
  /// RAX RCX RDX RBX RSP RBP RSI RDI R8 to R15.
  uint64_t gpr[16];
  uint64_t rip;
  uint64_t rflags;
  /// Afterwards: exception vector (ORACLE_ENDLESS when it had to be stopped), error code, CR2.
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
  /// Where in the code pages the code lies, and where it is entered. Round it is INT3.
  uint32_t offset;
  uint32_t length;
  uint8_t padding[56];
  uint8_t code[ORACLE_CODE_BYTES];
  /// The data pages afterwards; before, all cases have `oracle_data`.
  uint8_t data[ORACLE_DATA_BYTES];
  /// The code pages afterwards, when they are writable.
  uint8_t codeAfter[ORACLE_CODE_SPACE];
} OracleCase;

typedef struct OracleProcess OracleProcess;

/// Starts a child that can run up to `capacity` cases at once. `writableCode`: the code may change itself, and may go anywhere; the
/// child then cannot call the kernel. NULL with errno set when the host does not let us.
OracleProcess *_Nullable oracle_start(size_t capacity, int writableCode);
/// The cases, shared with the child.
OracleCase *_Nonnull oracle_cases(OracleProcess *_Nonnull process);
/// What the data pages hold before each case; ORACLE_DATA_BYTES.
uint8_t *_Nonnull oracle_data(OracleProcess *_Nonnull process);
/// The data pages as case `index` left them; ORACLE_DATA_BYTES.
const uint8_t *_Nonnull oracle_result_data(OracleProcess *_Nonnull process, size_t index);
/// The code pages as case `index` left them; ORACLE_CODE_SPACE.
const uint8_t *_Nonnull oracle_result_code(OracleProcess *_Nonnull process, size_t index);
/// Runs the first `count` cases. 0; or 1 + the number of the case at which the child died (it must be stopped then).
int oracle_run(OracleProcess *_Nonnull process, size_t count);
void oracle_stop(OracleProcess *_Nonnull process);

#define ORACLE_TEXT_BYTES (1 << 18)

/// What a child of `oracle_isolate` tells its parent while it runs.
typedef struct {
  /// The case and the way of running it that are under way.
  volatile uint64_t number;
  volatile uint64_t mode;
  /// Free for the caller.
  volatile uint64_t count, other, lasting;
  char text[ORACLE_TEXT_BYTES];
} OracleReport;

/// The page shared with children; zeroed by `oracle_isolate`. NULL: no memory.
OracleReport *_Nullable oracle_report(void);
/// Its text, of ORACLE_TEXT_BYTES.
char *_Nonnull oracle_report_text(OracleReport *_Nonnull report);
/// Writes out what standard output has collected.
void oracle_flush(void);
/// Runs `body(context)` in a forked child, for at most `seconds`. Its status as `waitpid` gives it; -1: it could not be started. A
/// child that takes too long is ended by SIGALRM. To be called without other threads.
int oracle_isolate(void (*_Nonnull body)(void *_Nullable), void *_Nullable context, unsigned seconds);

/// The XSAVE components that host and kernel give this process (XCR0).
uint64_t oracle_components(void);

#include "Zydis4.h"
