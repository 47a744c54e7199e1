/// What QEMU 7.2 prints for a machine after reset (`-machine pc -m 128 -nodefaults -S`), recorded.
enum InfoSamples {
  /// `info registers`.
  static let registers = """

    CPU#0
    EAX=00000000 EBX=00000000 ECX=00000000 EDX=00060fb1
    ESI=00000000 EDI=00000000 EBP=00000000 ESP=00000000
    EIP=0000fff0 EFL=00000002 [-------] CPL=0 II=0 A20=1 SMM=0 HLT=0
    ES =0000 00000000 0000ffff 00009300
    CS =f000 ffff0000 0000ffff 00009b00
    SS =0000 00000000 0000ffff 00009300
    DS =0000 00000000 0000ffff 00009300
    FS =0000 00000000 0000ffff 00009300
    GS =0000 00000000 0000ffff 00009300
    LDT=0000 00000000 0000ffff 00008200
    TR =0000 00000000 0000ffff 00008b00
    GDT=     00000000 0000ffff
    IDT=     00000000 0000ffff
    CR0=60000010 CR2=00000000 CR3=00000000 CR4=00000000
    DR0=0000000000000000 DR1=0000000000000000 DR2=0000000000000000 DR3=0000000000000000\u{20}
    DR6=00000000ffff0ff0 DR7=0000000000000400
    EFER=0000000000000000
    FCW=037f FSW=0000 [ST=0] FTW=00 MXCSR=00001f80
    FPR0=0000000000000000 0000 FPR1=0000000000000000 0000
    FPR2=0000000000000000 0000 FPR3=0000000000000000 0000
    FPR4=0000000000000000 0000 FPR5=0000000000000000 0000
    FPR6=0000000000000000 0000 FPR7=0000000000000000 0000
    XMM00=0000000000000000 0000000000000000 XMM01=0000000000000000 0000000000000000
    XMM02=0000000000000000 0000000000000000 XMM03=0000000000000000 0000000000000000
    XMM04=0000000000000000 0000000000000000 XMM05=0000000000000000 0000000000000000
    XMM06=0000000000000000 0000000000000000 XMM07=0000000000000000 0000000000000000

    """

  /// `info lapic`.
  static let localAPIC = """
    dumping local APIC state for CPU 0\u{20}

    LVT0\t 0x00010000 active-hi edge  masked                      Fixed  (vec 0)
    LVT1\t 0x00010000 active-hi edge  masked                      Fixed  (vec 0)
    LVTPC\t 0x00010000 active-hi edge  masked                      Fixed  (vec 0)
    LVTERR\t 0x00010000 active-hi edge  masked                      Fixed  (vec 0)
    LVTTHMR\t 0x00010000 active-hi edge  masked                      Fixed  (vec 0)
    LVTT\t 0x00010000 active-hi edge  masked         one-shot     Fixed  (vec 0)
    Timer\t DCR=0x0 (divide by 2) initial_count = 0 current_count = 0
    SPIV\t 0x000000ff APIC disabled, focus=off, spurious vec 255
    ICR\t 0x00000000 physical edge de-assert no-shorthand
    ICR2\t 0x00000000 cpu 0 (APIC ID)
    ESR\t 0x00000000
    ISR\t (none)
    IRR\t (none)

    APR 0x00 TPR 0x00 DFR 0x0f LDR 0x00 PPR 0x00

    """

  /// `info pic`.
  static let controllers = """
    ioapic0: ver=0x20 id=0x00 sel=0x00
      pin 0  0x0000000000010000 dest=0 vec=0   active-hi edge  masked fixed  physical
      pin 1  0x0000000000010000 dest=0 vec=0   active-hi edge  masked fixed  physical
      pin 2  0x0000000000010000 dest=0 vec=0   active-hi edge  masked fixed  physical
      pin 3  0x0000000000010000 dest=0 vec=0   active-hi edge  masked fixed  physical
      pin 4  0x0000000000010000 dest=0 vec=0   active-hi edge  masked fixed  physical
      pin 5  0x0000000000010000 dest=0 vec=0   active-hi edge  masked fixed  physical
      pin 6  0x0000000000010000 dest=0 vec=0   active-hi edge  masked fixed  physical
      pin 7  0x0000000000010000 dest=0 vec=0   active-hi edge  masked fixed  physical
      pin 8  0x0000000000010000 dest=0 vec=0   active-hi edge  masked fixed  physical
      pin 9  0x0000000000010000 dest=0 vec=0   active-hi edge  masked fixed  physical
      pin 10 0x0000000000010000 dest=0 vec=0   active-hi edge  masked fixed  physical
      pin 11 0x0000000000010000 dest=0 vec=0   active-hi edge  masked fixed  physical
      pin 12 0x0000000000010000 dest=0 vec=0   active-hi edge  masked fixed  physical
      pin 13 0x0000000000010000 dest=0 vec=0   active-hi edge  masked fixed  physical
      pin 14 0x0000000000010000 dest=0 vec=0   active-hi edge  masked fixed  physical
      pin 15 0x0000000000010000 dest=0 vec=0   active-hi edge  masked fixed  physical
      pin 16 0x0000000000010000 dest=0 vec=0   active-hi edge  masked fixed  physical
      pin 17 0x0000000000010000 dest=0 vec=0   active-hi edge  masked fixed  physical
      pin 18 0x0000000000010000 dest=0 vec=0   active-hi edge  masked fixed  physical
      pin 19 0x0000000000010000 dest=0 vec=0   active-hi edge  masked fixed  physical
      pin 20 0x0000000000010000 dest=0 vec=0   active-hi edge  masked fixed  physical
      pin 21 0x0000000000010000 dest=0 vec=0   active-hi edge  masked fixed  physical
      pin 22 0x0000000000010000 dest=0 vec=0   active-hi edge  masked fixed  physical
      pin 23 0x0000000000010000 dest=0 vec=0   active-hi edge  masked fixed  physical
      IRR      (none)
      Remote IRR (none)
    pic1: irr=00 imr=00 isr=00 hprio=0 irq_base=00 rr_sel=0 elcr=00 fnm=0
    pic0: irr=00 imr=00 isr=00 hprio=0 irq_base=00 rr_sel=0 elcr=00 fnm=0

    """

  /// `info irq`.
  static let interrupts = """
    IRQ statistics for ioapic:
     0: 1
    IRQ statistics for isa-i8259:
     0: 1

    """
}
