// The named CPU models of QEMU 7.2 as data: what each reports before the accelerator's limits.
//
// One record a model: name, level, level of leaf 7, extended level (hexadecimal), vendor, family, model, stepping, model ID,
// cache description (`-`: QEMU's generic one), `deprecated` or `-`, the text of `-cpu help`; then its feature words, where
// `07ebx` is register EBX of leaf 7. A flat table and nothing else.

enum CPUModelTable {
  static let records = """
    qemu64-v1|13|0|8000000a|AuthenticAMD|15|107|1|QEMU Virtual CPU version 2.5+|-|-|QEMU Virtual CPU version 2.5+
      01edx=78bfbfd 01ecx=2001 80000001edx=20100800 80000001ecx=5
    qemu32-v1|4|0|80000004|GenuineIntel|6|6|3|QEMU Virtual CPU version 2.5+|-|-|QEMU Virtual CPU version 2.5+
      01edx=781abfd 01ecx=1
    phenom-v1|5|0|8000001a|AuthenticAMD|16|2|3|AMD Phenom(tm) 9550 Quad-Core Processor|-|-|AMD Phenom(tm) 9550 Quad-Core Processor
      01edx=78bfbff 01ecx=802009 80000001edx=ee500800 80000001ecx=65 8000000aedx=1
    pentium3-v1|3|0|0|GenuineIntel|6|7|3||-|-|
      01edx=383fbff
    pentium2-v1|2|0|0|GenuineIntel|6|5|2||-|-|
      01edx=183fbff
    pentium-v1|1|0|0|GenuineIntel|5|4|3||-|-|
      01edx=8003bf
    n270-v1|10|0|80000008|GenuineIntel|6|28|2|Intel(R) Atom(TM) CPU N270   @ 1.60GHz|-|-|Intel(R) Atom(TM) CPU N270   @ 1.60GHz
      01edx=fc9fbff 01ecx=400209 80000001edx=100000 80000001ecx=1
    kvm64-v1|13|0|80000008|GenuineIntel|15|6|1|Common KVM processor|-|-|Common KVM processor
      01edx=78bfbff 01ecx=2001 80000001edx=20100800
    kvm32-v1|5|0|80000008|GenuineIntel|15|6|1|Common 32-bit KVM processor|-|-|Common 32-bit KVM processor
      01edx=78bfbff 01ecx=1
    coreduo-v1|10|0|80000008|GenuineIntel|6|14|8|Genuine Intel(R) CPU           T2600  @ 2.16GHz|-|-|Genuine Intel(R) CPU           T2600  @ 2.16GHz
      01edx=fc9fbff 01ecx=9 80000001edx=100000
    core2duo-v1|10|0|80000008|GenuineIntel|6|15|11|Intel(R) Core(TM)2 Duo CPU     T7700  @ 2.40GHz|-|-|Intel(R) Core(TM)2 Duo CPU     T7700  @ 2.40GHz
      01edx=fcbfbff 01ecx=2209 80000001edx=20100800 80000001ecx=1
    athlon-v1|2|0|80000008|AuthenticAMD|6|2|3|QEMU Virtual CPU version 2.5+|-|-|QEMU Virtual CPU version 2.5+
      01edx=783fbff 80000001edx=c0400000
    Westmere-v2|11|0|80000008|GenuineIntel|6|44|1|Westmere E56xx/L56xx/X56xx (IBRS update)|-|-|Westmere E56xx/L56xx/X56xx (IBRS update)
      01edx=78bfbff 01ecx=2982203 07edx=4000000 80000001edx=20100800 80000001ecx=1 06eax=4
    Westmere-v1|11|0|80000008|GenuineIntel|6|44|1|Westmere E56xx/L56xx/X56xx (Nehalem-C)|-|-|Westmere E56xx/L56xx/X56xx (Nehalem-C)
      01edx=78bfbff 01ecx=2982203 80000001edx=20100800 80000001ecx=1 06eax=4
    Snowridge-v4|27|0|80000008|GenuineIntel|6|134|1|Intel Atom Processor (Snowridge, no MPX)|-|-|Intel Atom Processor (Snowridge, no MPX) [no split lock detect, no core-capability]
      01edx=78bfbff 01ecx=47f8220b 07ebx=21940281 07ecx=1a000104 07edx=a4000000 80000001edx=2c100800 80000001ecx=101 0d01eax=f 06eax=4
    Snowridge-v3|27|0|80000008|GenuineIntel|6|134|1|Intel Atom Processor (Snowridge, no MPX)|-|-|Intel Atom Processor (Snowridge, no MPX) [XSAVES, no MPX]
      01edx=78bfbff 01ecx=47f8220b 07ebx=21940281 07ecx=1a000104 07edx=e4000000 80000001edx=2c100800 80000001ecx=101 0d01eax=f 06eax=4 msrcf=20
    Snowridge-v2|27|0|80000008|GenuineIntel|6|134|1|Intel Atom Processor (Snowridge, no MPX)|-|-|Intel Atom Processor (Snowridge, no MPX)
      01edx=78bfbff 01ecx=47f8220b 07ebx=21940281 07ecx=1a000104 07edx=e4000000 80000001edx=2c100800 80000001ecx=101 0d01eax=7 06eax=4 msrcf=20
    Snowridge-v1|27|0|80000008|GenuineIntel|6|134|1|Intel Atom Processor (SnowRidge)|-|-|Intel Atom Processor (SnowRidge)
      01edx=78bfbff 01ecx=47f8220b 07ebx=21944281 07ecx=1a000104 07edx=e4000000 80000001edx=2c100800 80000001ecx=101 0d01eax=7 06eax=4 msrcf=20
    Skylake-Server-v5|13|0|80000008|GenuineIntel|6|85|4|Intel Xeon Processor (Skylake, IBRS, no TSX)|-|-|Intel Xeon Processor (Skylake, IBRS, no TSX) [IBRS, XSAVES, EPT switching, no TSX]
      01edx=78bfbff 01ecx=77fa3203 07ebx=d11f07a9 07ecx=8 07edx=4000000 80000001edx=2c100800 80000001ecx=121 0d01eax=f 06eax=4
    Skylake-Server-v4|13|0|80000008|GenuineIntel|6|85|4|Intel Xeon Processor (Skylake, IBRS, no TSX)|-|-|Intel Xeon Processor (Skylake, IBRS, no TSX) [IBRS, EPT switching, no TSX]
      01edx=78bfbff 01ecx=77fa3203 07ebx=d11f07a9 07ecx=8 07edx=4000000 80000001edx=2c100800 80000001ecx=121 0d01eax=7 06eax=4
    Skylake-Server-v3|13|0|80000008|GenuineIntel|6|85|4|Intel Xeon Processor (Skylake, IBRS, no TSX)|-|-|Intel Xeon Processor (Skylake, IBRS, no TSX)
      01edx=78bfbff 01ecx=77fa3203 07ebx=d11f07a9 07ecx=8 07edx=4000000 80000001edx=2c100800 80000001ecx=121 0d01eax=7 06eax=4
    Skylake-Server-v2|13|0|80000008|GenuineIntel|6|85|4|Intel Xeon Processor (Skylake, IBRS)|-|-|Intel Xeon Processor (Skylake, IBRS)
      01edx=78bfbff 01ecx=77fa3203 07ebx=d11f0fb9 07ecx=8 07edx=4000000 80000001edx=2c100800 80000001ecx=121 0d01eax=7 06eax=4
    Skylake-Server-v1|13|0|80000008|GenuineIntel|6|85|4|Intel Xeon Processor (Skylake)|-|-|Intel Xeon Processor (Skylake)
      01edx=78bfbff 01ecx=77fa3203 07ebx=d19f0fb9 07ecx=8 80000001edx=2c100800 80000001ecx=121 0d01eax=7 06eax=4
    Skylake-Client-v4|13|0|80000008|GenuineIntel|6|94|3|Intel Core Processor (Skylake, IBRS, no TSX)|-|-|Intel Core Processor (Skylake, IBRS, no TSX) [IBRS, XSAVES, no TSX]
      01edx=78bfbff 01ecx=77fa3203 07ebx=1c07a9 07edx=4000000 80000001edx=28100800 80000001ecx=121 0d01eax=f 06eax=4
    Skylake-Client-v3|13|0|80000008|GenuineIntel|6|94|3|Intel Core Processor (Skylake, IBRS, no TSX)|-|-|Intel Core Processor (Skylake, IBRS, no TSX)
      01edx=78bfbff 01ecx=77fa3203 07ebx=1c07a9 07edx=4000000 80000001edx=28100800 80000001ecx=121 0d01eax=7 06eax=4
    Skylake-Client-v2|13|0|80000008|GenuineIntel|6|94|3|Intel Core Processor (Skylake, IBRS)|-|-|Intel Core Processor (Skylake, IBRS)
      01edx=78bfbff 01ecx=77fa3203 07ebx=1c0fb9 07edx=4000000 80000001edx=28100800 80000001ecx=121 0d01eax=7 06eax=4
    Skylake-Client-v1|13|0|80000008|GenuineIntel|6|94|3|Intel Core Processor (Skylake)|-|-|Intel Core Processor (Skylake)
      01edx=78bfbff 01ecx=77fa3203 07ebx=1c0fb9 80000001edx=28100800 80000001ecx=121 0d01eax=7 06eax=4
    SandyBridge-v2|13|0|80000008|GenuineIntel|6|42|1|Intel Xeon E312xx (Sandy Bridge, IBRS update)|-|-|Intel Xeon E312xx (Sandy Bridge, IBRS update)
      01edx=78bfbff 01ecx=17b82203 07edx=4000000 80000001edx=28100800 80000001ecx=1 0d01eax=1 06eax=4
    SandyBridge-v1|13|0|80000008|GenuineIntel|6|42|1|Intel Xeon E312xx (Sandy Bridge)|-|-|Intel Xeon E312xx (Sandy Bridge)
      01edx=78bfbff 01ecx=17b82203 80000001edx=28100800 80000001ecx=1 0d01eax=1 06eax=4
    Penryn-v1|10|0|80000008|GenuineIntel|6|23|3|Intel Core 2 Duo P9xxx (Penryn Class Core 2)|-|-|Intel Core 2 Duo P9xxx (Penryn Class Core 2)
      01edx=78bfbff 01ecx=82201 80000001edx=20100800 80000001ecx=1
    Opteron_G5-v1|13|0|8000001a|AuthenticAMD|21|2|0|AMD Opteron 63xx class CPU|-|-|AMD Opteron 63xx class CPU
      01edx=78bfbff 01ecx=36983203 80000001edx=2c100800 80000001ecx=2109e5 8000000aedx=9
    Opteron_G4-v1|13|0|8000001a|AuthenticAMD|21|1|2|AMD Opteron 62xx class CPU|-|-|AMD Opteron 62xx class CPU
      01edx=78bfbff 01ecx=16982203 80000001edx=2c100800 80000001ecx=109e5 8000000aedx=9
    Opteron_G3-v1|5|0|8000000a|AuthenticAMD|16|2|3|AMD Opteron 23xx (Gen 3 Class Opteron)|-|-|AMD Opteron 23xx (Gen 3 Class Opteron)
      01edx=78bfbff 01ecx=802009 80000001edx=28100800 80000001ecx=e5
    Opteron_G2-v1|5|0|8000000a|AuthenticAMD|15|6|1|AMD Opteron 22xx (Gen 2 Class Opteron)|-|-|AMD Opteron 22xx (Gen 2 Class Opteron)
      01edx=78bfbff 01ecx=2001 80000001edx=20100800 80000001ecx=5
    Opteron_G1-v1|5|0|80000008|AuthenticAMD|15|6|1|AMD Opteron 240 (Gen 1 Class Opteron)|-|-|AMD Opteron 240 (Gen 1 Class Opteron)
      01edx=78bfbff 01ecx=1 80000001edx=20100800
    Nehalem-v2|11|0|80000008|GenuineIntel|6|26|3|Intel Core i7 9xx (Nehalem Core i7, IBRS update)|-|-|Intel Core i7 9xx (Nehalem Core i7, IBRS update)
      01edx=78bfbff 01ecx=982201 07edx=4000000 80000001edx=20100800 80000001ecx=1
    Nehalem-v1|11|0|80000008|GenuineIntel|6|26|3|Intel Core i7 9xx (Nehalem Class Core i7)|-|-|Intel Core i7 9xx (Nehalem Class Core i7)
      01edx=78bfbff 01ecx=982201 80000001edx=20100800 80000001ecx=1
    KnightsMill-v1|13|0|80000008|GenuineIntel|6|133|0|Intel Xeon Phi Processor (Knights Mill)|-|-|Intel Xeon Phi Processor (Knights Mill)
      01edx=f8bfbff 01ecx=77f83203 07ebx=1c0d03a9 07ecx=4000 07edx=c 80000001edx=2c100800 80000001ecx=121 0d01eax=1 06eax=4
    IvyBridge-v2|13|0|80000008|GenuineIntel|6|58|9|Intel Xeon E3-12xx v2 (Ivy Bridge, IBRS)|-|-|Intel Xeon E3-12xx v2 (Ivy Bridge, IBRS)
      01edx=78bfbff 01ecx=77b82203 07ebx=281 07edx=4000000 80000001edx=28100800 80000001ecx=1 0d01eax=1 06eax=4
    IvyBridge-v1|13|0|80000008|GenuineIntel|6|58|9|Intel Xeon E3-12xx v2 (Ivy Bridge)|-|-|Intel Xeon E3-12xx v2 (Ivy Bridge)
      01edx=78bfbff 01ecx=77b82203 07ebx=281 80000001edx=28100800 80000001ecx=1 0d01eax=1 06eax=4
    Icelake-Server-v6|13|0|80000008|GenuineIntel|6|106|0|Intel Xeon Processor (Icelake)|-|-|Intel Xeon Processor (Icelake) [5-level EPT]
      01edx=78bfbff 01ecx=77fa3203 07ebx=f1bf07a9 07ecx=415f4e 07edx=a4000010 80000001edx=2c100800 80000001ecx=121 80000008ebx=200 0d01eax=f 06eax=4 msr10a=16b
    Icelake-Server-v5|13|0|80000008|GenuineIntel|6|106|0|Intel Xeon Processor (Icelake)|-|-|Intel Xeon Processor (Icelake) [XSAVES]
      01edx=78bfbff 01ecx=77fa3203 07ebx=f1bf07a9 07ecx=415f4e 07edx=a4000010 80000001edx=2c100800 80000001ecx=121 80000008ebx=200 0d01eax=f 06eax=4 msr10a=16b
    Icelake-Server-v4|13|0|80000008|GenuineIntel|6|106|0|Intel Xeon Processor (Icelake)|-|-|Intel Xeon Processor (Icelake)
      01edx=78bfbff 01ecx=77fa3203 07ebx=f1bf07a9 07ecx=415f4e 07edx=a4000010 80000001edx=2c100800 80000001ecx=121 80000008ebx=200 0d01eax=7 06eax=4 msr10a=16b
    Icelake-Server-v3|13|0|80000008|GenuineIntel|6|134|0|Intel Xeon Processor (Icelake)|-|-|Intel Xeon Processor (Icelake)
      01edx=78bfbff 01ecx=77fa3203 07ebx=d19f07a9 07ecx=15f4e 07edx=a4000000 80000001edx=2c100800 80000001ecx=121 80000008ebx=200 0d01eax=7 06eax=4 msr10a=16b
    Icelake-Server-v2|13|0|80000008|GenuineIntel|6|134|0|Intel Xeon Processor (Icelake)|-|-|Intel Xeon Processor (Icelake) [no TSX]
      01edx=78bfbff 01ecx=77fa3203 07ebx=d19f07a9 07ecx=15f4e 07edx=84000000 80000001edx=2c100800 80000001ecx=121 80000008ebx=200 0d01eax=7 06eax=4
    Icelake-Server-v1|13|0|80000008|GenuineIntel|6|134|0|Intel Xeon Processor (Icelake)|-|-|Intel Xeon Processor (Icelake)
      01edx=78bfbff 01ecx=77fa3203 07ebx=d19f0fb9 07ecx=15f4e 07edx=84000000 80000001edx=2c100800 80000001ecx=121 80000008ebx=200 0d01eax=7 06eax=4
    Haswell-v4|13|0|80000008|GenuineIntel|6|60|1|Intel Core Processor (Haswell, no TSX, IBRS)|-|-|Intel Core Processor (Haswell, no TSX, IBRS)
      01edx=78bfbff 01ecx=77fa3203 07ebx=7a9 07edx=4000000 80000001edx=28100800 80000001ecx=21 0d01eax=1 06eax=4
    Haswell-v3|13|0|80000008|GenuineIntel|6|60|4|Intel Core Processor (Haswell, IBRS)|-|-|Intel Core Processor (Haswell, IBRS)
      01edx=78bfbff 01ecx=77fa3203 07ebx=fb9 07edx=4000000 80000001edx=28100800 80000001ecx=21 0d01eax=1 06eax=4
    Haswell-v2|13|0|80000008|GenuineIntel|6|60|1|Intel Core Processor (Haswell, no TSX)|-|-|Intel Core Processor (Haswell, no TSX)
      01edx=78bfbff 01ecx=77fa3203 07ebx=7a9 80000001edx=28100800 80000001ecx=21 0d01eax=1 06eax=4
    Haswell-v1|13|0|80000008|GenuineIntel|6|60|4|Intel Core Processor (Haswell)|-|-|Intel Core Processor (Haswell)
      01edx=78bfbff 01ecx=77fa3203 07ebx=fb9 80000001edx=28100800 80000001ecx=21 0d01eax=1 06eax=4
    EPYC-v3|13|0|8000001e|AuthenticAMD|23|1|2|AMD EPYC Processor|epyc|-|AMD EPYC Processor
      01edx=78bfbff 01ecx=76d8320b 07ebx=209c01a9 80000001edx=2e500800 80000001ecx=c003f5 80000008ebx=1005 8000000aedx=9 0d01eax=f 06eax=4
    EPYC-v2|13|0|8000001e|AuthenticAMD|23|1|2|AMD EPYC Processor (with IBPB)|epyc|-|AMD EPYC Processor (with IBPB)
      01edx=78bfbff 01ecx=76d8320b 07ebx=209c01a9 80000001edx=2e500800 80000001ecx=4003f5 80000008ebx=1000 8000000aedx=9 0d01eax=7 06eax=4
    EPYC-v1|13|0|8000001e|AuthenticAMD|23|1|2|AMD EPYC Processor|epyc|-|AMD EPYC Processor
      01edx=78bfbff 01ecx=76d8320b 07ebx=209c01a9 80000001edx=2e500800 80000001ecx=4003f5 8000000aedx=9 0d01eax=7 06eax=4
    EPYC-Rome-v2|13|0|8000001e|AuthenticAMD|23|49|0|AMD EPYC-Rome Processor|rome|-|AMD EPYC-Rome Processor
      01edx=78bfbff 01ecx=76d8320b 07ebx=219c01a9 07ecx=400004 80000001edx=2e500800 80000001ecx=c003f5 80000008ebx=100d205 8000000aedx=9 0d01eax=f 06eax=4
    EPYC-Rome-v1|13|0|8000001e|AuthenticAMD|23|49|0|AMD EPYC-Rome Processor|rome|-|AMD EPYC-Rome Processor
      01edx=78bfbff 01ecx=76d8320b 07ebx=219c01a9 07ecx=400004 80000001edx=2e500800 80000001ecx=c003f5 80000008ebx=9205 8000000aedx=9 0d01eax=f 06eax=4
    EPYC-Milan-v1|13|0|8000001e|AuthenticAMD|25|1|1|AMD EPYC-Milan Processor|milan|-|AMD EPYC-Milan Processor
      01edx=78bfbff 01ecx=76da320b 07ebx=219c07a9 07ecx=40000c 07edx=10 80000001edx=2e500800 80000001ecx=c003f5 80000008ebx=100d205 8000000aedx=10000009 0d01eax=f 06eax=4
    Dhyana-v2|13|0|8000001e|HygonGenuine|24|0|1|Hygon Dhyana Processor|epyc|-|Hygon Dhyana Processor [XSAVES]
      01edx=78bfbff 01ecx=74d83209 07ebx=9c01a9 80000001edx=2e500800 80000001ecx=4003f5 80000008ebx=1000 8000000aedx=9 0d01eax=f 06eax=4
    Dhyana-v1|13|0|8000001e|HygonGenuine|24|0|1|Hygon Dhyana Processor|epyc|-|Hygon Dhyana Processor
      01edx=78bfbff 01ecx=74d83209 07ebx=9c01a9 80000001edx=2e500800 80000001ecx=4003f5 80000008ebx=1000 8000000aedx=9 0d01eax=7 06eax=4
    Denverton-v3|21|0|80000008|GenuineIntel|6|95|1|Intel Atom Processor (Denverton)|-|-|Intel Atom Processor (Denverton) [XSAVES, no MPX, no MONITOR]
      01edx=78bfbff 01ecx=47f82203 07ebx=20940281 07edx=a4000000 80000001edx=2c100800 80000001ecx=101 0d01eax=f 06eax=4 msr10a=9
    Denverton-v2|21|0|80000008|GenuineIntel|6|95|1|Intel Atom Processor (Denverton)|-|-|Intel Atom Processor (Denverton) [no MPX, no MONITOR]
      01edx=78bfbff 01ecx=47f82203 07ebx=20940281 07edx=a4000000 80000001edx=2c100800 80000001ecx=101 0d01eax=7 06eax=4 msr10a=9
    Denverton-v1|21|0|80000008|GenuineIntel|6|95|1|Intel Atom Processor (Denverton)|-|-|Intel Atom Processor (Denverton)
      01edx=78bfbff 01ecx=47f8220b 07ebx=20944281 07edx=a4000000 80000001edx=2c100800 80000001ecx=101 0d01eax=7 06eax=4 msr10a=9
    Cooperlake-v2|13|1|80000008|GenuineIntel|6|85|10|Intel Xeon Processor (Cooperlake)|-|-|Intel Xeon Processor (Cooperlake) [XSAVES]
      01edx=78bfbff 01ecx=77fa3203 07ebx=d19f0fb9 07ecx=808 07edx=ac000000 0701eax=20 80000001edx=2c100800 80000001ecx=121 0d01eax=f 06eax=4 msr10a=16b
    Cooperlake-v1|13|1|80000008|GenuineIntel|6|85|10|Intel Xeon Processor (Cooperlake)|-|-|Intel Xeon Processor (Cooperlake)
      01edx=78bfbff 01ecx=77fa3203 07ebx=d19f0fb9 07ecx=808 07edx=ac000000 0701eax=20 80000001edx=2c100800 80000001ecx=121 0d01eax=7 06eax=4 msr10a=16b
    Conroe-v1|10|0|80000008|GenuineIntel|6|15|3|Intel Celeron_4x0 (Conroe/Merom Class Core 2)|-|-|Intel Celeron_4x0 (Conroe/Merom Class Core 2)
      01edx=78bfbff 01ecx=201 80000001edx=20100800 80000001ecx=1
    Cascadelake-Server-v5|13|0|80000008|GenuineIntel|6|85|6|Intel Xeon Processor (Cascadelake)|-|-|Intel Xeon Processor (Cascadelake) [ARCH_CAPABILITIES, EPT switching, XSAVES, no TSX]
      01edx=78bfbff 01ecx=77fa3203 07ebx=d19f07a9 07ecx=808 07edx=a4000000 80000001edx=2c100800 80000001ecx=121 0d01eax=f 06eax=4 msr10a=2b
    Cascadelake-Server-v4|13|0|80000008|GenuineIntel|6|85|6|Intel Xeon Processor (Cascadelake)|-|-|Intel Xeon Processor (Cascadelake) [ARCH_CAPABILITIES, EPT switching, no TSX]
      01edx=78bfbff 01ecx=77fa3203 07ebx=d19f07a9 07ecx=808 07edx=a4000000 80000001edx=2c100800 80000001ecx=121 0d01eax=7 06eax=4 msr10a=2b
    Cascadelake-Server-v3|13|0|80000008|GenuineIntel|6|85|6|Intel Xeon Processor (Cascadelake)|-|-|Intel Xeon Processor (Cascadelake) [ARCH_CAPABILITIES, no TSX]
      01edx=78bfbff 01ecx=77fa3203 07ebx=d19f07a9 07ecx=808 07edx=a4000000 80000001edx=2c100800 80000001ecx=121 0d01eax=7 06eax=4 msr10a=2b
    Cascadelake-Server-v2|13|0|80000008|GenuineIntel|6|85|6|Intel Xeon Processor (Cascadelake)|-|-|Intel Xeon Processor (Cascadelake) [ARCH_CAPABILITIES]
      01edx=78bfbff 01ecx=77fa3203 07ebx=d19f0fb9 07ecx=808 07edx=a4000000 80000001edx=2c100800 80000001ecx=121 0d01eax=7 06eax=4 msr10a=2b
    Cascadelake-Server-v1|13|0|80000008|GenuineIntel|6|85|6|Intel Xeon Processor (Cascadelake)|-|-|Intel Xeon Processor (Cascadelake)
      01edx=78bfbff 01ecx=77fa3203 07ebx=d19f0fb9 07ecx=808 07edx=84000000 80000001edx=2c100800 80000001ecx=121 0d01eax=7 06eax=4
    Broadwell-v4|13|0|80000008|GenuineIntel|6|61|2|Intel Core Processor (Broadwell, no TSX, IBRS)|-|-|Intel Core Processor (Broadwell, no TSX, IBRS)
      01edx=78bfbff 01ecx=77fa3203 07ebx=1c07a9 07edx=4000000 80000001edx=28100800 80000001ecx=121 0d01eax=1 06eax=4
    Broadwell-v3|13|0|80000008|GenuineIntel|6|61|2|Intel Core Processor (Broadwell, IBRS)|-|-|Intel Core Processor (Broadwell, IBRS)
      01edx=78bfbff 01ecx=77fa3203 07ebx=1c0fb9 07edx=4000000 80000001edx=28100800 80000001ecx=121 0d01eax=1 06eax=4
    Broadwell-v2|13|0|80000008|GenuineIntel|6|61|2|Intel Core Processor (Broadwell, no TSX)|-|-|Intel Core Processor (Broadwell, no TSX)
      01edx=78bfbff 01ecx=77fa3203 07ebx=1c07a9 80000001edx=28100800 80000001ecx=121 0d01eax=1 06eax=4
    Broadwell-v1|13|0|80000008|GenuineIntel|6|61|2|Intel Core Processor (Broadwell)|-|-|Intel Core Processor (Broadwell)
      01edx=78bfbff 01ecx=77fa3203 07ebx=1c0fb9 80000001edx=28100800 80000001ecx=121 0d01eax=1 06eax=4
    486-v1|1|0|0|GenuineIntel|4|8|0||-|-|
      01edx=b
    """

  /// Alias and the version that it stands for, in the order of `query-cpu-definitions`.
  static let aliases = """
    qemu64 qemu64-v1
    qemu32 qemu32-v1
    phenom phenom-v1
    pentium3 pentium3-v1
    pentium2 pentium2-v1
    pentium pentium-v1
    n270 n270-v1
    kvm64 kvm64-v1
    kvm32 kvm32-v1
    coreduo coreduo-v1
    core2duo core2duo-v1
    athlon athlon-v1
    Westmere-IBRS Westmere-v2
    Westmere Westmere-v1
    Snowridge Snowridge-v1
    Skylake-Server-noTSX-IBRS Skylake-Server-v3
    Skylake-Server-IBRS Skylake-Server-v2
    Skylake-Server Skylake-Server-v1
    Skylake-Client-noTSX-IBRS Skylake-Client-v3
    Skylake-Client-IBRS Skylake-Client-v2
    Skylake-Client Skylake-Client-v1
    SandyBridge-IBRS SandyBridge-v2
    SandyBridge SandyBridge-v1
    Penryn Penryn-v1
    Opteron_G5 Opteron_G5-v1
    Opteron_G4 Opteron_G4-v1
    Opteron_G3 Opteron_G3-v1
    Opteron_G2 Opteron_G2-v1
    Opteron_G1 Opteron_G1-v1
    Nehalem-IBRS Nehalem-v2
    Nehalem Nehalem-v1
    KnightsMill KnightsMill-v1
    IvyBridge-IBRS IvyBridge-v2
    IvyBridge IvyBridge-v1
    Icelake-Server-noTSX Icelake-Server-v2
    Icelake-Server Icelake-Server-v1
    Haswell-noTSX-IBRS Haswell-v4
    Haswell-noTSX Haswell-v2
    Haswell-IBRS Haswell-v3
    Haswell Haswell-v1
    EPYC-Rome EPYC-Rome-v1
    EPYC-Milan EPYC-Milan-v1
    EPYC-IBPB EPYC-v2
    EPYC EPYC-v1
    Dhyana Dhyana-v1
    Denverton Denverton-v1
    Cooperlake Cooperlake-v1
    Conroe Conroe-v1
    Cascadelake-Server-noTSX Cascadelake-Server-v3
    Cascadelake-Server Cascadelake-Server-v1
    Broadwell-noTSX-IBRS Broadwell-v4
    Broadwell-noTSX Broadwell-v2
    Broadwell-IBRS Broadwell-v3
    Broadwell Broadwell-v1
    486 486-v1
    """

  /// Names of VMX sub-features, which are accepted and never offered.
  static let vmxFeatures = """
    vmx-activity-hlt vmx-activity-shutdown vmx-activity-wait-sipi vmx-apicv-register
    vmx-apicv-vid vmx-apicv-x2apic vmx-apicv-xapic vmx-cr3-load-noexit vmx-cr3-store-noexit
    vmx-cr8-load-exit vmx-cr8-store-exit vmx-desc-exit vmx-encls-exit vmx-entry-ia32e-mode
    vmx-entry-load-bndcfgs vmx-entry-load-efer vmx-entry-load-pat
    vmx-entry-load-perf-global-ctrl vmx-entry-load-pkrs vmx-entry-load-rtit-ctl
    vmx-entry-noload-debugctl vmx-ept vmx-ept-1gb vmx-ept-2mb vmx-ept-advanced-exitinfo
    vmx-ept-execonly vmx-eptad vmx-eptp-switching vmx-exit-ack-intr vmx-exit-clear-bndcfgs
    vmx-exit-clear-rtit-ctl vmx-exit-load-efer vmx-exit-load-pat vmx-exit-load-perf-global-ctrl
    vmx-exit-load-pkrs vmx-exit-nosave-debugctl vmx-exit-save-efer vmx-exit-save-pat
    vmx-exit-save-preemption-timer vmx-flexpriority vmx-hlt-exit vmx-ins-outs vmx-intr-exit
    vmx-invept vmx-invept-all-context vmx-invept-single-context
    vmx-invept-single-context-noglobals vmx-invlpg-exit vmx-invpcid-exit vmx-invvpid
    vmx-invvpid-all-context vmx-invvpid-single-addr vmx-io-bitmap vmx-io-exit vmx-monitor-exit
    vmx-movdr-exit vmx-msr-bitmap vmx-mtf vmx-mwait-exit vmx-nmi-exit vmx-page-walk-4
    vmx-page-walk-5 vmx-pause-exit vmx-ple vmx-pml vmx-posted-intr vmx-preemption-timer
    vmx-rdpmc-exit vmx-rdrand-exit vmx-rdseed-exit vmx-rdtsc-exit vmx-rdtscp-exit
    vmx-secondary-ctls vmx-shadow-vmcs vmx-store-lma vmx-true-ctls vmx-tsc-offset
    vmx-tsc-scaling vmx-unrestricted-guest vmx-vintr-pending vmx-vmfunc
    vmx-vmwrite-vmexit-fields vmx-vnmi vmx-vnmi-pending vmx-vpid vmx-wbinvd-exit vmx-xsaves
    vmx-zero-len-inject
    """
}
