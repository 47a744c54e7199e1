/// The model-specific registers that belong to a vCPU's state, with their values after reset.
///
/// EFER and the bases of FS and GS are in the system registers; IA32_APIC_BASE, TSC_DEADLINE and x2APIC are the local APIC's.
struct ModelSpecificRegister {
  let index: UInt32
  let reset: UInt64

  static let tsc: UInt32 = 0x10
  static let apicBase: UInt32 = 0x1B
  static let tscAdjust: UInt32 = 0x3B
  static let tscDeadline: UInt32 = 0x6E0
  static let x2APIC: ClosedRange<UInt32> = 0x800...0x8FF

  /// Those whose value changes by itself or follows from it: left alone unless a state names them.
  static func isTime(_ index: UInt32) -> Bool { index == tsc || index == tscAdjust }

  /// All, in the order of writing.
  static let all: [ModelSpecificRegister] = {
    var list: [ModelSpecificRegister] = []
    func add(_ indices: some Sequence<UInt32>, reset: UInt64 = 0) {
      for index in indices { list.append(ModelSpecificRegister(index: index, reset: reset)) }
    }
    add([tsc, tscAdjust])
    add([0x48])  // SPEC_CTRL
    add([0xE1])  // UMWAIT_CONTROL
    add([0x122])  // TSX_CTRL
    add([0x140])  // MISC_FEATURES_ENABLES
    add(0x174...0x176)  // SYSENTER
    add([0x17A])  // MCG_STATUS
    add([0x1A0], reset: 1)  // MISC_ENABLE: fast strings
    add([0x1D9])  // DEBUGCTL
    add(0x200...0x20F)  // MTRR, variable
    add([0x250, 0x258, 0x259])  // MTRR, fixed
    add(0x268...0x26F)
    add([0x277], reset: 0x0007_0406_0007_0406)  // PAT
    add([0x2FF])  // MTRR_DEF_TYPE
    add([0xDA0])  // XSS
    add(0xC000_0081...0xC000_0084)  // STAR, LSTAR, CSTAR, SFMASK
    add(0xC000_0102...0xC000_0103)  // KERNEL_GS_BASE, TSC_AUX
    // KVM's own: wall clock, system time, asynchronous page faults, stolen time, end of interrupt. A stale address
    // of one of these would have the kernel write into the memory of the next guest after a reset.
    add([0x11, 0x12])
    add(0x4B56_4D00...0x4B56_4D04)
    return list
  }()
}
