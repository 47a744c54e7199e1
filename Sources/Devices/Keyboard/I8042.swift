package import DeviceModel
import Synchronization

/// Keyboard controller with a PS/2 keyboard and mouse, `i8042`: ports 0x60 and 0x64, interrupts 1 and 12.
package final class I8042: Device, BusDevice {
  package static let type = DeviceType(
    name: "i8042", parent: "isa-device", bus: "ISA", description: "",
    properties: [
      PropertyDescription("extended-state", "bool", default: .bool(true)),
      PropertyDescription("kbd-irq", "uint8", default: .unsigned(1)),
      PropertyDescription("kbd-throttle", "bool", default: .bool(false)),
      PropertyDescription("mouse-irq", "uint8", default: .unsigned(12)),
    ])

  private struct State {
    var model = I8042Model()
    var keyboardLine = InterruptLine.unconnected
    var mouseLine = InterruptLine.unconnected
    var request: (@Sendable (MachineRequest) -> Void)?
  }
  private let state = Mutex(State())
  private let gate: A20Gate

  package init(gate: A20Gate) { self.gate = gate }

  package var properties: [(name: String, value: PropertyValue)] {
    [
      ("extended-state", .bool(true)), ("kbd-throttle", .bool(false)), ("kbd-irq", .unsigned(1)),
      ("mouse-irq", .unsigned(12)),
    ]
  }

  package func realize(in context: MachineContext) throws(DeviceError) {
    let keyboard = context.interrupt(GSI(1))
    let mouse = context.interrupt(GSI(12))
    state.withLock { state in
      state.keyboardLine = keyboard
      state.mouseLine = mouse
      state.request = context.request
    }
    context.ports.add(
      BusRegion(name: "i8042-data", start: 0x60, size: 1, device: self, maximumWidth: 1))
    context.ports.add(
      BusRegion(
        name: "i8042-cmd", start: 0x64, size: 1, device: I8042CommandPort(self), maximumWidth: 1))
  }

  package func reset(_ kind: ResetKind) {
    update { model in
      model = I8042Model()
      return nil
    }
    gate.isOpen = true
  }

  /// Scan codes of set 2 from the user; false when the guest does not take them. Any thread.
  @discardableResult
  package func press(_ codes: [UInt8]) -> Bool {
    var taken = false
    update { model in
      taken = model.keyboard.press(codes)
      model.pump()
      return nil
    }
    return taken
  }

  /// A key by its code of scan code set 1, with bit 7 for the prefix 0xE0; false when the guest does not take it. Any thread.
  @discardableResult
  package func key(_ key: UInt8, isDown: Bool) -> Bool {
    var taken = false
    update { model in
      taken = model.keyboard.key(key, isDown: isDown)
      model.pump()
      return nil
    }
    return taken
  }

  /// A mouse movement from the user; see `PS2Mouse.move`. Any thread.
  @discardableResult
  package func moveMouse(x: Int, y: Int, wheel: Int = 0, buttons: UInt8) -> Bool {
    var taken = false
    update { model in
      taken = model.mouse.move(x: x, y: y, wheel: wheel, buttons: buttons)
      model.pump()
      return nil
    }
    return taken
  }

  package func read(_ access: BusAccess) -> UInt64 {
    var value: UInt8 = 0
    update { model in
      value = model.readData()
      return nil
    }
    update { model in
      model.pump()
      return nil
    }
    return UInt64(value)
  }

  package func write(_ access: BusAccess, _ value: UInt64) {
    update { $0.writeData(UInt8(truncatingIfNeeded: value)) }
  }

  fileprivate var status: UInt8 { state.withLock { $0.model.status } }

  fileprivate func writeCommand(_ value: UInt8) {
    let open = gate.isOpen
    update { $0.writeCommand(value, a20: open) }
  }

  private func update(_ change: (inout I8042Model) -> I8042Model.Action?) {
    let (keyboard, mouse, action, request) = state.withLock { state in
      let before = (state.model.keyboardInterrupt, state.model.mouseInterrupt)
      let action = change(&state.model)
      return (
        state.model.keyboardInterrupt != before.0 ? state.keyboardLine : nil,
        state.model.mouseInterrupt != before.1 ? state.mouseLine : nil, action,
        action == .reset ? state.request : nil
      )
    }
    keyboard?.settle { state.withLock { $0.model.keyboardInterrupt } }
    mouse?.settle { state.withLock { $0.model.mouseInterrupt } }
    if case .gateA20(let open) = action { gate.isOpen = open }
    request?(.reset)
  }
}

/// Port 0x64 of an `I8042`.
private final class I8042CommandPort: BusDevice {
  private let owner: I8042
  init(_ owner: I8042) { self.owner = owner }

  func read(_ access: BusAccess) -> UInt64 { UInt64(owner.status) }
  func write(_ access: BusAccess, _ value: UInt64) {
    owner.writeCommand(UInt8(truncatingIfNeeded: value))
  }
}
