// Board, accelerators, processors and memory of a launch configuration.

/// A property with three states, as in QEMU's `OnOffAuto`.
package enum ThreeStates: String, Sendable, Equatable {
  /// Enabled.
  case on
  /// Disabled.
  case off
  /// The board decides.
  case auto
}

/// `-machine`: the board and its properties.
package struct MachineConfiguration: Sendable, Equatable {
  /// Full name of the machine type, aliases resolved: `pc-i440fx-7.2`, `none`.
  package var type: String
  /// On-board USB controller.
  package var usb = false
  /// Guest RAM is part of core dumps.
  package var dumpGuestCore = true
  /// Guest RAM may be merged with equal pages (KSM).
  package var mergeMemory = true
  /// Id of the object that is guest RAM; nil: the board makes its own.
  package var memoryBackend: String?
  /// Graphical output is wanted; false after `-nographic`.
  package var graphics = true
  /// HPET present (`-no-hpet` clears it).
  package var hpet = true
  /// ACPI tables and PM device (`-no-acpi` clears it).
  package var acpi = ThreeStates.auto
  /// 8254 timer.
  package var pit = ThreeStates.auto
  /// Keyboard controller.
  package var i8042 = true
  /// SMBus of the PM function.
  package var smbus = true
  /// Upper bound in bytes of the RAM below 4 GiB; nil: the board's split.
  package var maximumRAMBelow4GiB: UInt64?
  /// Largest accepted firmware in bytes; nil: the board's limit.
  package var maximumFirmwareSize: UInt64?
  /// OEM id in ACPI tables (up to 6 characters); nil: default.
  package var oemID: String?
  /// OEM table id in ACPI tables (up to 8 characters); nil: default.
  package var oemTableID: String?
  /// SMBIOS entry point: `32`, `64` or nil for the default.
  package var smbiosEntryPoint: String?
  /// Firmware checks the boot signature of floppies (`-no-fd-bootchk` clears it).
  package var floppyBootCheck = true

  /// A machine of that type with everything else as by default.
  package init(type: String) { self.type = type }
}

/// One entry of the accelerator list.
package enum AcceleratorConfiguration: Sendable, Equatable {
  /// Hardware virtualisation through `/dev/kvm`.
  case kvm(KVMConfiguration)
  /// The software CPU.
  case tcg(TCGConfiguration)

  /// The name used on the command line and in messages.
  package var name: String {
    switch self {
    case .kvm: "kvm"
    case .tcg: "tcg"
    }
  }
}

/// Properties of `-accel kvm`. The interrupt controllers are always in user space.
package struct KVMConfiguration: Sendable, Equatable {
  /// Probe the host's KVM with a small guest before relying on it (`probe=off` skips that).
  package var probe = true

  /// The defaults.
  package init() {}
}

/// `-cpu`: read by the CPU module, whose models and features it names.
package struct CPUConfiguration: Sendable, Equatable {
  /// The argument: `MODEL,+FEATURE,-FEATURE,NAME=VALUE`.
  package var text: String
  /// The option it came from.
  package var origin: OptionOrigin
}

/// `-smp`, complete: `sockets * dies * cores * threads == maxCPUs`, `cpus <= maxCPUs`.
package struct SMPConfiguration: Sendable, Equatable {
  /// vCPUs present at start.
  package var cpus = 1
  /// vCPUs possible after hot plug.
  package var maxCPUs = 1
  /// Sockets of the machine.
  package var sockets = 1
  /// Dies in a socket.
  package var dies = 1
  /// Cores on a die.
  package var cores = 1
  /// Threads of a core.
  package var threads = 1
  /// `-smp` says more than how many vCPUs there are.
  package var isTopologyGiven = false

  /// One vCPU.
  package init() {}
}

/// `-m`, in bytes.
package struct MemoryConfiguration: Sendable, Equatable {
  /// RAM at start, a multiple of 8 KiB.
  package var size: UInt64 = 128 << 20
  /// `-m` says it.
  package var isSizeGiven = false
  /// Slots for hot-plugged memory.
  package var slots = 0
  /// Largest RAM after hot plug; equals `size` when not given.
  package var maxSize: UInt64 = 128 << 20

  /// 128 MiB, as QEMU's boards have by default.
  package init() {}
}
