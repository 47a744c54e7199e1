/// The keyboard controller of a PC, with its two devices (IBM PS/2 technical reference, keyboard and auxiliary device controller).
///
/// Bytes cross the PS/2 wires in no time. Commands that need the outside (reset, A20) are returned as `Action`s.
package struct I8042Model: Equatable, Sendable {
  /// What a write asks of the board.
  package enum Action: Equatable, Sendable {
    case reset
    case gateA20(open: Bool)
  }

  /// Bits of the command byte.
  private enum Mode {
    static let keyboardInterrupt: UInt8 = 0x01
    static let mouseInterrupt: UInt8 = 0x02
    static let system: UInt8 = 0x04
    static let keyboardDisabled: UInt8 = 0x10
    static let mouseDisabled: UInt8 = 0x20
    static let translate: UInt8 = 0x40
  }

  private enum Source: Equatable, Sendable { case controller, keyboard, mouse }

  package var keyboard = PS2Keyboard()
  package var mouse = PS2Mouse()
  private var mode = Mode.keyboardInterrupt | Mode.mouseInterrupt | Mode.translate
  private var pendingCommand: UInt8?
  private var buffer: UInt8 = 0
  private var source: Source?
  private var lastWasCommand = false
  /// A break prefix came, and the code that follows gets bit 7 when translated.
  private var sawBreakPrefix = false
  private var controllerQueue: [UInt8] = []
  private var memory = [UInt8](repeating: 0, count: 32)

  package init() {}

  /// Interrupt 1: a byte from the keyboard waits.
  package var keyboardInterrupt: Bool {
    mode & Mode.keyboardInterrupt != 0 && source == .keyboard
  }

  /// Interrupt 12: a byte from the mouse waits.
  package var mouseInterrupt: Bool { mode & Mode.mouseInterrupt != 0 && source == .mouse }

  /// Fills the output buffer from whoever has something, if it is empty. Call after touching `keyboard` or `mouse`.
  package mutating func pump() {
    while source == nil {
      if !controllerQueue.isEmpty {
        buffer = controllerQueue.removeFirst()
        source = .controller
      } else if mode & Mode.keyboardDisabled == 0, let byte = keyboard.takeOutput() {
        guard let code = translated(byte) else { continue }
        buffer = code
        source = .keyboard
      } else if mode & Mode.mouseDisabled == 0, let byte = mouse.takeOutput() {
        buffer = byte
        source = .mouse
      } else {
        return
      }
    }
  }

  // MARK: - Ports

  /// Port 0x64.
  package var status: UInt8 {
    var value: UInt8 = 0x10  // the keyboard is not locked
    if source != nil { value |= 0x01 }
    if mode & Mode.system != 0 { value |= 0x04 }
    if lastWasCommand { value |= 0x08 }
    if source == .mouse { value |= 0x20 }
    return value
  }

  /// Port 0x60. Call `pump` afterwards, when the interrupt line has been brought down: each byte makes an edge of its own.
  package mutating func readData() -> UInt8 {
    source = nil
    return buffer
  }

  /// Port 0x64.
  package mutating func writeCommand(_ command: UInt8, a20: Bool) -> Action? {
    lastWasCommand = true
    pendingCommand = nil
    var action: Action?
    switch command {
    case 0x20: reply(mode)
    case 0x21...0x3F: reply(memory[Int(command & 0x1F)])
    case 0x60...0x7F, 0xD1...0xD4: pendingCommand = command
    case 0xA7: mode |= Mode.mouseDisabled
    case 0xA8: mode &= ~Mode.mouseDisabled
    case 0xA9: reply(0x00)  // no fault on the mouse's wires
    case 0xAA:
      mode |= Mode.system
      reply(0x55)
    case 0xAB: reply(0x00)
    case 0xAD: mode |= Mode.keyboardDisabled
    case 0xAE: mode &= ~Mode.keyboardDisabled
    case 0xC0: reply(0x80)
    case 0xD0: reply(outputPort(a20: a20))
    case 0xDD: action = .gateA20(open: false)
    case 0xDF: action = .gateA20(open: true)
    // Pulses output lines; line 0 is the CPU's reset, active low.
    case 0xF0...0xFF: action = command & 1 == 0 ? .reset : nil
    default: break
    }
    pump()
    return action
  }

  /// Port 0x60.
  package mutating func writeData(_ value: UInt8) -> Action? {
    lastWasCommand = false
    let command = pendingCommand
    pendingCommand = nil
    var action: Action?
    switch command {
    case nil:
      // Sending to the keyboard enables its wire.
      mode &= ~Mode.keyboardDisabled
      keyboard.write(value)
    case 0x60: mode = value & 0x7F
    case .some(0x61...0x7F): memory[Int((command ?? 0) & 0x1F)] = value
    case 0xD1:
      action = value & 1 == 0 ? .reset : .gateA20(open: value & 2 != 0)
    case 0xD2:
      deliver(value, as: .keyboard)
    case 0xD3:
      deliver(value, as: .mouse)
    case 0xD4:
      mode &= ~Mode.mouseDisabled
      mouse.write(value)
    default: break
    }
    pump()
    return action
  }

  // MARK: -

  private mutating func reply(_ value: UInt8) {
    if controllerQueue.count < 16 { controllerQueue.append(value) }
  }

  /// A byte that software puts into the output buffer as if a device had sent it.
  private mutating func deliver(_ value: UInt8, as origin: Source) {
    buffer = value
    source = origin
  }

  /// Bits 4 and 5 mirror the interrupts.
  private func outputPort(a20: Bool) -> UInt8 {
    0x01 | (a20 ? 0x02 : 0) | (keyboardInterrupt ? 0x10 : 0) | (mouseInterrupt ? 0x20 : 0)
  }

  private mutating func translated(_ byte: UInt8) -> UInt8? {
    guard mode & Mode.translate != 0 else { return byte }
    if byte == 0xF0 {
      sawBreakPrefix = true
      return nil
    }
    var code = byte
    if byte < 0x80 { code = PS2Keyboard.translation[Int(byte)] }
    if byte == 0x83 { code = 0x41 }
    if byte == 0x84 { code = 0x54 }
    if sawBreakPrefix { code |= 0x80 }
    sawBreakPrefix = false
    return code
  }
}
