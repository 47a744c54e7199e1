package import Shm

/// Why a device goes back to its initial state.
package enum ResetKind: Sendable {
  /// Power on.
  case cold
  /// The guest or the monitor asked; what survives a warm reset on real hardware survives.
  case warm
}

/// A device cannot be made or realized as asked.
package struct DeviceError: Error, Equatable, Sendable {
  package enum Kind: Equatable, Sendable {
    case unknownType, unknownProperty, badValue, missingProperty, busy, unavailable
    /// What a property names does not exist; clients get the class `DeviceNotFound`.
    case notFound
  }
  package let kind: Kind
  /// The sentence for the user, in QEMU's wording where it has one.
  package let message: String

  package init(_ kind: Kind, _ message: String) {
    self.kind = kind
    self.message = message
  }
}

/// A property's value, as `-device` gives it and `info qtree` shows it.
package enum PropertyValue: Equatable, Sendable, CustomStringConvertible {
  case bool(Bool)
  case unsigned(UInt64)
  /// Shown in hexadecimal.
  case address(UInt64)
  case string(String)

  package var description: String {
    switch self {
    case .bool(let on): on ? "true" : "false"
    case .unsigned(let value): String(value)
    case .address(let value): "0x" + String(value, radix: 16)
    case .string(let text): "\"\(text)\""
    }
  }
}

/// One property of a device type.
package struct PropertyDescription: Sendable {
  package let name: String
  /// The type's name in `device-list-properties`: `bool`, `uint8`, `uint32`, `str`, `chardev`…
  package let type: String
  package let defaultValue: PropertyValue?
  /// One line for `-device X,help`.
  package let description: String

  package init(
    _ name: String, _ type: String, default value: PropertyValue? = nil, _ text: String = ""
  ) {
    self.name = name
    self.type = type
    defaultValue = value
    description = text
  }
}

/// A device type as plain data: `-device help`, `-device X,help`, `info qtree` all come from it.
package struct DeviceType: Sendable {
  /// QEMU's name, such as `isa-serial`.
  package let name: String
  /// The QOM parent, such as `isa-device`.
  package let parent: String
  /// The bus it sits on: `ISA`, `PCI`, `System`, or nil.
  package let bus: String?
  package let description: String
  package let properties: [PropertyDescription]
  /// Whether `-device` may make one; others are the board's.
  package let isUserCreatable: Bool
  /// Whether one may come and go while the machine runs, where its bus allows that.
  package let isHotpluggable: Bool

  package init(
    name: String, parent: String, bus: String?, description: String,
    properties: [PropertyDescription] = [], isUserCreatable: Bool = false,
    isHotpluggable: Bool = true
  ) {
    self.name = name
    self.parent = parent
    self.bus = bus
    self.description = description
    self.properties = properties
    self.isUserCreatable = isUserCreatable
    self.isHotpluggable = isHotpluggable
  }
}

/// A device of the machine: made, realized (put into the machine), reset any number of times.
package protocol Device: AnyObject, Sendable {
  static var type: DeviceType { get }
  /// The type that it was made as, where a class has several; else `type`.
  var typeInfo: DeviceType { get }
  /// Present property values in the order of the type's properties, for `info qtree`.
  var properties: [(name: String, value: PropertyValue)] { get }
  /// Maps regions, takes interrupt lines. Main loop, before the first vCPU runs or with the machine paused.
  func realize(in context: MachineContext) throws(DeviceError)
  /// Back to the initial state. All vCPUs are paused.
  func reset(_ kind: ResetKind)
  /// Leaves the machine for good: no region, no place on a bus, no interrupt is left when this returns. Requests that are under way may
  /// still end; `finished` is called when they have, from any thread. Main loop.
  func unrealize(finished: @escaping @Sendable () -> Void)
}

extension Device {
  package var typeInfo: DeviceType { Self.type }
  package var properties: [(name: String, value: PropertyValue)] { [] }
  package func unrealize(finished: @escaping @Sendable () -> Void) { finished() }
}

/// What the guest (through a device) asks of the machine. Asynchronous: the machine acts soon, from the main loop.
package enum MachineRequest: Sendable, Equatable {
  /// Reset control register, keyboard controller, port 92.
  case reset
  /// ACPI S5.
  case shutdown
  /// ACPI S3.
  case suspend
  /// pvpanic; `crashLoaded` when the guest will handle it by a crash kernel.
  case panicked(crashLoaded: Bool)
  /// The guest set its clock: seconds from the host's time, and the device's QOM path.
  case rtcChanged(offsetInSeconds: Int64, path: String)
  /// The guest's balloon driver left it `actual` bytes of RAM.
  case balloonChanged(actual: UInt64)
  /// The guest opened or closed the tray of the drive of that name, whose device is at `path` or has that id.
  case trayMoved(drive: String, path: String, isOpen: Bool)
  /// A watchdog was not fed in time.
  case watchdogExpired
  /// isa-debug-exit: the process ends with this status.
  case exit(status: Int32)
}

/// Where a device sends its requests, kept behind a lock until the device is realized.
///
/// A struct and not the bare closure: a closure that is read out of a generic `Mutex` and put back is wrapped once more each time, so
/// that a guest which asks often would make the chain of wrappers as long as it likes.
package struct RequestSink: Sendable {
  package let send: @Sendable (MachineRequest) -> Void

  package init(_ send: @escaping @Sendable (MachineRequest) -> Void) { self.send = send }
}

/// What a device finds around it.
package final class MachineContext: Sendable {
  package let ports: AddressSpace
  /// Device memory; RAM and ROM are in `memory`.
  package let deviceMemory: AddressSpace
  package let memory: GuestMemory
  package let clock: any MachineClock
  /// A new source on the machine's interrupt input `gsi` (ISA interrupts 0 to 15 are the same numbers); levels of several sources are ORed.
  package let interrupt: @Sendable (GSI) -> InterruptLine
  /// Delivers a message-signalled interrupt (address, data; PCI 3.0, 6.8).
  package let signalMSI: @Sendable (UInt64, UInt32) -> Void
  package let request: @Sendable (MachineRequest) -> Void

  package init(
    ports: AddressSpace, deviceMemory: AddressSpace, memory: GuestMemory,
    clock: any MachineClock, interrupt: @escaping @Sendable (GSI) -> InterruptLine,
    signalMSI: @escaping @Sendable (UInt64, UInt32) -> Void,
    request: @escaping @Sendable (MachineRequest) -> Void
  ) {
    self.ports = ports
    self.deviceMemory = deviceMemory
    self.memory = memory
    self.clock = clock
    self.interrupt = interrupt
    self.signalMSI = signalMSI
    self.request = request
  }
}
