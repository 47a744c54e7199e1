// The common cases of what interpreter and translated code leave the inner loop for: system calls, interrupts, string copies.
//
// Each function does one instruction or one delivery completely, or answers "no" and has changed nothing: then the rules in
// Sources/Translator decide, which know everything. They touch no vector state, so that translated code may call them with
// the guest's vector registers loaded. `rip` is the address of the next instruction, as while an instruction executes.
#pragma once
#include "CX86.h"

/// SYSCALL from 64-bit code to 64-bit code (SDM vol. 2B). 1: done.
int x86_fast_syscall(X86State *_Nonnull s);
/// SYSRET with 64-bit operand size (SDM vol. 2B). 1: done.
int x86_fast_sysret(X86State *_Nonnull s);
/// IRETQ to 64-bit code (SDM vol. 2A). 1: done.
int x86_fast_iretq(X86State *_Nonnull s);
/// SWAPGS. 1: done.
int x86_fast_swapgs(X86State *_Nonnull s);
/// RDTSC; with `processor` RDTSCP. 1: done.
int x86_fast_rdtsc(X86State *_Nonnull s, int processor);
/// POPFQ. 1: done.
int x86_fast_popf(X86State *_Nonnull s);
/// PUSHFQ. 1: done.
int x86_fast_pushf(X86State *_Nonnull s);

/// RDFSBASE, RDGSBASE, WRFSBASE, WRGSBASE by `which` 0 to 3, with general register `reg` of `size` bytes. 1: done.
int x86_fast_base(X86State *_Nonnull s, uint32_t which, uint32_t reg, uint32_t size);
/// WRMSR of the bases of FS and GS. 1: done.
int x86_fast_wrmsr(X86State *_Nonnull s);
/// STAC, CLAC. 1: done.
int x86_fast_access(X86State *_Nonnull s, int set);

/// INT n, INT3: the gate's privilege is checked.
#define X86_DELIVER_SOFTWARE 1
/// The frame ends with an error code.
#define X86_DELIVER_CODE 2
/// RF is set in the image of RFLAGS that is pushed.
#define X86_DELIVER_RF 4

/// Delivers `vector` from 64-bit code through a 64-bit gate (SDM vol. 3A, 6.14). CR2 and DR6 are the caller's. 1: done.
int x86_fast_interrupt(X86State *_Nonnull s, uint32_t vector, uint32_t how, uint32_t code);

/// A string instruction is finished, its registers say so.
#define X86_FAST_DONE 1
/// A string instruction has stopped at an instruction boundary because of `request`: look at that, then execute it again.
#define X86_FAST_AGAIN 2

/// REP MOVS with 64-bit addresses: elements of `size` bytes from `segment`:RSI to RDI. Returns X86_FAST_*, or 0: the
/// interpreter must go on, from the registers as they stand (an instruction boundary, too).
int x86_fast_rep_movs(X86State *_Nonnull s, uint32_t size, uint32_t segment);
/// REP STOS with 64-bit addresses. Returns as x86_fast_rep_movs.
int x86_fast_rep_stos(X86State *_Nonnull s, uint32_t size);

// MARK: - From translated code

/// What an instruction asks for, in the low byte of the word that translated code passes in R11; the next two are its parameters, the
/// highest is the instruction's length.
enum {
  // Away: go on wherever `rip` is then.
  x86FastSyscall,
  x86FastSysret,
  x86FastIretq,
  x86FastPopf,
  x86FastStac,
  x86FastClac,
  // Inside: go on with the next instruction.
  x86FastRdtsc,
  x86FastRdtscp,
  x86FastPushf,
  /// Parameters: element size, segment.
  x86FastRepMovs,
  x86FastRepStos,
  /// Parameters: register, `which` and, in bit 4, whether it has 64 bits.
  x86FastBase,
  x86FastWrmsr,
};

/// Routines for translated code: R10 is the address of the next instruction, R11 the word; arithmetic flags are in X86State.flags. They
/// come back, go to the code at `rip`, or leave for the interpreter to execute the instruction.
extern const char x86_fast_call_inside[], x86_fast_call_away[];
