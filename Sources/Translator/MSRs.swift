import CPU
import CX86

/// Model-specific registers that no instruction looks at: stored and given back.
struct MSRFile {
  var pat: UInt64 = 0x0007_0406_0007_0406
  /// IA32_MTRR_DEF_TYPE, fixed and variable ranges, MISC_ENABLE, MCG_STATUS, MC banks…, by index.
  var values: [UInt32: UInt64] = [:]

  /// What the registers hold after reset, and which exist at all.
  static let initial: [UInt32: UInt64] = {
    var table: [UInt32: UInt64] = [
      0x17: 0,  // PLATFORM_ID
      0x3A: 1,  // FEATURE_CONTROL: locked, nothing enabled
      0x8B: 0,  // BIOS_SIGN_ID, set below
      0x79: 0,  // BIOS_UPDT_TRIG
      0xCE: 0,  // PLATFORM_INFO
      0x140: 0,  // MISC_FEATURE_ENABLES
      0x179: 0x0100_010A,  // MCG_CAP: ten banks, software error recovery
      0x17A: 0,  // MCG_STATUS
      0x17B: UInt64.max,  // MCG_CTL
      0x1A0: 1,  // MISC_ENABLE: fast strings
      0x1D9: 0,  // DEBUGCTL
      0x2FF: 0,  // MTRR_DEF_TYPE
      0xFE: 0x508,  // MTRRCAP: 8 variable ranges, fixed ranges, write-combining
      0x19A: 0, 0x19B: 0, 0x19C: 0,  // thermal
      0x122: 0,  // TSX_CTRL
      0xC001_0010: 0,  // SYSCFG
      0xC001_0015: 0x0100_0000,  // HWCR
      0xC001_001F: 0,  // NB_CFG
      0xC001_0055: 0,  // INT_PENDING
      0xC001_0058: 0,  // MMIO configuration base
      0xC001_0112: 0, 0xC001_0113: 0,  // TSEG
      0xC001_0114: 0,  // VM_CR
      0xC001_0117: 0,  // VM_HSAVE_PA
      0xC001_0140: 0, 0xC001_0141: 0,  // OSVW
      0xC001_1022: 0,  // DC_CFG
      0xC001_1023: 0,  // BU_CFG
      0xC001_1029: 2,  // DE_CFG: LFENCE serialises
      0xC001_102A: 0,  // BU_CFG2
    ]
    table[0x8B] = 0x1_0000_0000
    for n in UInt32(0)..<16 { table[0x200 + n] = 0 }
    for n: UInt32 in [
      0x250, 0x258, 0x259, 0x268, 0x269, 0x26A, 0x26B, 0x26C, 0x26D, 0x26E, 0x26F,
    ] { table[n] = 0 }
    for n in UInt32(0)..<10 {
      table[0x400 + n * 4] = UInt64.max
      table[0x401 + n * 4] = 0
      table[0x402 + n * 4] = 0
      table[0x403 + n * 4] = 0
    }
    return table
  }()

  static let readOnly: Set<UInt32> = [0xFE, 0x179, 0xCE]
}

/// RDMSR and WRMSR (Intel SDM vol. 4; AMD APM vol. 2, appendix A). What does not exist raises #GP.
extension Core {
  func readMSR(_ index: UInt32) throws(GuestFault) -> UInt64 {
    switch index {
    case 0x10: return timeStampCounter
    case 0x3B: return tscAdjust
    case 0x1B, 0x6E0, 0x800...0x8FF:
      guard let value = environment.outside({ environment.host.readMSR(index) }) else {
        throw fault(ExceptionVector.generalProtection, 0)
      }
      return value
    case 0x174: return sysenterCS
    case 0x175: return sysenterESP
    case 0x176: return sysenterEIP
    case 0x277: return environment.msrs.pat
    case 0xDA0 where coreFeatures & Feature.xsave != 0: return xss
    case 0xC000_0080: return efer
    case 0xC000_0081: return star
    case 0xC000_0082: return lstar
    case 0xC000_0083: return cstar
    case 0xC000_0084: return sfmask
    case 0xC000_0100: return segment(Core.fs).base
    case 0xC000_0101: return segment(Core.gs).base
    case 0xC000_0102: return kernelGSBase
    case 0xC000_0103: return tscAux
    default:
      if let value = environment.msrs.values[index] ?? MSRFile.initial[index] { return value }
      throw fault(ExceptionVector.generalProtection, 0)
    }
  }

  func writeMSR(_ index: UInt32, _ value: UInt64) throws(GuestFault) {
    let gp = ExceptionVector.generalProtection
    switch index {
    case 0x10:
      let delta = value &- timeStampCounter
      tscOffset = tscOffset &+ delta
      tscAdjust = tscAdjust &+ delta
    case 0x3B:
      tscOffset = tscOffset &+ value &- tscAdjust
      tscAdjust = value
    case 0x1B, 0x6E0, 0x800...0x8FF:
      if !environment.outside({ environment.host.writeMSR(index, value) }) { throw fault(gp, 0) }
    case 0x174: sysenterCS = value & 0xFFFF_FFFF
    case 0x175, 0x176, 0xC000_0082, 0xC000_0083, 0xC000_0100, 0xC000_0101, 0xC000_0102:
      if !isCanonical(value) { throw fault(gp, 0) }
      switch index {
      case 0x175: sysenterESP = value
      case 0x176: sysenterEIP = value
      case 0xC000_0082: lstar = value
      case 0xC000_0083: cstar = value
      case 0xC000_0100: setBase(Core.fs, value)
      case 0xC000_0101: setBase(Core.gs, value)
      default: kernelGSBase = value
      }
    case 0x277:
      var at = value
      for _ in 0..<8 {
        let type = at & 0xFF
        if type > 7 || type == 2 || type == 3 { throw fault(gp, 0) }
        at &>>= 8
      }
      environment.msrs.pat = value
    case 0xDA0 where coreFeatures & Feature.xsave != 0:
      if value != 0 { throw fault(gp, 0) }
    case 0xC000_0080: try writeEFER(value)
    case 0xC000_0081: star = value
    case 0xC000_0084: sfmask = value & 0xFFFF_FFFF
    case 0xC000_0103:
      if value &>> 32 != 0 { throw fault(gp, 0) }
      tscAux = value
    default:
      if MSRFile.initial[index] == nil || MSRFile.readOnly.contains(index) { throw fault(gp, 0) }
      environment.msrs.values[index] = value
    }
  }

  private func writeEFER(_ value: UInt64) throws(GuestFault) {
    var supported = EFER.sce
    if coreFeatures & Feature.nx != 0 { supported |= EFER.nxe }
    if coreFeatures & Feature.lm != 0 { supported |= EFER.lme | EFER.lma | EFER.ffxsr }
    if value & ~supported != 0 { throw fault(ExceptionVector.generalProtection, 0) }
    if (value ^ efer) & EFER.lme != 0 && cr0 & CR0.pg != 0 {
      throw fault(ExceptionVector.generalProtection, 0)
    }
    let old = efer
    efer = value & ~EFER.lma | old & EFER.lma
    if (old ^ efer) & EFER.nxe != 0 { flushTLB(includingGlobal: true) }
    updateMode()
  }
}
