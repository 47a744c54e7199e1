// Interrupt inputs of the machine, and the register windows of IOAPIC and PIC as bus devices.

package import DeviceModel
import Synchronization

extension InterruptFabric {
  /// Remembers what one source says, so that repeating a level is harmless.
  private final class Source: Sendable {
    let level = Atomic<Bool>(false)
  }

  /// A new source on input `gsi`. Levels of several sources are ORed. Inputs 0 to 15 reach the PIC and the
  /// IOAPIC, whose pin 2 has interrupt 0 as on every PC (ACPI 6.4, 5.2.12.5); 16 to 23 the IOAPIC only.
  package func line(_ gsi: GSI) -> InterruptLine {
    let number = Int(gsi.rawValue)
    guard number < IOAPIC.pinCount else { return .unconnected }
    let source = Source()
    return InterruptLine { [self] level in
      guard source.level.exchange(level, ordering: .acquiringAndReleasing) != level else { return }
      change(number, rising: level)
    }
  }

  /// One source of an input has gone up or down.
  private func change(_ gsi: Int, rising: Bool) {
    let step: Int32 = rising ? 1 : -1
    if gsi < 16 {
      withPIC { state in
        let was = state.sources[gsi] > 0
        state.sources[gsi] &+= step
        let level = state.sources[gsi] > 0
        guard was != level else { return }
        if level { state.raised[gsi] &+= 1 }
        state.model.set(irq: gsi, level: level)
      }
    }
    let pin = gsi == 0 ? 2 : gsi
    withIOAPIC { state in
      let was = state.sources[pin] > 0
      state.sources[pin] &+= step
      let level = state.sources[pin] > 0
      guard was != level else { return [] }
      if level { state.raised[pin] &+= 1 }
      return state.model.set(pin: pin, level: level)
    }
  }

  // MARK: - On the bus

  /// Physical address of the I/O APIC's register page.
  package static let ioapicAddress: UInt64 = 0xFEC0_0000

  /// Puts the register windows of IOAPIC and PIC into the machine. Once, on the node that has them.
  package func map(ports: AddressSpace, deviceMemory: AddressSpace) {
    let window = IOAPICWindow(self)
    deviceMemory.add(
      BusRegion(name: "ioapic", start: Self.ioapicAddress, size: 0x1000, device: window))
    for (name, start) in [("pic", 0x20), ("pic", 0xA0), ("elcr", 0x4D0)] as [(String, UInt64)] {
      ports.add(
        BusRegion(
          name: name, start: start, size: 2, device: PICWindow(self, UInt16(start)),
          maximumWidth: 1))
    }
  }

  // MARK: - Inspection

  /// State of the I/O APIC and how often each pin was raised: `info pic`, `info irq`.
  package var ioapicState: (model: IOAPIC, raised: [UInt64]) {
    ioapic.withLock { ($0.model, $0.raised) }
  }

  /// State of the PIC and how often each input was raised: `info pic`, `info irq`.
  package var picState: (model: PIC, raised: [UInt64]) {
    pic.withLock { ($0.model, $0.raised) }
  }

  /// Replaces the controllers by saved ones; levels of the inputs are part of them. All vCPUs are paused.
  package func restore(ioapic: IOAPIC, pic: PIC) {
    self.ioapic.withLock { $0.model = ioapic }
    withPIC { $0.model = pic }
  }
}

/// The I/O APIC's register page.
private final class IOAPICWindow: BusDevice {
  private let fabric: InterruptFabric

  init(_ fabric: InterruptFabric) { self.fabric = fabric }

  func read(_ access: BusAccess) -> UInt64 {
    fabric.ioapic.withLock {
      UInt64($0.model.read(offset: access.offset, width: access.width))
    }
  }

  func write(_ access: BusAccess, _ value: UInt64) {
    fabric.withIOAPIC {
      $0.model.write(
        offset: access.offset, width: access.width, UInt32(truncatingIfNeeded: value))
    }
  }
}

/// Two ports of the PIC.
private final class PICWindow: BusDevice {
  private let fabric: InterruptFabric
  private let start: UInt16

  init(_ fabric: InterruptFabric, _ start: UInt16) {
    self.fabric = fabric
    self.start = start
  }

  func read(_ access: BusAccess) -> UInt64 {
    let port = start &+ UInt16(truncatingIfNeeded: access.offset)
    return fabric.withPIC { UInt64($0.model.read(port: port) ?? 0xFF) }
  }

  func write(_ access: BusAccess, _ value: UInt64) {
    let port = start &+ UInt16(truncatingIfNeeded: access.offset)
    fabric.withPIC { $0.model.write(port: port, UInt8(truncatingIfNeeded: value)) }
  }
}
