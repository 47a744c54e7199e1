# A guest whose vCPUs compute, each in 64 KiB of its own, without a word to each other (Benchmarks/cluster/run.py --only compute).
#
# VCPUS (1 or 2) is given to the assembler. vCPU 0 writes s to the first serial port when both are there, and e when both have done ROUNDS rounds;
# a round is 16384 steps of a generator of random numbers, each of which changes a word of memory.

.set ROUNDS, 1500
.set COUNT, 0x201000         # interrupts that vCPU 0 has had
.set AREA, 0x400000          # of vCPU 0; that of vCPU 1 is a MiB further on

.code32
.section .text
main:
.if VCPUS > 1
  call startOther
  movl $1, %ebp
  call waitFor
.endif
  movb $'s', %al
  call put
.if VCPUS > 1
  call send
.endif
  movl $AREA, %edi
  call compute
.if VCPUS > 1
  movl $2, %ebp
  call waitFor
.endif
  movb $'e', %al
  call put
3: cli
  hlt
  jmp 3b

other:
  sti
  hlt                         # until vCPU 0 says so
  cli
  movl $(AREA + 0x100000), %edi
  call compute
  call send0
1: hlt
  jmp 1b

# Until vCPU 0 has had %ebp interrupts.
waitFor:
1: sti
  hlt
  cli
  cmpl %ebp, COUNT
  jb 1b
  ret

compute:
  movl $ROUNDS, %ebx
  movl $0x12345678, %eax
1: movl $16384, %ecx
2: movl %eax, %edx
  shll $13, %edx
  xorl %edx, %eax
  movl %eax, %edx
  shrl $17, %edx
  xorl %edx, %eax
  movl %eax, %edx
  shll $5, %edx
  xorl %edx, %eax
  movl %eax, %edx
  andl $0xFFFC, %edx
  addl %eax, (%edi,%edx)
  decl %ecx
  jnz 2b
  decl %ebx
  jnz 1b
  ret

handler:
  movl $0, APIC + 0xB0
  incl COUNT
  iret
# vCPU 1 is woken by its own, which leaves the other's counter alone.
handler1:
  movl $0, APIC + 0xB0
  iret

#include "flat.inc"
