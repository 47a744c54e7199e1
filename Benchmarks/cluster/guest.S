# A guest of two vCPUs on two nodes: what interrupts between them and ports of the other node cost (Benchmarks/cluster/run.py).
#
# Each step is done ROUNDS times; after each vCPU 0 writes the step's letter and what it took, in cycles of its clock, to the first serial port as
# hexadecimal digits; first and last the letter c and the clock, without its lowest ten bits, to know how fast that is:
#   i  interrupts from vCPU 0 to vCPU 1 and back, COUNT times, handler to handler; both sleep (hlt) in between
#   p  COUNT reads of a port by vCPU 1 (the 8259's mask: a device that does nothing)
#   l  the same by vCPU 0
# vCPU 1 begins and ends a round of p with an interrupt of vCPU 0 each way. Data that a vCPU writes has pages of its own.

.set ROUNDS, 400
.set COUNT, 16
.set SHARED, 0x200000        # the step, for vCPU 1
.set OWN0, 0x201000          # counters of vCPU 0
.set OWN1, 0x202000

.code32
.section .text
main:
  call startOther
  sti
2: hlt                        # its first interrupt says that it is there
  cmpl $0, OWN0
  je 2b
  cli

  call clock
  movb $'i', %bl
  movl $interrupts, %ebp
  call step
  movb $'p', %bl
  movl $ports, %ebp
  call step
  movb $'l', %bl
  movl $localPorts, %ebp
  call step
  call clock
  movb $'e', %al
  call put
3: cli
  hlt
  jmp 3b

# Does ROUNDS rounds of %ebp, with the letter %bl round each.
step:
  movzbl %bl, %eax
  movl %eax, SHARED
  movl $ROUNDS, %edi
1: rdtsc
  pushl %eax
  call *%ebp
  rdtsc
  popl %edx
  subl %edx, %eax
  pushl %eax
  movb %bl, %al
  call put
  popl %eax
  call hex
  decl %edi
  jnz 1b
  ret

clock:
  movb $'c', %al
  call put
  rdtsc
  shrdl $10, %edx, %eax
hex:                          # eight digits of %eax
  movl $8, %ecx
  movl %eax, %edx
1: roll $4, %edx
  movl %edx, %eax
  andb $15, %al
  addb $'0', %al
  cmpb $'9', %al
  jbe 2f
  addb $('A' - '9' - 1), %al
2: pushl %edx
  call put
  popl %edx
  decl %ecx
  jnz 1b
  ret

interrupts:
  movl OWN0, %esi
  addl $COUNT, %esi
  call send                   # to vCPU 1, whose handler answers, whose answer's handler sends again
  jmp waitFor
ports:
  movl OWN0, %esi
  incl %esi
  call send
waitFor:
1: sti
  hlt
  cli
  cmpl %esi, OWN0
  jne 1b
  ret
localPorts:
  movl $COUNT, %ecx
1: inb $0x21, %al
  decl %ecx
  jnz 1b
  ret

other:
  cmpl $0, SHARED             # its copy of the page, once
1: sti
  hlt
  jmp 1b

# vCPU 0: counts, and sends on until its round is over (%esi).
handler:
  movl $0, APIC + 0xB0
  incl OWN0
  cmpl %esi, OWN0
  je 1f
  cmpl $0, SHARED
  je 1f
  call send
1: iret

# vCPU 1.
handler1:
  movl $0, APIC + 0xB0
  incl OWN1
  cmpl $'p', SHARED
  je 1f
  jmp 2f
1: movl $COUNT, %ecx
3: inb $0x21, %al
  decl %ecx
  jnz 3b
2: call send0
  iret

#include "flat.inc"
