/// Bits of CR0 (Intel SDM vol. 3A, 2.5).
enum CR0 {
  static let pe: UInt64 = 1
  static let mp: UInt64 = 1 << 1
  static let em: UInt64 = 1 << 2
  static let ts: UInt64 = 1 << 3
  static let et: UInt64 = 1 << 4
  static let ne: UInt64 = 1 << 5
  static let wp: UInt64 = 1 << 16
  static let am: UInt64 = 1 << 18
  static let nw: UInt64 = 1 << 29
  static let cd: UInt64 = 1 << 30
  static let pg: UInt64 = 1 << 31
}

/// Bits of CR4 (Intel SDM vol. 3A, 2.5).
enum CR4 {
  static let vme: UInt64 = 1
  static let pvi: UInt64 = 1 << 1
  static let tsd: UInt64 = 1 << 2
  static let de: UInt64 = 1 << 3
  static let pse: UInt64 = 1 << 4
  static let pae: UInt64 = 1 << 5
  static let mce: UInt64 = 1 << 6
  static let pge: UInt64 = 1 << 7
  static let pce: UInt64 = 1 << 8
  static let osfxsr: UInt64 = 1 << 9
  static let osxmmexcpt: UInt64 = 1 << 10
  static let umip: UInt64 = 1 << 11
  static let fsgsbase: UInt64 = 1 << 16
  static let pcide: UInt64 = 1 << 17
  static let osxsave: UInt64 = 1 << 18
  static let smep: UInt64 = 1 << 20
  static let smap: UInt64 = 1 << 21
}

/// Bits of EFER (AMD APM vol. 2, 3.1.7).
enum EFER {
  static let sce: UInt64 = 1
  static let lme: UInt64 = 1 << 8
  static let lma: UInt64 = 1 << 10
  static let nxe: UInt64 = 1 << 11
  static let ffxsr: UInt64 = 1 << 14
}

/// Bits of EFLAGS (Intel SDM vol. 1, 3.4.3).
enum EFLAGS {
  static let cf: UInt32 = 1
  static let pf: UInt32 = 1 << 2
  static let af: UInt32 = 1 << 4
  static let zf: UInt32 = 1 << 6
  static let sf: UInt32 = 1 << 7
  static let tf: UInt32 = 1 << 8
  static let `if`: UInt32 = 1 << 9
  static let df: UInt32 = 1 << 10
  static let of: UInt32 = 1 << 11
  static let iopl: UInt32 = 3 << 12
  static let nt: UInt32 = 1 << 14
  static let rf: UInt32 = 1 << 16
  static let vm: UInt32 = 1 << 17
  static let ac: UInt32 = 1 << 18
  static let vif: UInt32 = 1 << 19
  static let vip: UInt32 = 1 << 20
  static let id: UInt32 = 1 << 21
  static let arithmetic: UInt32 = cf | pf | af | zf | sf | of
  /// Everything that exists, without the always-set bit 1.
  static let all: UInt32 =
    arithmetic | tf | `if` | df | iopl | nt | rf | vm | ac | vif | vip | id
}

/// What the guest's CPUID offers, as kept in `X86State.features`.
enum Feature {
  static let pdpe1gb: UInt64 = 1
  static let smep: UInt64 = 1 << 1
  static let smap: UInt64 = 1 << 2
  static let fsgsbase: UInt64 = 1 << 3
  static let nx: UInt64 = 1 << 4
  static let pcid: UInt64 = 1 << 5
  static let umip: UInt64 = 1 << 6
  static let xsave: UInt64 = 1 << 7
  static let lm: UInt64 = 1 << 8
  static let rdtscp: UInt64 = 1 << 9
  static let popcnt: UInt64 = 1 << 10
  static let lzcnt: UInt64 = 1 << 11
  static let bmi1: UInt64 = 1 << 12
  static let bmi2: UInt64 = 1 << 13
  static let adx: UInt64 = 1 << 14
  static let movbe: UInt64 = 1 << 15
  static let sse42: UInt64 = 1 << 16
  static let rdrand: UInt64 = 1 << 17
  static let rdseed: UInt64 = 1 << 18
  static let cx16: UInt64 = 1 << 19
  static let invpcid: UInt64 = 1 << 20
  static let monitor: UInt64 = 1 << 21
  static let rdpid: UInt64 = 1 << 22
  static let sysenter: UInt64 = 1 << 23
  static let pge: UInt64 = 1 << 24
  static let intel: UInt64 = 1 << 25
  static let vme: UInt64 = 1 << 26
  static let svm: UInt64 = 1 << 27
  static let clflushopt: UInt64 = 1 << 28
  static let clwb: UInt64 = 1 << 29
}
