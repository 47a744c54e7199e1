/// The 16550A UART without a clock or a wire: registers, FIFOs, interrupt conditions (TI PC16550D, section 8).
///
/// Deviations: characters are sent as soon as the backend takes them, whatever the divisor says; resetting the
/// transmit FIFO does not take back characters that the backend has not yet accepted, so no output is lost while it is slow;
/// parity and framing errors do not occur.
package struct UART16550: Equatable, Sendable {
  /// Characters that each FIFO holds.
  package static let fifoDepth = 16

  /// A register by its offset, with DLAB clear (section 8.1, table II).
  private enum Offset {
    static let data: UInt8 = 0
    static let interruptEnable: UInt8 = 1
    static let interruptIdentification: UInt8 = 2
    static let lineControl: UInt8 = 3
    static let modemControl: UInt8 = 4
    static let lineStatus: UInt8 = 5
    static let modemStatus: UInt8 = 6
  }

  /// Line status register (8.6.3).
  package struct LineStatus: OptionSet, Equatable, Sendable {
    package let rawValue: UInt8
    package init(rawValue: UInt8) { self.rawValue = rawValue }
    package static let dataReady = LineStatus(rawValue: 0x01)
    package static let overrun = LineStatus(rawValue: 0x02)
    package static let parity = LineStatus(rawValue: 0x04)
    package static let framing = LineStatus(rawValue: 0x08)
    package static let breakInterrupt = LineStatus(rawValue: 0x10)
    package static let holdingEmpty = LineStatus(rawValue: 0x20)
    package static let transmitterEmpty = LineStatus(rawValue: 0x40)
    package static let errorInFIFO = LineStatus(rawValue: 0x80)
    static let errors: LineStatus = [.overrun, .parity, .framing, .breakInterrupt]
  }

  /// The modem's inputs, as the high half of the modem status register shows them (8.6.6).
  package struct ModemLines: OptionSet, Equatable, Sendable {
    package let rawValue: UInt8
    package init(rawValue: UInt8) { self.rawValue = rawValue }
    package static let clearToSend = ModemLines(rawValue: 0x10)
    package static let dataSetReady = ModemLines(rawValue: 0x20)
    package static let ring = ModemLines(rawValue: 0x40)
    package static let carrier = ModemLines(rawValue: 0x80)
    /// A peer is there and listens.
    package static let connected: ModemLines = [.clearToSend, .dataSetReady, .carrier]
  }

  private struct Received: Equatable, Sendable {
    var byte: UInt8
    var errors: LineStatus
  }

  private var interruptEnable: UInt8 = 0
  private var lineControl: UInt8 = 0
  private var modemControl: UInt8 = 0x08
  private var scratch: UInt8 = 0
  private var divisor: UInt16 = 12
  private var fifoEnabled = false
  private var triggerLevel = 1
  private var received: [Received] = []
  private var outgoing: [UInt8] = []
  private var hasOverrun = false
  private var transmitInterruptPending = false
  private var timeoutInterruptPending = false
  /// The wire's state, kept while loopback hides it.
  private var modemLines = ModemLines.connected
  /// The high half as last shown.
  private var shownLines = ModemLines.connected.rawValue
  /// Which lines changed since the register was last read (bits 0 to 3).
  private var modemDelta: UInt8 = 0

  package init() {
    received.reserveCapacity(UART16550.fifoDepth)
    outgoing.reserveCapacity(UART16550.fifoDepth)
  }

  // MARK: - Guest's side

  /// What the guest reads at `offset` (0 to 7).
  package mutating func read(_ offset: UInt8) -> UInt8 {
    switch offset & 7 {
    case Offset.data where divisorLatchSelected: return UInt8(truncatingIfNeeded: divisor)
    case Offset.interruptEnable where divisorLatchSelected: return UInt8(divisor >> 8)
    case Offset.data: return readReceived()
    case Offset.interruptEnable: return interruptEnable
    case Offset.interruptIdentification:
      let identification = interruptIdentification
      if identification == Identification.transmitter { transmitInterruptPending = false }
      return identification | (fifoEnabled ? 0xC0 : 0)
    case Offset.lineControl: return lineControl
    case Offset.modemControl: return modemControl
    case Offset.lineStatus:
      let status = lineStatus
      hasOverrun = false
      if !received.isEmpty { received[0].errors = [] }
      return status.rawValue
    case Offset.modemStatus:
      let status = shownLines | modemDelta
      modemDelta = 0
      return status
    default: return scratch
    }
  }

  /// The guest's write at `offset` (0 to 7).
  package mutating func write(_ offset: UInt8, _ value: UInt8) {
    switch offset & 7 {
    case Offset.data where divisorLatchSelected: divisor = divisor & 0xFF00 | UInt16(value)
    case Offset.interruptEnable where divisorLatchSelected:
      divisor = divisor & 0x00FF | UInt16(value) << 8
    case Offset.data: transmit(value)
    case Offset.interruptEnable:
      let changed = interruptEnable ^ value
      interruptEnable = value & 0x0F
      // Enabling it with the holding register empty interrupts at once (8.6.7 and common practice of drivers).
      if changed & 0x02 != 0 { transmitInterruptPending = value & 0x02 != 0 && outgoing.isEmpty }
    case Offset.interruptIdentification: writeFIFOControl(value)
    case Offset.lineControl: lineControl = value
    case Offset.modemControl:
      modemControl = value & 0x1F
      showModemLines()
    case Offset.lineStatus, Offset.modemStatus: break  // for factory testing only
    default: scratch = value
    }
  }

  /// Whether the interrupt output is active.
  package var interruptAsserted: Bool { interruptIdentification != Identification.none }

  // MARK: - The wire's side

  /// How many more characters fit.
  package var receiveSpace: Int {
    isLoopback ? 0 : max((fifoEnabled ? UART16550.fifoDepth : 1) - received.count, 0)
  }

  /// Characters from the wire; answers how many the FIFO took.
  package mutating func receive(_ bytes: ArraySlice<UInt8>) -> Int {
    let taken = min(receiveSpace, bytes.count)
    for byte in bytes.prefix(taken) { received.append(Received(byte: byte, errors: [])) }
    return taken
  }

  /// A break on the wire: a zero character with the break flag (8.6.3, bit 4).
  package mutating func receiveBreak() {
    guard !isLoopback else { return }
    push(Received(byte: 0, errors: .breakInterrupt))
  }

  /// The modem's inputs are now `lines`.
  package mutating func setModemLines(_ lines: ModemLines) {
    modemLines = lines
    showModemLines()
  }

  /// Whether characters wait in the FIFO below its trigger level, so that the time-out (four character times without one coming or
  /// being read; 8.7) should run.
  package var wantsTimeout: Bool {
    fifoEnabled && !received.isEmpty && received.count < triggerLevel && !timeoutInterruptPending
      && interruptEnable & 0x01 != 0
  }

  /// Four character times have passed.
  package mutating func timeOut() {
    if wantsTimeout { timeoutInterruptPending = true }
  }

  /// Four character times at the present divisor and format, in nanoseconds.
  package func timeoutNanoseconds(baudBase: UInt32) -> Int64 {
    let dataBits = Int64(lineControl & 3) &+ 5
    let bits = 1 &+ dataBits &+ (lineControl & 0x08 != 0 ? 1 : 0) &+ (lineControl & 4 != 0 ? 2 : 1)
    return 4 &* bits &* 1_000_000_000 &* Int64(max(divisor, 1)) / Int64(max(baudBase, 1))
  }

  /// Characters that wait to be sent, in order. They stay until `transmitted` says they are gone.
  package var transmitQueue: [UInt8] { outgoing }

  /// The first `count` characters of the queue have been sent.
  package mutating func transmitted(_ count: Int) {
    guard count > 0, !outgoing.isEmpty else { return }
    outgoing.removeFirst(min(count, outgoing.count))
    if outgoing.isEmpty { transmitInterruptPending = true }
  }

  /// A break is being sent (line control, bit 6).
  package var isSendingBreak: Bool { lineControl & 0x40 != 0 }

  /// Speed and frame that the guest has set.
  package func line(baudBase: UInt32) -> SerialLine {
    SerialLine(
      speed: baudBase / UInt32(max(divisor, 1)), dataBits: Int(lineControl & 3) &+ 5,
      parity: lineControl & 0x08 == 0 ? .none : lineControl & 0x10 != 0 ? .even : .odd,
      stopBits: lineControl & 4 != 0 ? 2 : 1, isSendingBreak: isSendingBreak)
  }

  // MARK: -

  private var divisorLatchSelected: Bool { lineControl & 0x80 != 0 }
  private var isLoopback: Bool { modemControl & 0x10 != 0 }

  /// Values of the identification register's low four bits, by falling priority (table IV).
  private enum Identification {
    static let lineStatus: UInt8 = 0x06
    static let timeout: UInt8 = 0x0C
    static let received: UInt8 = 0x04
    static let transmitter: UInt8 = 0x02
    static let modem: UInt8 = 0x00
    static let none: UInt8 = 0x01
  }

  private var interruptIdentification: UInt8 {
    if interruptEnable & 0x04 != 0, !lineStatus.isDisjoint(with: .errors) {
      return Identification.lineStatus
    }
    if interruptEnable & 0x01 != 0 {
      if timeoutInterruptPending { return Identification.timeout }
      if !received.isEmpty, !fifoEnabled || received.count >= triggerLevel {
        return Identification.received
      }
    }
    if interruptEnable & 0x02 != 0, transmitInterruptPending { return Identification.transmitter }
    if interruptEnable & 0x08 != 0, modemDelta != 0 { return Identification.modem }
    return Identification.none
  }

  private var lineStatus: LineStatus {
    var status: LineStatus = outgoing.isEmpty ? [.holdingEmpty, .transmitterEmpty] : []
    if let first = received.first {
      status.insert(.dataReady)
      status.formUnion(first.errors)
    }
    if hasOverrun { status.insert(.overrun) }
    if fifoEnabled, received.contains(where: { $0.errors != [] }) { status.insert(.errorInFIFO) }
    return status
  }

  private mutating func readReceived() -> UInt8 {
    timeoutInterruptPending = false
    guard !received.isEmpty else { return 0 }
    return received.removeFirst().byte
  }

  private mutating func push(_ character: Received) {
    if received.count >= (fifoEnabled ? UART16550.fifoDepth : 1) {
      hasOverrun = true
      // Without FIFO the newer character replaces the older; with it the newer is lost (8.6.3, bit 1).
      if !fifoEnabled { received[received.count - 1] = character }
    } else {
      received.append(character)
    }
  }

  private mutating func transmit(_ byte: UInt8) {
    transmitInterruptPending = false
    if isLoopback {
      push(Received(byte: byte, errors: []))
      transmitInterruptPending = true
    } else if outgoing.count < UART16550.fifoDepth {
      outgoing.append(byte)
    } else {
      outgoing[outgoing.count - 1] = byte
    }
  }

  private mutating func writeFIFOControl(_ value: UInt8) {
    let enable = value & 0x01 != 0
    if enable != fifoEnabled || value & 0x02 != 0 {
      received.removeAll(keepingCapacity: true)
      timeoutInterruptPending = false
      hasOverrun = false
    }
    if enable != fifoEnabled || value & 0x04 != 0, outgoing.isEmpty {
      transmitInterruptPending = true
    }
    fifoEnabled = enable
    let levels = [1, 4, 8, 14]
    triggerLevel = enable ? levels[Int(value >> 6)] : 1
  }

  /// Recomputes the modem status: the wire's lines, or in loopback our own outputs (8.6.4).
  private mutating func showModemLines() {
    var lines = modemLines.rawValue
    if isLoopback {
      lines = 0
      if modemControl & 0x02 != 0 { lines |= ModemLines.clearToSend.rawValue }
      if modemControl & 0x01 != 0 { lines |= ModemLines.dataSetReady.rawValue }
      if modemControl & 0x04 != 0 { lines |= ModemLines.ring.rawValue }
      if modemControl & 0x08 != 0 { lines |= ModemLines.carrier.rawValue }
    }
    let changed = (shownLines ^ lines) >> 4
    // The ring indicator reports its trailing edge only.
    let ringEnded = shownLines & 0x40 != 0 && lines & 0x40 == 0
    modemDelta |= changed & 0x0B | (ringEnded ? 0x04 : 0)
    shownLines = lines
  }
}
