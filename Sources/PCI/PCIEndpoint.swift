package import DeviceModel
import Synchronization

/// A function with base address registers, for devices to hold: keeps the configuration space, maps and moves the regions as the guest
/// programs them, and drives the interrupt pin.
package final class PCIEndpoint: PCIFunction {
  /// What answers behind one base address register.
  package struct Window: Sendable {
    package let layout: PCIBarLayout
    package let name: String
    package let device: any BusDevice
    package let maximumWidth: Int
    /// Offsets where a write only tells the device to look at memory (`BusRegion.doorbells`).
    package let doorbells: Range<UInt64>?

    package init(
      _ layout: PCIBarLayout, name: String, device: any BusDevice, maximumWidth: Int = 4,
      doorbells: Range<UInt64>? = nil
    ) {
      self.doorbells = doorbells
      self.layout = layout
      self.name = name
      self.device = device
      self.maximumWidth = maximumWidth
    }
  }

  private struct State {
    var configuration: PCIConfiguration
    var mapped: [Int: UInt64] = [:]
    var isPending = false
    var line = InterruptLine.unconnected
    /// Where it sits; nil before and after.
    var place: (bus: PCIBus, address: PCIAddress)?
  }
  private let state: Mutex<State>
  private let initial: PCIConfiguration
  private let windows: [Window]
  private let ports: AddressSpace
  private let deviceMemory: AddressSpace
  private let mapping = Mutex(())
  private let reading: @Sendable (_ offset: Int, _ width: Int) -> Void
  private let written: @Sendable (_ offset: Int, _ width: Int) -> Void

  /// `configuration` must hold the windows' layouts. `reading` is told of every configuration read before, `written` of every write after
  /// it took effect, with no lock held.
  package init(
    configuration: PCIConfiguration, windows: [Window], context: MachineContext,
    reading: @escaping @Sendable (_ offset: Int, _ width: Int) -> Void = { _, _ in },
    written: @escaping @Sendable (_ offset: Int, _ width: Int) -> Void = { _, _ in }
  ) {
    self.reading = reading
    initial = configuration
    state = Mutex(State(configuration: configuration))
    self.windows = windows
    ports = context.ports
    deviceMemory = context.deviceMemory
    self.written = written
  }

  /// Plugs the function in and connects its pin.
  package func connect(to bus: PCIBus, at address: PCIAddress) throws(DeviceError) {
    try bus.plug(self, at: address)
    state.withLock { state in
      state.place = (bus, address)
      if state.configuration.interruptPin != 0 {
        state.line = bus.interruptLine(of: address, pin: state.configuration.interruptPin)
      }
    }
  }

  /// As after power-on: nothing mapped, no interrupt.
  package func reset() {
    update { state in
      state.configuration = initial
      state.isPending = false
    }
    remap()
  }

  /// Takes the function off its bus and its regions out of the machine, and lowers its pin; nothing of it can be reached any more. Once
  /// more is harmless. Any thread.
  package func disconnect() {
    let place = state.withLock { state in
      let place = state.place
      state.place = nil
      return place
    }
    guard let place else { return }
    place.bus.unplug(place.address)
    setInterrupt(false)
    mapping.withLock { _ in
      for window in windows {
        (window.layout.kind == .io ? ports : deviceMemory).remove(window.device)
      }
      state.withLock { $0.mapped = [:] }
    }
  }

  /// The present configuration space.
  package var configuration: PCIConfiguration { state.withLock { $0.configuration } }

  /// Changes the configuration space from the device's side.
  package func configure(_ change: (inout PCIConfiguration) -> Void) {
    update { change(&$0.configuration) }
  }

  /// The device wants INTx at this level; the command register's disable bit is honoured. Any thread, no lock held.
  package func setInterrupt(_ pending: Bool) {
    update { state in
      state.isPending = pending
      state.configuration.setInterruptStatus(pending)
    }
  }

  package func readConfiguration(_ offset: Int, width: Int) -> UInt32 {
    reading(offset, width)
    return state.withLock { $0.configuration.read(offset, width: width) }
  }

  package func writeConfiguration(_ offset: Int, width: Int, _ value: UInt32) {
    update { $0.configuration.write(offset, width: width, value) }
    remap()
    written(offset, width)
  }

  private func update(_ change: (inout State) -> Void) {
    func level(_ state: borrowing State) -> Bool {
      state.isPending && !state.configuration.isInterruptDisabled
    }
    let line: InterruptLine? = state.withLock { state in
      let before = level(state)
      change(&state)
      return level(state) != before ? state.line : nil
    }
    line?.settle { state.withLock { level($0) } }
  }

  /// Brings the address spaces in line with the registers.
  private func remap() {
    mapping.withLock { _ in
      guard state.withLock({ $0.place != nil }) else { return }
      for (index, window) in windows.enumerated() {
        let (old, new) = state.withLock { state in
          let new = state.configuration.address(of: window.layout.index)
          let old = state.mapped[index]
          state.mapped[index] = new
          return (old, new)
        }
        guard old != new else { continue }
        let space = window.layout.kind == .io ? ports : deviceMemory
        let regions = new.map {
          [
            BusRegion(
              name: window.name, start: $0, size: window.layout.size, device: window.device,
              maximumWidth: window.maximumWidth, priority: 1, doorbells: window.doorbells)
          ]
        }
        space.replace(window.device, with: regions ?? [])
      }
    }
  }
}
