package import DeviceModel
import Host
import Synchronization

/// Where a character device's bytes go and how it says that it can take more.
///
/// Consumed by serial port, parallel port and debug console; a character backend provides it.
package struct CharacterSink: Sendable {
  /// Takes bytes, any thread, must not block; answers how many it took. When it took fewer than all, whoever attached it calls the
  /// device's `backendWritable` as soon as it can take more.
  package let send: @Sendable (_ bytes: [UInt8]) -> Int
  /// The device can take input again, after a `receive` that did not take everything. Any thread, no lock held.
  package let receiveReady: @Sendable () -> Void
  /// The guest has set speed or frame of its serial line. Any thread, no lock held.
  package let setLine: @Sendable (SerialLine) -> Void

  package init(
    send: @escaping @Sendable (_ bytes: [UInt8]) -> Int,
    receiveReady: @escaping @Sendable () -> Void = {},
    setLine: @escaping @Sendable (SerialLine) -> Void = { _ in }
  ) {
    self.send = send
    self.receiveReady = receiveReady
    self.setLine = setLine
  }

  /// Swallows everything.
  package static let null = CharacterSink(send: { $0.count })
}

/// Speed and frame of a serial line.
package struct SerialLine: Equatable, Sendable {
  package enum Parity: Equatable, Sendable { case none, odd, even }
  /// Bits a second.
  package var speed: UInt32
  package var dataBits: Int
  package var parity: Parity
  package var stopBits: Int
  package var isSendingBreak: Bool
}

/// A 16550A on the ISA bus, `isa-serial`: COM1 to COM4 or any other port.
package final class SerialPort: Device, BusDevice {
  package static let type = DeviceType(
    name: "isa-serial", parent: "isa-device", bus: "ISA", description: "",
    properties: [
      PropertyDescription("baudbase", "uint32", default: .unsigned(115_200)),
      PropertyDescription("chardev", "str", "ID of a chardev to use as a backend"),
      PropertyDescription("index", "uint32", default: .unsigned(0xFFFF_FFFF)),
      PropertyDescription("iobase", "uint32", default: .unsigned(0xFFFF_FFFF)),
      PropertyDescription("irq", "uint32", default: .unsigned(0xFFFF_FFFF)),
      PropertyDescription("wakeup", "bool", default: .bool(false)),
    ], isUserCreatable: true)

  /// Ports and interrupts of COM1 to COM4.
  package static let standard: [(port: UInt16, irq: UInt32)] = [
    (0x3F8, 4), (0x2F8, 3), (0x3E8, 4), (0x2E8, 3),
  ]

  /// 0 for COM1, or 0xFFFF_FFFF where there is none.
  package let index: UInt32
  package let port: UInt16
  package let irqNumber: UInt32
  private let baudBase: UInt32

  private struct State {
    var uart = UART16550()
    var sink = CharacterSink.null
    /// Some thread is in `send`; it looks for more before it stops.
    var isSending = false
    /// The backend took less than it was offered.
    var isBlocked = false
    /// `receive` did not take everything.
    var hasMoreInput = false
    var line = InterruptLine.unconnected
    /// The interrupt has gone since the line was last told its level: it must be low for a moment, or the next one has no edge.
    var hasFallen = false
    /// What the backend was told last.
    var announcedLine: SerialLine?
    var clock: (any MachineClock)?
    var timer: (any MachineTimer)?
  }
  private let state = Mutex(State())

  /// A port at an address of the caller's choice.
  package init(index: UInt32, port: UInt16, irq: UInt32, baudBase: UInt32 = 115_200) {
    self.index = index
    self.port = port
    irqNumber = irq
    self.baudBase = baudBase
  }

  /// COM1 (`index` 0) to COM4 (3). Throws `badValue` for other indices.
  package convenience init(index: UInt32) throws(DeviceError) {
    guard index < UInt32(SerialPort.standard.count) else {
      throw DeviceError(.badValue, "Max. supported number of ISA serial ports is 4.")
    }
    let (port, irq) = SerialPort.standard[Int(index)]
    self.init(index: index, port: port, irq: irq)
  }

  package var properties: [(name: String, value: PropertyValue)] {
    [
      ("index", .unsigned(UInt64(index))), ("iobase", .address(UInt64(port))),
      ("irq", .unsigned(UInt64(irqNumber))),
    ]
  }

  package func realize(in context: MachineContext) throws(DeviceError) {
    let timer = context.clock.makeTimer { [weak self] in self?.update { $0.timeOut() } }
    state.withLock { state in
      state.line = context.interrupt(GSI(irqNumber))
      state.clock = context.clock
      state.timer = timer
    }
    context.ports.add(
      BusRegion(name: "serial", start: UInt64(port), size: 8, device: self, maximumWidth: 1))
  }

  package func reset(_ kind: ResetKind) { update { $0 = UART16550() } }

  // MARK: - Guest's side

  package func read(_ access: BusAccess) -> UInt64 {
    var value: UInt8 = 0
    update { value = $0.read(UInt8(truncatingIfNeeded: access.offset)) }
    Trace.write(
      .serialRead, "read addr \(Trace.hex(access.offset)) val \(Trace.hex(UInt64(value)))")
    return UInt64(value)
  }

  package func write(_ access: BusAccess, _ value: UInt64) {
    Trace.write(
      .serialWrite, "write addr \(Trace.hex(access.offset)) val \(Trace.hex(value))")
    update {
      $0.write(UInt8(truncatingIfNeeded: access.offset), UInt8(truncatingIfNeeded: value))
    }
    // Drivers write the line control register last.
    if access.offset & 7 == 3 { announceLine() }
  }

  private func announceLine() {
    let (sink, line): (CharacterSink, SerialLine?) = state.withLock { state in
      let line = state.uart.line(baudBase: baudBase)
      if line == state.announcedLine { return (state.sink, nil) }
      state.announcedLine = line
      return (state.sink, line)
    }
    if let line { sink.setLine(line) }
  }

  // MARK: - Backend's side

  /// Connects a backend, in place of an earlier one. Output that waits goes to the new one.
  package func attach(_ sink: CharacterSink) {
    state.withLock { state in
      state.sink = sink
      state.isBlocked = false
    }
    transmit()
  }

  /// How many characters `receive` would take now. Any thread.
  package var receiveSpace: Int { state.withLock { $0.uart.receiveSpace } }

  /// Input for the guest; answers how many bytes were taken. When fewer than all, the sink's `receiveReady` says when to go on. Any
  /// thread.
  package func receive(_ bytes: ArraySlice<UInt8>) -> Int {
    var taken = 0
    update { taken = $0.receive(bytes) }
    if taken < bytes.count {
      // Space may have come free between the two: then say so at once.
      let ready = state.withLock { state in
        state.hasMoreInput = state.uart.receiveSpace == 0
        return !state.hasMoreInput ? state.sink : nil
      }
      ready?.receiveReady()
    }
    return taken
  }

  /// A break condition on the line. Any thread.
  package func receiveBreak() { update { $0.receiveBreak() } }

  /// The backend has (not) a peer: carrier, data set ready, clear to send. Any thread.
  package func setConnected(_ connected: Bool) {
    update { $0.setModemLines(connected ? .connected : []) }
  }

  /// The backend can take output again. Any thread.
  package func backendWritable() {
    state.withLock { $0.isBlocked = false }
    transmit()
  }

  // MARK: -

  /// Runs `change` on the model, then does what follows from it with no lock held: interrupt line, time-out, output.
  private func update(_ change: (inout UART16550) -> Void) {
    struct Effects {
      var line: InterruptLine?
      var hasOutput = false
      var deadline: Int64?
      var timer: (any MachineTimer)?
      var sinkToTell: CharacterSink?
    }
    let effects = state.withLock { state in
      let wasAsserted = state.uart.interruptAsserted
      change(&state.uart)
      var effects = Effects()
      if state.uart.interruptAsserted != wasAsserted {
        effects.line = state.line
        if wasAsserted { state.hasFallen = true }
      }
      effects.hasOutput =
        !state.isSending && !state.isBlocked && !state.uart.transmitQueue.isEmpty
      if state.uart.wantsTimeout, let clock = state.clock {
        effects.timer = state.timer
        effects.deadline = clock.now &+ state.uart.timeoutNanoseconds(baudBase: baudBase)
      }
      if state.hasMoreInput, state.uart.receiveSpace > 0 {
        state.hasMoreInput = false
        effects.sinkToTell = state.sink
      }
      return effects
    }
    if let deadline = effects.deadline { effects.timer?.arm(at: deadline) }
    if effects.hasOutput { transmit() }
    if let line = effects.line { settle(line) }
    effects.sinkToTell?.receiveReady()
  }

  /// Offers queued characters to the backend until it is full or nothing is left; one thread at a time, so that order is kept.
  private func transmit() {
    var changed = false
    while true {
      let next: (CharacterSink, [UInt8])? = state.withLock { state in
        guard !state.isSending, !state.isBlocked else { return nil }
        let queue = state.uart.transmitQueue
        guard !queue.isEmpty else { return nil }
        state.isSending = true
        // Set before the call, so that a `backendWritable` during it is not forgotten.
        state.isBlocked = true
        return (state.sink, queue)
      }
      guard let (sink, bytes) = next else { break }
      let taken = min(max(sink.send(bytes), 0), bytes.count)
      state.withLock { state in
        let wasAsserted = state.uart.interruptAsserted
        state.uart.transmitted(taken)
        state.isSending = false
        if taken == bytes.count { state.isBlocked = false }
        if state.uart.interruptAsserted != wasAsserted { changed = true }
      }
    }
    if changed {
      let line = state.withLock { $0.line }
      settle(line)
    }
  }

  /// Drives the line as the model wants it. Between a driver's look that ends an interrupt and this, another thread may have raised the next
  /// one; the line is edge-triggered, so the end must show all the same.
  private func settle(_ line: InterruptLine) {
    line.settle {
      state.withLock { state in
        if state.hasFallen {
          state.hasFallen = false
          return false
        }
        return state.uart.interruptAsserted
      }
    }
  }
}
