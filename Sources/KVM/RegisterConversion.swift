import CKVM
import CPU

// CPUState to KVM's structures and back. Pure functions.

extension SegmentRegister {
  init(_ kvm: kvm_segment) {
    let bits = UInt16(kvm.type & 15) | UInt16(kvm.s & 1) << 4 | UInt16(kvm.dpl & 3) << 5
    let more = UInt16(kvm.present & 1) << 7 | UInt16(kvm.avl & 1) << 12 | UInt16(kvm.l & 1) << 13
    let last = UInt16(kvm.db & 1) << 14 | UInt16(kvm.g & 1) << 15
    self.init(
      selector: kvm.selector, base: kvm.base, limit: kvm.limit,
      attributes: kvm.unusable != 0 ? 0 : bits | more | last)
  }

  /// As KVM takes it.
  var kvm: kvm_segment {
    func bit(_ number: UInt16) -> UInt8 { UInt8(attributes >> number & 1) }
    return kvm_segment(
      base: base, limit: limit, selector: selector, type: type, present: bit(7), dpl: dpl,
      db: bit(14), s: bit(4), l: bit(13), g: bit(15), avl: bit(12),
      unusable: isPresent ? 0 : 1, padding: 0)
  }
}

extension DescriptorTableRegister {
  init(_ kvm: kvm_dtable) { self.init(base: kvm.base, limit: kvm.limit) }
  /// As KVM takes it.
  var kvm: kvm_dtable { kvm_dtable(base: base, limit: limit, padding: (0, 0, 0)) }
}

extension CPUState {
  mutating func load(_ kvm: kvm_regs) {
    registers = [
      kvm.rax, kvm.rcx, kvm.rdx, kvm.rbx, kvm.rsp, kvm.rbp, kvm.rsi, kvm.rdi,
      kvm.r8, kvm.r9, kvm.r10, kvm.r11, kvm.r12, kvm.r13, kvm.r14, kvm.r15,
    ]
    rip = kvm.rip
    rflags = kvm.rflags
  }

  /// General registers, RIP and RFLAGS as KVM takes them.
  var kvmRegisters: kvm_regs {
    let r = registers + [UInt64](repeating: 0, count: max(0, 16 - registers.count))
    return kvm_regs(
      rax: r[0], rbx: r[3], rcx: r[1], rdx: r[2], rsi: r[6], rdi: r[7], rsp: r[4], rbp: r[5],
      r8: r[8], r9: r[9], r10: r[10], r11: r[11], r12: r[12], r13: r[13], r14: r[14], r15: r[15],
      rip: rip, rflags: rflags | 2)
  }

  mutating func load(_ kvm: kvm_sregs) {
    es = SegmentRegister(kvm.es)
    cs = SegmentRegister(kvm.cs)
    ss = SegmentRegister(kvm.ss)
    ds = SegmentRegister(kvm.ds)
    fs = SegmentRegister(kvm.fs)
    gs = SegmentRegister(kvm.gs)
    ldtr = SegmentRegister(kvm.ldt)
    tr = SegmentRegister(kvm.tr)
    gdtr = DescriptorTableRegister(kvm.gdt)
    idtr = DescriptorTableRegister(kvm.idt)
    cr0 = kvm.cr0
    cr2 = kvm.cr2
    cr3 = kvm.cr3
    cr4 = kvm.cr4
    cr8 = kvm.cr8
    efer = kvm.efer
  }

  /// Segments and control registers as KVM takes them; `apicBase` is IA32_APIC_BASE, whose enable bits CPUID shows.
  func kvmSystemRegisters(apicBase: UInt64) -> kvm_sregs {
    kvm_sregs(
      cs: cs.kvm, ds: ds.kvm, es: es.kvm, fs: fs.kvm, gs: gs.kvm, ss: ss.kvm, tr: tr.kvm,
      ldt: ldtr.kvm, gdt: gdtr.kvm, idt: idtr.kvm, cr0: cr0, cr2: cr2, cr3: cr3, cr4: cr4,
      cr8: cr8, efer: efer, apic_base: apicBase, interrupt_bitmap: (0, 0, 0, 0))
  }

  mutating func load(_ kvm: kvm_debugregs) {
    debugAddresses = [kvm.db.0, kvm.db.1, kvm.db.2, kvm.db.3]
    dr6 = kvm.dr6
    dr7 = kvm.dr7
  }

  /// DR0 to DR7 as KVM takes them.
  var kvmDebugRegisters: kvm_debugregs {
    let d = debugAddresses + [UInt64](repeating: 0, count: max(0, 4 - debugAddresses.count))
    var kvm = kvm_debugregs()
    kvm.db = (d[0], d[1], d[2], d[3])
    kvm.dr6 = dr6
    kvm.dr7 = dr7
    return kvm
  }

  mutating func load(_ kvm: kvm_vcpu_events) {
    hasInterruptShadow = kvm.interrupt.shadow != 0
    pendingInterrupt =
      kvm.interrupt.injected != 0 && kvm.interrupt.soft == 0 ? kvm.interrupt.nr : nil
    isNMIBlocked = kvm.nmi.masked != 0
    isNMIPending = kvm.nmi.pending != 0 || kvm.nmi.injected != 0
    pendingException = nil
    if kvm.exception.injected != 0 || kvm.exception.pending != 0 {
      let payload = kvm.exception.pending != 0 && kvm.exception_has_payload != 0
      pendingException = PendingException(
        vector: kvm.exception.nr,
        errorCode: kvm.exception.has_error_code != 0 ? kvm.exception.error_code : nil,
        payload: payload ? kvm.exception_payload : nil)
    }
  }

  /// What waits to be delivered, as KVM takes it. `payloads`: KVM_CAP_EXCEPTION_PAYLOAD is on.
  func kvmEvents(payloads: Bool) -> kvm_vcpu_events {
    var kvm = kvm_vcpu_events()
    kvm.flags = UInt32(KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW)
    if hasInterruptShadow { kvm.interrupt.shadow = UInt8(KVM_X86_SHADOW_INT_STI) }
    if let vector = pendingInterrupt {
      kvm.interrupt.injected = 1
      kvm.interrupt.nr = vector
    }
    kvm.nmi.masked = isNMIBlocked ? 1 : 0
    kvm.nmi.pending = isNMIPending ? 1 : 0
    if payloads { kvm.flags |= UInt32(KVM_VCPUEVENT_VALID_PAYLOAD) }
    if let exception = pendingException {
      kvm.exception.nr = exception.vector
      kvm.exception.has_error_code = exception.errorCode == nil ? 0 : 1
      kvm.exception.error_code = exception.errorCode ?? 0
      if payloads, let payload = exception.payload {
        kvm.exception.pending = 1
        kvm.exception_has_payload = 1
        kvm.exception_payload = payload
      } else {
        kvm.exception.injected = 1
      }
    }
    return kvm
  }
}
