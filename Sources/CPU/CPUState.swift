/// A segment register with its hidden part (Intel SDM vol. 3A, 3.4.3).
package struct SegmentRegister: Equatable, Sendable {
  package var selector: UInt16
  package var base: UInt64
  /// In bytes, granularity already applied.
  package var limit: UInt32
  /// Bits 8 to 23 of the descriptor's high word at bits 0 to 15: type 0-3, S 4, DPL 5-6, P 7, AVL 12, L 13, D/B 14, G 15
  /// (the format of the VMX access rights; SDM vol. 3C, 25.4.1). 0: unusable (null selector).
  package var attributes: UInt16

  package init(
    selector: UInt16 = 0, base: UInt64 = 0, limit: UInt32 = 0xFFFF, attributes: UInt16 = 0x93
  ) {
    self.selector = selector
    self.base = base
    self.limit = limit
    self.attributes = attributes
  }

  package var type: UInt8 { UInt8(attributes & 15) }
  package var isCodeOrData: Bool { attributes & 0x10 != 0 }
  package var dpl: UInt8 { UInt8(attributes >> 5 & 3) }
  package var isPresent: Bool { attributes & 0x80 != 0 }
  package var isLong: Bool { attributes & 0x2000 != 0 }
  package var isBig: Bool { attributes & 0x4000 != 0 }
  package var hasPageGranularity: Bool { attributes & 0x8000 != 0 }
}

/// GDTR or IDTR.
package struct DescriptorTableRegister: Equatable, Sendable {
  package var base: UInt64
  package var limit: UInt16
  package init(base: UInt64 = 0, limit: UInt16 = 0xFFFF) {
    self.base = base
    self.limit = limit
  }
}

/// What a vCPU is waiting for.
package enum VCPUActivity: Equatable, Sendable {
  case running
  /// After HLT.
  case halted
  /// An application processor after reset or INIT, until STARTUP.
  case waitingForStartup
}

/// An exception between its cause and its delivery; only an accelerator that was interrupted there has one.
package struct PendingException: Equatable, Sendable {
  package var vector: UInt8
  package var errorCode: UInt32?
  /// What is still to be stored in CR2 (#PF) or DR6 (#DB); nil when that is done.
  package var payload: UInt64?

  package init(vector: UInt8, errorCode: UInt32? = nil, payload: UInt64? = nil) {
    self.vector = vector
    self.errorCode = errorCode
    self.payload = payload
  }
}

/// All architectural state of one vCPU, independent of the accelerator: what is saved, inspected and moved.
///
/// The local APIC is not in it; it has its own model in `DistIRQ`.
package struct CPUState: Equatable, Sendable {
  /// RAX RCX RDX RBX RSP RBP RSI RDI R8 … R15, by register number.
  package var registers = [UInt64](repeating: 0, count: 16)
  package var rip: UInt64 = 0
  package var rflags: UInt64 = 2

  package var es = SegmentRegister()
  package var cs = SegmentRegister()
  package var ss = SegmentRegister()
  package var ds = SegmentRegister()
  package var fs = SegmentRegister()
  package var gs = SegmentRegister()
  package var ldtr = SegmentRegister(attributes: 0x82)
  package var tr = SegmentRegister(attributes: 0x8B)
  package var gdtr = DescriptorTableRegister()
  package var idtr = DescriptorTableRegister()

  package var cr0: UInt64 = 0x6000_0010
  package var cr2: UInt64 = 0
  package var cr3: UInt64 = 0
  package var cr4: UInt64 = 0
  package var cr8: UInt64 = 0
  package var efer: UInt64 = 0
  package var xcr0: UInt64 = 1
  /// DR0 to DR3.
  package var debugAddresses: [UInt64] = [0, 0, 0, 0]
  package var dr6: UInt64 = 0xFFFF_0FF0
  package var dr7: UInt64 = 0x400

  /// x87, MMX, SSE, AVX in the standard form of XSAVE (SDM vol. 1, 13.4): legacy region, header, components at their
  /// standard offsets (YMM_Hi128 at 576). Always 4096 bytes.
  package var xsave = CPUState.initialXSAVE

  /// Model-specific registers that are not above, by index: STAR, LSTAR, CSTAR, SFMASK, KERNEL_GS_BASE, SYSENTER_*, PAT, MTRRs,
  /// TSC, TSC_AUX, MISC_ENABLE… (FS and GS bases are in `fs`, `gs`.)
  package var msrs: [UInt32: UInt64] = [:]

  package var activity = VCPUActivity.running
  /// Interrupts are held off for one instruction after STI or MOV SS.
  package var hasInterruptShadow = false
  /// An NMI handler has not yet returned.
  package var isNMIBlocked = false

  /// A vector that the local APIC has already handed over, to be delivered before the next instruction.
  package var pendingInterrupt: UInt8?
  /// An exception that is to be delivered before the next instruction.
  package var pendingException: PendingException?
  /// An NMI waits until it may be delivered.
  package var isNMIPending = false

  package init() {}

  /// The area after FNINIT and with MXCSR 0x1F80.
  package static let initialXSAVE: [UInt8] = {
    var area = [UInt8](repeating: 0, count: 4096)
    area[0] = 0x7F
    area[1] = 0x03
    area[24] = 0x80
    area[25] = 0x1F
    return area
  }()

  /// The state after power-up, reset, or INIT (SDM vol. 3A, table 10-1): real mode at F000:FFF0.
  ///
  /// `signature` is CPUID.1:EAX, which RDX holds. INIT keeps the x87 and vector state and most MSRs: see `initialized`.
  package static func reset(signature: UInt32) -> CPUState {
    var state = CPUState()
    state.registers[2] = UInt64(signature)
    state.rip = 0xFFF0
    state.cs = SegmentRegister(selector: 0xF000, base: 0xFFFF_0000, limit: 0xFFFF, attributes: 0x9B)
    state.gdtr = DescriptorTableRegister()
    state.idtr = DescriptorTableRegister()
    state.msrs[0x277] = 0x0007_0406_0007_0406  // PAT
    return state
  }

  /// The state that INIT makes of this one.
  package func initialized(signature: UInt32) -> CPUState {
    var state = CPUState.reset(signature: signature)
    state.xsave = xsave
    state.xcr0 = xcr0
    state.msrs = msrs
    state.cr0 = 0x10 | (cr0 & 0x6000_0000)
    return state
  }

  /// Begins real-mode execution at `vector` << 12, as STARTUP does.
  package mutating func start(vector: UInt8) {
    cs = SegmentRegister(
      selector: UInt16(vector) << 8, base: UInt64(vector) << 12, limit: 0xFFFF, attributes: 0x9B)
    rip = 0
    activity = .running
  }
}
