package import DeviceModel
import Synchronization

/// A standard parallel port (IBM PC/AT technical reference; IEEE 1284 compatibility mode): data, status, control.
package struct ParallelModel: Equatable, Sendable {
  private var data: UInt8 = 0
  private var control: UInt8 = 0x0C
  /// The printer acknowledged a byte since control was last read with interrupts off.
  package private(set) var interruptAsserted = false

  private enum Control {
    static let strobe: UInt8 = 0x01
    static let initialise: UInt8 = 0x04
    static let select: UInt8 = 0x08
    static let interruptEnable: UInt8 = 0x10
    static let input: UInt8 = 0x20
  }

  /// A printer that is there, on line, ready, without error (bit 7 is "not busy", 6 "not acknowledging", 3 "no error").
  private static let ready: UInt8 = 0xD8

  package init() {}

  package mutating func read(_ offset: Int) -> UInt8 {
    switch offset {
    case 0: return control & Control.input != 0 ? 0xFF : data
    case 1:
      interruptAsserted = false
      return ParallelModel.ready
    case 2: return control | 0xC0
    default: return 0xFF
    }
  }

  /// Answers the byte that the strobe hands to the printer.
  package mutating func write(_ offset: Int, _ value: UInt8) -> UInt8? {
    switch offset {
    case 0: data = value
    case 2:
      let strobed = value & Control.strobe != 0 && control & Control.strobe == 0
      control = value & 0x3F
      if control & Control.interruptEnable == 0 { interruptAsserted = false }
      guard strobed, control & Control.initialise != 0 else { return nil }
      if control & Control.interruptEnable != 0 { interruptAsserted = true }
      return data
    default: break
    }
    return nil
  }
}

/// A parallel port on the ISA bus, `isa-parallel`: LPT1 to LPT3 or any other port.
///
/// Printed bytes that the backend does not take wait, up to 64 KiB; what comes on top is lost.
package final class ParallelPort: Device, BusDevice {
  package static let type = DeviceType(
    name: "isa-parallel", parent: "isa-device", bus: "ISA", description: "",
    properties: [
      PropertyDescription("chardev", "str", "ID of a chardev to use as a backend"),
      PropertyDescription("index", "uint32", default: .unsigned(0xFFFF_FFFF)),
      PropertyDescription("iobase", "uint32", default: .unsigned(0xFFFF_FFFF)),
      PropertyDescription("irq", "uint32", default: .unsigned(7)),
    ], isUserCreatable: true)

  /// LPT1 to LPT3, by index.
  package static let standard: [UInt16] = [0x378, 0x278, 0x3BC]

  package let index: UInt32
  package let port: UInt16
  package let irqNumber: UInt32

  private struct State {
    var model = ParallelModel()
    var line = InterruptLine.unconnected
  }
  private let state = Mutex(State())
  private let output = CharacterOutput()

  package init(index: UInt32, port: UInt16, irq: UInt32 = 7) {
    self.index = index
    self.port = port
    irqNumber = irq
  }

  /// LPT1 (`index` 0) to LPT3. Throws `badValue` for other indices.
  package convenience init(index: UInt32) throws(DeviceError) {
    guard index < UInt32(ParallelPort.standard.count) else {
      throw DeviceError(.badValue, "Max. supported number of parallel ports is 3.")
    }
    self.init(index: index, port: ParallelPort.standard[Int(index)])
  }

  package var properties: [(name: String, value: PropertyValue)] {
    [
      ("index", .unsigned(UInt64(index))), ("iobase", .address(UInt64(port))),
      ("irq", .unsigned(UInt64(irqNumber))),
    ]
  }

  package func realize(in context: MachineContext) throws(DeviceError) {
    let line = context.interrupt(GSI(irqNumber))
    state.withLock { $0.line = line }
    context.ports.add(
      BusRegion(name: "parallel", start: UInt64(port), size: 3, device: self, maximumWidth: 1))
  }

  package func reset(_ kind: ResetKind) {
    update { model in
      model = ParallelModel()
      return nil
    }
  }

  /// Connects a backend, in place of an earlier one.
  package func attach(_ sink: CharacterSink) { output.attach(sink) }

  /// The backend can take output again. Any thread.
  package func backendWritable() { output.backendWritable() }

  package func read(_ access: BusAccess) -> UInt64 {
    var value: UInt8 = 0
    update { model in
      value = model.read(Int(truncatingIfNeeded: access.offset))
      return nil
    }
    return UInt64(value)
  }

  package func write(_ access: BusAccess, _ value: UInt64) {
    update { model in
      model.write(Int(truncatingIfNeeded: access.offset), UInt8(truncatingIfNeeded: value))
    }
  }

  private func update(_ change: (inout ParallelModel) -> UInt8?) {
    let line: InterruptLine? = state.withLock { state in
      let before = state.model.interruptAsserted
      if let byte = change(&state.model) { output.enqueue(byte) }
      return state.model.interruptAsserted != before ? state.line : nil
    }
    line?.settle { state.withLock { $0.model.interruptAsserted } }
    output.transmit()
  }
}
