/// The registers and the schedule of a UHCI host controller with nothing plugged into its two ports (Intel UHCI Design Guide 1.1).
///
/// Pure model: time comes in as frames, memory as a closure. A transfer that the guest schedules all the same meets no device and
/// fails as on a real bus, by time-out.
package struct UHCIModel: Equatable, Sendable {
  /// USBSTS (2.1.2).
  package enum Status {
    package static let interrupt: UInt16 = 1 << 0
    package static let error: UInt16 = 1 << 1
    package static let resumeDetect: UInt16 = 1 << 2
    package static let hostSystemError: UInt16 = 1 << 3
    package static let processError: UInt16 = 1 << 4
    package static let halted: UInt16 = 1 << 5
  }
  /// USBCMD (2.1.1).
  package enum Command {
    package static let run: UInt16 = 1 << 0
    package static let hostReset: UInt16 = 1 << 1
    package static let globalReset: UInt16 = 1 << 2
    package static let globalSuspend: UInt16 = 1 << 3
    package static let forceResume: UInt16 = 1 << 4
    package static let softwareDebug: UInt16 = 1 << 5
  }
  /// PORTSC (2.1.7).
  private enum Port {
    static let always: UInt16 = 1 << 7
    /// Resume detect, reset, suspend: what software may set with nothing connected.
    static let writable: UInt16 = 1 << 6 | 1 << 9 | 1 << 12
  }

  package private(set) var command: UInt16 = 0
  package private(set) var status = Status.halted
  package private(set) var interruptEnable: UInt16 = 0
  private var frameNumber: UInt16 = 0
  private var frameListBase: UInt32 = 0
  private var startOfFrame: UInt8 = 64
  private var ports: [UInt16] = [Port.always, Port.always]

  package init() {}

  /// Whether frames pass.
  package var isRunning: Bool { command & Command.run != 0 }

  /// Whether the interrupt pin is asserted (2.1.2, 2.1.3).
  package var isInterruptAsserted: Bool {
    let wantsCompletion = interruptEnable & 0b1100 != 0
    return status & Status.interrupt != 0 && wantsCompletion
      || status & Status.error != 0 && interruptEnable & 1 != 0
      || status & Status.resumeDetect != 0 && interruptEnable & 2 != 0
      || status & (Status.hostSystemError | Status.processError) != 0
  }

  // MARK: - Registers (2.1)

  /// A byte of the register file; the controller answers any width by bytes.
  package func read(_ offset: Int) -> UInt8 {
    func part(_ value: UInt16) -> UInt8 {
      UInt8(truncatingIfNeeded: offset & 1 == 0 ? value : value >> 8)
    }
    switch offset {
    case 0x00, 0x01: return part(command)
    case 0x02, 0x03: return part(status)
    case 0x04, 0x05: return part(interruptEnable)
    case 0x06, 0x07: return part(frameNumber)
    case 0x08...0x0B:
      return UInt8(truncatingIfNeeded: frameListBase >> UInt32((offset & 3) * 8))
    case 0x0C: return startOfFrame
    case 0x10...0x13: return part(ports[(offset - 0x10) / 2])
    default: return offset < 0x20 ? 0xFF : 0
    }
  }

  /// A write of `width` bytes.
  package mutating func write(_ offset: Int, width: Int, _ value: UInt32) {
    if width == 4, offset != 0x08 {
      write(offset, width: 2, value & 0xFFFF)
      write(offset + 2, width: 2, value >> 16)
      return
    }
    let word = UInt16(truncatingIfNeeded: value)
    switch offset {
    case 0x00: setCommand(width == 1 ? command & 0xFF00 | word & 0xFF : word)
    case 0x02: status &= ~(word & 0x1F)
    case 0x04: interruptEnable = word & 0xF
    case 0x06 where !isRunning: frameNumber = word & 0x7FF
    case 0x08:
      frameListBase =
        (width == 4 ? value : frameListBase & 0xFFFF_0000 | value & 0xFFFF) & 0xFFFF_F000
    case 0x0A: frameListBase = frameListBase & 0xFFFF | value << 16
    case 0x0C: startOfFrame = UInt8(truncatingIfNeeded: value) & 0x7F
    case 0x10, 0x12:
      // Connection, enable and their changes stay clear: nothing is connected.
      ports[(offset - 0x10) / 2] = Port.always | word & Port.writable
    default: break
    }
  }

  private mutating func setCommand(_ value: UInt16) {
    if value & (Command.hostReset | Command.globalReset) != 0, value & Command.hostReset != 0 {
      self = UHCIModel()
      return
    }
    if value & Command.globalReset != 0 {
      self = UHCIModel()
      command = Command.globalReset
      return
    }
    command = value & 0xFF
    if isRunning { status &= ~Status.halted } else { status |= Status.halted }
  }

  // MARK: - Schedule (3)

  /// What a frame's schedule held.
  package struct Frame: Equatable, Sendable {
    /// Transfer descriptors that were active.
    package var activeTransfers = 0
  }

  /// Lets `count` frames pass without looking at the schedule.
  package mutating func skipFrames(_ count: UInt64) {
    guard isRunning else { return }
    frameNumber = UInt16(truncatingIfNeeded: (UInt64(frameNumber) &+ count) & 0x7FF)
  }

  /// Executes the present frame (3.4): `load` and `store` access a doubleword of guest memory, nil and false where there is none.
  package mutating func executeFrame(
    load: (UInt32) -> UInt32?, store: (UInt32, UInt32) -> Bool
  ) -> Frame {
    var frame = Frame()
    guard isRunning else { return frame }
    let entry = frameListBase &+ UInt32(frameNumber & 0x3FF) &* 4
    guard var link = load(entry) else {
      failProcess()
      return frame
    }
    // A frame has time for some dozens of transfers; a loop of queues ends when nothing in it did anything.
    var budget = 256
    while link & 1 == 0, budget > 0 {
      budget -= 1
      let address = link & ~0xF
      if link & 2 != 0 {
        // Queue head: its element first (one transfer at most), then its horizontal link.
        guard let next = load(address), let element = load(address &+ 4) else {
          failProcess()
          return frame
        }
        if element & 3 == 0 {
          guard executeTransfer(element & ~0xF, &frame, load, store) else { return frame }
        }
        link = next
      } else {
        guard let next = load(address) else {
          failProcess()
          return frame
        }
        guard executeTransfer(address, &frame, load, store) else { return frame }
        link = next
      }
    }
    skipFrames(1)
    return frame
  }

  /// Tries one transfer (3.2): nobody answers, so an attempt is used up. False when memory fails.
  private mutating func executeTransfer(
    _ address: UInt32, _ frame: inout Frame, _ load: (UInt32) -> UInt32?,
    _ store: (UInt32, UInt32) -> Bool
  ) -> Bool {
    guard var control = load(address &+ 4) else {
      failProcess()
      return false
    }
    let active: UInt32 = 1 << 23
    guard control & active != 0 else { return true }
    frame.activeTransfers += 1
    let isIsochronous = control & 1 << 25 != 0
    let attempts = control >> 27 & 3
    control |= 1 << 18
    if isIsochronous {
      control &= ~active
    } else if attempts == 1 {
      control = control & ~(active | 3 << 27) | 1 << 22
      status |= Status.error
    } else if attempts > 1 {
      control = control & ~(3 << 27) | (attempts - 1) << 27
    }
    if control & active == 0, control & 1 << 24 != 0 { status |= Status.interrupt }
    guard store(address &+ 4, control) else {
      failProcess()
      return false
    }
    return true
  }

  /// The schedule is not in memory (2.1.2, bit 4): the controller stops.
  private mutating func failProcess() {
    command &= ~Command.run
    status |= Status.processError | Status.halted
  }
}
