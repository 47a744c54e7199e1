// The feature words of CPUID and of the capability MSRs, with the names that QEMU 7.2 gives their bits.
// Bits: Intel SDM vol. 2A (CPUID), AMD APM vol. 3 appendix E, Linux `Documentation/virt/kvm/x86/cpuid.rst`.

/// One 32-bit register of feature bits: a CPUID register or the low half of a capability MSR.
package enum FeatureWord: Int, CaseIterable, Sendable {
  case leaf1EDX
  case leaf1ECX
  case leaf7EBX
  case leaf7ECX
  case leaf7EDX
  case leaf7Sub1EAX
  case extended1EDX
  case extended1ECX
  case extended7EDX
  case extended8EBX
  case centaurEDX
  case kvmEAX
  case kvmEDX
  case svmEDX
  case xsaveEAX
  case leaf6EAX
  case archCapabilities
  case coreCapability
  case leaf14ECX
  case leaf12EAX
  case leaf12EBX
  case leaf12Sub1EAX
  case perfCapabilities

  /// How messages call it, as in `CPUID.07H:EBX`.
  package var label: String { FeatureWord.labels[rawValue] }

  private static let labels: [String] = [
    "CPUID.01H:EDX",
    "CPUID.01H:ECX",
    "CPUID.07H:EBX",
    "CPUID.07H:ECX",
    "CPUID.07H:EDX",
    "CPUID.07H:EAX",
    "CPUID.80000001H:EDX",
    "CPUID.80000001H:ECX",
    "CPUID.80000007H:EDX",
    "CPUID.80000008H:EBX",
    "CPUID.C0000001H:EDX",
    "CPUID.40000001H:EAX",
    "CPUID.40000001H:EDX",
    "CPUID.8000000AH:EDX",
    "CPUID.0DH:EAX",
    "CPUID.06H:EAX",
    "MSR(10AH)",
    "MSR(CFH)",
    "CPUID.14H:ECX",
    "CPUID.12H:EAX",
    "CPUID.12H:EBX",
    "CPUID.12H:EAX",
    "MSR(345H)",
  ]

  /// Names of bits 0 to 31, separated by blanks; `-` has no name.
  static let bitNames: [String] = [
    """
    fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov pat pse36 pn clflush - ds \
    acpi mmx fxsr sse sse2 ss ht tm ia64 pbe
    """,
    """
    pni pclmulqdq dtes64 monitor ds-cpl vmx smx est tm2 ssse3 cid - fma cx16 xtpr pdcm - pcid \
    dca sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes xsave - avx f16c rdrand hypervisor
    """,
    """
    fsgsbase tsc-adjust sgx bmi1 hle avx2 - smep bmi2 erms invpcid rtm - - mpx - avx512f \
    avx512dq rdseed adx smap avx512ifma pcommit clflushopt clwb intel-pt avx512pf avx512er \
    avx512cd sha-ni avx512bw avx512vl
    """,
    """
    - avx512vbmi umip pku - waitpkg avx512vbmi2 - gfni vaes vpclmulqdq avx512vnni avx512bitalg \
    - avx512-vpopcntdq - la57 - - - - - rdpid - bus-lock-detect cldemote - movdiri movdir64b - \
    sgxlc pks
    """,
    """
    - - avx512-4vnniw avx512-4fmaps fsrm - - - avx512-vp2intersect - md-clear - - - serialize - \
    tsx-ldtrk - - arch-lbr - - amx-bf16 avx512-fp16 amx-tile amx-int8 spec-ctrl stibp - \
    arch-capabilities core-capability ssbd
    """,
    """
    - - - - avx-vnni avx512-bf16
    """,
    """
    - - - - - - - - - - - syscall - - - - - - - - nx - mmxext - - fxsr-opt pdpe1gb rdtscp - lm \
    3dnowext 3dnow
    """,
    """
    lahf-lm cmp-legacy svm extapic cr8legacy abm sse4a misalignsse 3dnowprefetch osvw ibs xop \
    skinit wdt - lwp fma4 tce - nodeid-msr - tbm topoext perfctr-core perfctr-nb
    """,
    """
    - - - - - - - - invtsc
    """,
    """
    clzero - xsaveerptr - - - - - - wbnoinvd - - ibpb - ibrs amd-stibp - - - - - - - - amd-ssbd \
    virt-ssbd amd-no-ssb
    """,
    """
    - - xstore xstore-en - - xcrypt xcrypt-en ace2 ace2-en phe phe-en pmm pmm-en
    """,
    """
    kvmclock kvm-nopiodelay kvm-mmu kvmclock2 kvm-asyncpf kvm-steal-time kvm-pv-eoi \
    kvm-pv-unhalt - kvm-pv-tlb-flush - kvm-pv-ipi kvm-poll-control kvm-pv-sched-yield \
    kvm-asyncpf-int kvm-msi-ext-dest-id - - - - - - - - kvmclock-stable-bit
    """,
    """
    kvm-hint-dedicated
    """,
    """
    npt lbrv svm-lock nrip-save tsc-scale vmcb-clean flushbyasid decodeassists - - pause-filter \
    - pfthreshold avic - v-vmsave-vmload vgif - - - - - - - - - - - svme-addr-chk
    """,
    """
    xsaveopt xsavec xgetbv1 xsaves xfd
    """,
    """
    - - arat
    """,
    """
    rdctl-no ibrs-all rsba skip-l1dfl-vmentry ssb-no mds-no pschange-mc-no tsx-ctrl taa-no
    """,
    """
    - - - - - split-lock-detect
    """,
    """
    - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - intel-pt-lip
    """,
    """
    sgx1 sgx2
    """,
    """
    sgx-exinfo
    """,
    """
    - sgx-debug sgx-mode64 - sgx-provisionkey sgx-tokenkey - sgx-kss
    """,
    """
    - - - - - - - - - - - - - full-width-write
    """,
  ]

  /// The word's name in the model table.
  static let tableKeys: [String] = [
    "01edx", "01ecx", "07ebx", "07ecx", "07edx", "0701eax", "80000001edx", "80000001ecx",
    "80000007edx", "80000008ebx", "c0000001edx", "40000001eax", "40000001edx", "8000000aedx",
    "0d01eax", "06eax", "msr10a", "msrcf", "14ecx", "1200eax", "1200ebx", "1201eax", "msr345",
  ]
}
