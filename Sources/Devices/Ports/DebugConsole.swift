package import DeviceModel
import Synchronization

/// A port whose written bytes go to a character backend, `isa-debugcon`: SeaBIOS writes its log to 0x402.
///
/// A backend that is full makes the device keep up to 64 KiB; what comes on top is lost, since the port cannot say that it is busy.
package final class DebugConsole: Device, BusDevice {
  package static let type = DeviceType(
    name: "isa-debugcon", parent: "isa-device", bus: "ISA", description: "",
    properties: [
      PropertyDescription("chardev", "str", "ID of a chardev to use as a backend"),
      PropertyDescription("iobase", "uint32", default: .unsigned(0xE9)),
      PropertyDescription("readback", "uint32", default: .unsigned(0xE9)),
    ], isUserCreatable: true)

  private static let capacity = 65_536

  package let port: UInt16
  private let readback: UInt8

  private struct State {
    var sink = CharacterSink.null
    var waiting: [UInt8] = []
    var isSending = false
    var isBlocked = false
  }
  private let state = Mutex(State())

  /// `readback` is what reading the port answers: software probes for the console by it.
  package init(port: UInt16 = 0xE9, readback: UInt8 = 0xE9) {
    self.port = port
    self.readback = readback
  }

  package var properties: [(name: String, value: PropertyValue)] {
    [("iobase", .address(UInt64(port))), ("readback", .address(UInt64(readback)))]
  }

  package func realize(in context: MachineContext) throws(DeviceError) {
    context.ports.add(
      BusRegion(name: "isa-debugcon", start: UInt64(port), size: 1, device: self, maximumWidth: 1))
  }

  package func reset(_ kind: ResetKind) {}

  /// Connects a backend, in place of an earlier one.
  package func attach(_ sink: CharacterSink) {
    state.withLock { state in
      state.sink = sink
      state.isBlocked = false
    }
    transmit()
  }

  /// The backend can take output again. Any thread.
  package func backendWritable() {
    state.withLock { $0.isBlocked = false }
    transmit()
  }

  package func read(_ access: BusAccess) -> UInt64 { UInt64(readback) }

  package func write(_ access: BusAccess, _ value: UInt64) {
    state.withLock { state in
      if state.waiting.count < DebugConsole.capacity {
        state.waiting.append(UInt8(truncatingIfNeeded: value))
      }
    }
    transmit()
  }

  private func transmit() {
    while true {
      let next: (CharacterSink, [UInt8])? = state.withLock { state in
        guard !state.isSending, !state.isBlocked, !state.waiting.isEmpty else { return nil }
        state.isSending = true
        // Set before the call, so that a `backendWritable` during it is not forgotten.
        state.isBlocked = true
        return (state.sink, state.waiting)
      }
      guard let (sink, bytes) = next else { return }
      let taken = min(max(sink.send(bytes), 0), bytes.count)
      state.withLock { state in
        state.waiting.removeFirst(taken)
        state.isSending = false
        if taken == bytes.count { state.isBlocked = false }
      }
    }
  }
}
