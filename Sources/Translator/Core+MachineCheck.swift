import CX86

/// Machine checks (Intel SDM vol. 3B, chapter 16): memory whose bytes are lost with the node that had them.
extension Core {
  private enum Register {
    static let globalStatus: UInt32 = 0x17A
    /// IA32_MC1_STATUS, _ADDR, _MISC.
    static let status: UInt32 = 0x405
    static let address: UInt32 = 0x406
    static let misc: UInt32 = 0x407
  }
  private enum Status {
    /// VAL UC EN MISCV ADDRV S AR: an uncorrected error in an access whose outcome software must deal with.
    static let recoverable: UInt64 = 0xBD80_0000_0000_0000
    /// "Data load" of the memory hierarchy.
    static let dataLoad: UInt64 = 0x134
    /// OVER: another error was there.
    static let overflow: UInt64 = 1 << 62
    static let valid: UInt64 = 1 << 63
    /// MCG_STATUS: RIPV EIPV, for the instruction has had no effect, and MCIP.
    static let global: UInt64 = 7
    static let inProgress: UInt64 = 4
  }

  /// The machine check for an access to a page that is lost. Where none can be delivered the processor shuts down.
  @inline(never) func machineCheck(_ physical: UInt64) -> GuestFault {
    func register(_ index: UInt32) -> UInt64 {
      environment.msrs.values[index] ?? MSRFile.initial[index] ?? 0
    }
    let global = register(Register.globalStatus)
    let old = register(Register.status)
    environment.isFatalCheck = cr4 & CR4.mce == 0 || global & Status.inProgress != 0
    environment.msrs.values[Register.status] =
      Status.recoverable | Status.dataLoad | (old & Status.valid != 0 ? Status.overflow : 0)
    environment.msrs.values[Register.address] = physical
    // The address is a physical one, good to the page.
    environment.msrs.values[Register.misc] = 2 << 6 | 12
    environment.msrs.values[Register.globalStatus] = Status.global
    return fault(ExceptionVector.machineCheck)
  }
}
