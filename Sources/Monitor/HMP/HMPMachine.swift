package import CPU
package import Host
package import Net

/// What the human monitor needs of the machine beyond the QMP commands: looking at it, and ports.
///
/// Nothing here changes the guest but `writePort` and reads of device registers with side effects. The machine stops a vCPU for as long
/// as it takes to copy its state.
@MainLoop
package protocol HMPMachine: AnyObject {
  /// How many virtual CPUs there are.
  var cpuCount: Int { get }

  /// A vCPU's registers now; nil when there is none of that index.
  func cpuState(_ index: Int) -> CPUState?

  /// Guest-physical memory, registers of devices among it; nil when some of it is nothing at all.
  func readPhysical(_ address: UInt64, count: Int) -> [UInt8]?

  /// Reads an I/O port as the guest would: width 1, 2 or 4.
  func readPort(_ port: UInt16, width: Int) -> UInt32

  /// Writes an I/O port as the guest would.
  func writePort(_ port: UInt16, width: Int, _ value: UInt32)

  /// Where guest-physical memory is in this process.
  func hostAddress(of address: UInt64) -> HMPHostAddress

  /// Tells the firmware which drives to try, by letters; answers QEMU's complaint about them, nil when all is well.
  func setBootOrder(_ order: String) -> String?

  /// The local APIC of a vCPU; nil when there is none.
  func localAPIC(_ cpuIndex: Int) -> HMPLocalAPIC?

  /// The index of the vCPU with this APIC id.
  func cpuIndex(apicID: UInt32) -> Int?

  /// Interrupt controllers in the order in which they are listed.
  var interruptControllers: [HMPInterruptController] { get }

  /// The top-level memory map: address spaces with their regions.
  var memoryTree: [HMPAddressSpace] { get }

  /// The buses with their devices, from the system bus.
  var deviceTree: HMPBus { get }

  /// Firmware images and other read-only data in the machine.
  var roms: [HMPROM] { get }

  /// `singlestep`: blocks of one instruction under `tcg`.
  var isSingleStepping: Bool { get set }

  /// Network backends, hubs and cards; nil while there is no machine.
  var network: Network? { get }

  /// What is logged has changed.
  func logChanged()
}

extension HMPMachine {
  package var network: Network? { nil }
}

/// The answer to `gpa2hva`.
package enum HMPHostAddress: Equatable, Sendable {
  /// RAM or ROM: the block's name and the address in this process.
  case memory(block: String, address: UInt64)
  case device
  case unmapped
}

/// A local APIC's registers, as Intel SDM vol. 3A, table 11-1, names them.
package struct HMPLocalAPIC: Equatable, Sendable {
  package var isX2APIC = false
  package var apicID: UInt32 = 0
  package var spurious: UInt32 = 0xFF
  package var lint0: UInt32 = 0x1_0000
  package var lint1: UInt32 = 0x1_0000
  package var performance: UInt32 = 0x1_0000
  package var error: UInt32 = 0x1_0000
  package var thermal: UInt32 = 0x1_0000
  package var timer: UInt32 = 0x1_0000
  package var divideConfiguration: UInt32 = 0
  package var initialCount: UInt32 = 0
  package var currentCount: UInt32 = 0
  package var commandLow: UInt32 = 0
  package var commandHigh: UInt32 = 0
  package var errorStatus: UInt32 = 0
  package var taskPriority: UInt8 = 0
  package var processorPriority: UInt8 = 0
  package var arbitrationPriority: UInt8 = 0
  /// Bits 28 to 31 of DFR.
  package var destinationFormat: UInt8 = 0xF
  package var logicalDestination: UInt32 = 0
  /// 256 bits each, vector 0 in bit 0 of the first word.
  package var inService: [UInt32] = [UInt32](repeating: 0, count: 8)
  package var requested: [UInt32] = [UInt32](repeating: 0, count: 8)
  package var triggerMode: [UInt32] = [UInt32](repeating: 0, count: 8)

  package init() {}
}

/// An interrupt controller as `info pic` and `info irq` show it.
package enum HMPInterruptController: Equatable, Sendable {
  case ioapic(HMPIOAPIC)
  case pic(HMPPIC)
}

/// An I/O APIC (82093AA data sheet).
package struct HMPIOAPIC: Equatable, Sendable {
  package var index = 0
  package var version: UInt8 = 0x20
  package var id: UInt8 = 0
  package var selector: UInt8 = 0
  package var entries: [UInt64] = []
  package var requested: UInt32 = 0
  /// How often each input was raised, for `info irq`.
  package var statistics: [UInt64] = []

  package init() {}
}

/// An 8259A.
package struct HMPPIC: Equatable, Sendable {
  /// 0 is the master.
  package var index = 0
  package var requested: UInt8 = 0
  package var masked: UInt8 = 0
  package var inService: UInt8 = 0
  package var highestPriority = 0
  package var vectorBase: UInt8 = 0
  package var readsInService = false
  package var edgeLevel: UInt8 = 0
  package var isFullyNested = false
  /// How often each input was raised, 0 to 15, with the master; empty with the slave.
  package var statistics: [UInt64] = []

  package init() {}
}

/// An address space of `info mtree`.
package struct HMPAddressSpace: Equatable, Sendable {
  package var name: String
  package var root: HMPRegion
  package init(name: String, root: HMPRegion) {
    self.name = name
    self.root = root
  }
}

/// A region of an address space.
package struct HMPRegion: Equatable, Sendable {
  package var name: String
  package var start: UInt64
  /// The last address.
  package var end: UInt64
  package var priority: Int
  /// `ram`, `rom`, `i/o`.
  package var kind: String
  package var children: [HMPRegion]
  package init(
    name: String, start: UInt64, end: UInt64, priority: Int = 0, kind: String,
    children: [HMPRegion] = []
  ) {
    self.name = name
    self.start = start
    self.end = end
    self.priority = priority
    self.kind = kind
    self.children = children
  }
}

/// A bus of `info qtree`.
package struct HMPBus: Equatable, Sendable {
  package var name: String
  package var type: String
  package var devices: [HMPDevice]
  package init(name: String, type: String, devices: [HMPDevice] = []) {
    self.name = name
    self.type = type
    self.devices = devices
  }
}

/// A device of `info qtree`.
package struct HMPDevice: Equatable, Sendable {
  package var type: String
  package var id: String
  /// Lines such as `timers = 3 (0x3)`, without indentation: properties, then what the bus says.
  package var lines: [String]
  package var buses: [HMPBus]
  package init(type: String, id: String = "", lines: [String] = [], buses: [HMPBus] = []) {
    self.type = type
    self.id = id
    self.lines = lines
    self.buses = buses
  }
}

/// An object of `info qom-tree`.
package struct HMPObject: Equatable, Sendable {
  package var name: String
  package var type: String
  package var children: [HMPObject]
  package init(name: String, type: String, children: [HMPObject] = []) {
    self.name = name
    self.type = type
    self.children = children
  }
}

/// An entry of `info roms`.
package struct HMPROM: Equatable, Sendable {
  package enum Place: Equatable, Sendable {
    /// In guest-physical memory.
    case memory(UInt64, kind: String)
    /// A file of fw_cfg, in folder `genroms` or none.
    case firmwareFile(String)
    /// A named block.
    case block(String)
  }
  package var place: Place
  package var size: UInt64
  package var name: String
  package init(place: Place, size: UInt64, name: String) {
    self.place = place
    self.size = size
    self.name = name
  }
}
