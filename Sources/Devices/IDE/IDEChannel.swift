/// One channel of the controller: its two drives' shared registers and interrupt (ATA/ATAPI-6, 7 and 9): a pure model.
package struct IDEChannel: Sendable {
  /// Drive 0 and drive 1; nil where none is.
  package var drives: [ATADrive?] = [nil, nil]
  package var master = BusMaster()
  /// Bit 4 of the device register as last written.
  private var selected = 0
  /// Bit 1: no interrupts. Bit 2: software reset. Bit 7: the previous contents are read.
  private var control: UInt8 = 0
  private var isInterruptPending = false
  /// The drive whose step is being carried out.
  private var working: Int?
  /// Counts resets and stops of the bus master: what was begun before one is not finished after it.
  private var epoch: UInt32 = 0

  package init() {}

  private enum Control {
    static let noInterrupt: UInt8 = 2
    static let reset: UInt8 = 4
    static let previous: UInt8 = 0x80
  }

  /// Where the interrupt wire should be.
  package var interruptLevel: Bool { isInterruptPending && control & Control.noInterrupt == 0 }

  // MARK: - Registers

  /// The command block: register 0 is the data register, and of 2 or 4 bytes.
  package mutating func read(_ register: Int, width: Int = 1) -> UInt32 {
    if register == 0 {
      guard width > 1 else { return 0 }
      let value = drives[selected]?.readData(width) ?? 0
      takeInterrupts()
      return value
    }
    guard let drive = drives[selected] else { return 0 }
    switch register {
    case 1: return UInt32(drive.error)
    case 7:
      isInterruptPending = false
      return UInt32(drive.status)
    default:
      return UInt32(drive.file.read(register, previous: control & Control.previous != 0))
    }
  }

  package mutating func write(_ register: Int, width: Int = 1, _ value: UInt32) {
    let byte = UInt8(truncatingIfNeeded: value)
    switch register {
    case 0:
      guard width > 1 else { return }
      drives[selected]?.writeData(width, value)
      takeInterrupts()
    case 7: command(byte)
    default:
      control &= ~Control.previous
      // Both drives hear what is written.
      for index in drives.indices where (drives[index]?.status ?? 0) & ATAStatus.busy == 0 {
        drives[index]?.file.write(register, byte)
      }
      if register == 6 { selected = Int(byte >> 4 & 1) }
    }
  }

  /// The status without the effects of reading it.
  package var alternateStatus: UInt8 { drives[selected]?.status ?? 0 }

  /// The control register. Answers whether the drives are reset by it, after which nothing of before may still be going on.
  package mutating func writeControl(_ value: UInt8) -> Bool {
    let before = control
    control = value
    if value & Control.reset != 0, before & Control.reset == 0 {
      for index in drives.indices {
        drives[index]?.reset()
        drives[index]?.status = ATAStatus.busy
      }
      selected = 0
      isInterruptPending = false
      epoch &+= 1
      return true
    }
    if value & Control.reset == 0, before & Control.reset != 0 {
      for index in drives.indices { drives[index]?.reset() }
    }
    return false
  }

  private mutating func command(_ code: UInt8) {
    isInterruptPending = false
    control &= ~Control.previous
    // EXECUTE DEVICE DIAGNOSTIC is for both.
    if code == 0x90 {
      selected = 0
      for index in drives.indices where drives[index]?.step == nil {
        drives[index]?.file.device &= ~0x10
        drives[index]?.execute(code)
      }
      drives[1]?.wantsInterrupt = false
      return takeInterrupts()
    }
    guard let drive = drives[selected] else { return }
    let isOccupied = drive.status & (ATAStatus.busy | ATAStatus.dataRequest) != 0
    // Only DEVICE RESET ends what a packet device is at.
    guard !isOccupied || code == 0x08 && drive.shape.isOptical && working == nil else { return }
    drives[selected]?.execute(code)
    takeInterrupts()
  }

  private mutating func takeInterrupts() {
    for index in drives.indices where drives[index]?.wantsInterrupt == true {
      drives[index]?.wantsInterrupt = false
      isInterruptPending = true
      if control & Control.noInterrupt == 0 { master.interruptArrived() }
    }
  }

  /// Power-on, or a reset of the machine.
  package mutating func reset() {
    for index in drives.indices { drives[index]?.reset() }
    master = BusMaster()
    selected = 0
    control = 0
    isInterruptPending = false
    epoch &+= 1
  }

  // MARK: - Steps

  /// What must be carried out now, by one at a time: which drive, and what; nil while there is nothing or it is under way. It is over
  /// with `finishStep`.
  package mutating func beginStep() -> (drive: Int, step: DriveStep, epoch: UInt32)? {
    guard working == nil else { return nil }
    for index in drives.indices {
      guard let step = drives[index]?.step else { continue }
      if step.needsBusMaster, !master.isActive { continue }
      working = index
      return (index, step, epoch)
    }
    return nil
  }

  /// A step that `beginStep` gave is over.
  package mutating func finishStep(_ drive: Int, _ result: StepResult, epoch begun: UInt32) {
    working = nil
    guard begun == epoch else { return }
    let usedMaster = drives[drive]?.step?.needsBusMaster == true
    drives[drive]?.finish(result)
    if usedMaster {
      switch result {
      case .done: if drives[drive]?.step?.needsBusMaster != true { master.finish() }
      case .failed: master.finish()
      case .short: master.stopShort()
      }
    }
    takeInterrupts()
  }

  /// A step that `beginStep` gave will be begun again.
  package mutating func suspendStep() { working = nil }

  var currentEpoch: UInt32 { epoch }

  /// Whether a step is being carried out.
  package var isWorking: Bool { working != nil }

  // MARK: - The bus master

  package mutating func writeMasterCommand(_ value: UInt8) -> Bool {
    let wasActive = master.isActive
    master.writeCommand(value)
    // Software gives the transfer up.
    guard wasActive, !master.isActive, let index = working,
      drives[index]?.step?.needsBusMaster == true
    else { return false }
    epoch &+= 1
    drives[index]?.step = nil
    drives[index]?.complete(interrupt: false)
    return true
  }
}
