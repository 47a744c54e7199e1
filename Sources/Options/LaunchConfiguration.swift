// What a command line asks for, fully resolved: defaults filled in, sizes in bytes, labels given,
// later options merged over earlier ones. Nothing here has been opened, allocated or probed.

package import QAPI

/// One node's machine and everything around it, as described by a command line.
package struct LaunchConfiguration: Sendable, Equatable {
  /// Board and its properties.
  package var machine: MachineConfiguration
  /// Accelerators in the order in which they are tried; never empty.
  package var accelerators: [AcceleratorConfiguration]
  /// `-cpu`; nil means the board's default model.
  package var cpu: CPUConfiguration?
  /// vCPU count and topology, complete and consistent.
  package var smp: SMPConfiguration
  /// Guest RAM.
  package var memory: MemoryConfiguration
  /// `-name`.
  package var name = NameConfiguration()
  /// `-uuid`; nil when not given (then reported as all zeroes).
  package var uuid: MachineUUID?
  /// Kernel, initrd, command line, firmware, and where firmware files are looked for.
  package var boot = BootSources()
  /// `-boot`: what the firmware is told.
  package var bootOrder = BootOrderConfiguration()
  /// Every character device in order of creation, those of `-serial`, `-monitor`, … included.
  package var chardevs: [ChardevConfiguration] = []
  /// Monitors in order of creation.
  package var monitors: [MonitorConfiguration] = []
  /// Label of the character device of each serial port (COM1 first).
  package var serials: [String] = []
  /// Label of the character device of each parallel port (LPT1 first).
  package var parallels: [String] = []
  /// Label of the character device behind `-debugcon` (port 0xE9), nil when not asked for.
  package var debugConsole: String?
  /// `-device`, in order; types and properties are checked by the machine.
  package var devices: [DeviceConfiguration] = []
  /// `-global`, in order; later ones win.
  package var globals: [GlobalProperty] = []
  /// `-fw_cfg` items, in order.
  package var firmwareItems: [FirmwareItem] = []
  /// `-rtc`.
  package var rtc = RTCConfiguration()
  /// What the machine does on reboot, shutdown, panic and watchdog expiry.
  package var actions = ActionConfiguration()
  /// `-S`: vCPUs wait for `cont`.
  package var startPaused = false
  /// `-nographic` was given (differs from `-display none`: the firmware talks to the serial port).
  package var nographic = false
  /// `-nodefaults` was given.
  package var noDefaults = false
  /// Pid file, daemon, sandbox: what concerns the host process.
  package var process = ProcessConfiguration()
  /// `-d` and `-D`.
  package var log = LogConfiguration()
  /// `-msg`.
  package var messages = MessageConfiguration()
  /// `-k`, for displays that a later option starts.
  package var keyboardLayout: String?
  /// `-only-migratable`: devices that cannot migrate are refused.
  package var onlyMigratable = false
  /// `-overcommit`.
  package var overcommit = OvercommitConfiguration()
  /// `-echr`: the byte that introduces multiplexer commands (default 1, Ctrl-a).
  package var escapeCharacter: UInt8 = 1
}

/// A property with three states, as in QEMU's `OnOffAuto`.
package enum OnOffAuto: String, Sendable, Equatable {
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
  /// On-board USB controller. Always false until USB exists (`usb=on` is refused).
  package var usb = false
  /// Guest RAM is part of core dumps.
  package var dumpGuestCore = true
  /// Guest RAM may be merged with equal pages (KSM).
  package var mergeMemory = true
  /// Graphical output is wanted; false after `-nographic`.
  package var graphics = true
  /// HPET present (`-no-hpet` clears it).
  package var hpet = true
  /// System management mode.
  package var smm = OnOffAuto.auto
  /// VMware backdoor port.
  package var vmport = OnOffAuto.auto
  /// ACPI tables and PM device (`-no-acpi` clears it).
  package var acpi = OnOffAuto.auto
  /// 8254 timer.
  package var pit = OnOffAuto.auto
  /// 8259 pair.
  package var pic = OnOffAuto.auto
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
  package init() {}
}

/// Properties of `-accel tcg`.
package struct TCGConfiguration: Sendable, Equatable {
  /// Size of the cache of decoded or translated code in MiB; nil: chosen by the accelerator.
  package var codeCacheMiB: UInt32?
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
  package var sockets = 1
  package var dies = 1
  package var cores = 1
  package var threads = 1
  package init() {}
}

/// `-m`, in bytes.
package struct MemoryConfiguration: Sendable, Equatable {
  /// RAM at start, a multiple of 8 KiB.
  package var size: UInt64 = 128 << 20
  /// Slots for hot-plugged memory.
  package var slots = 0
  /// Largest RAM after hot plug; equals `size` when not given.
  package var maxSize: UInt64 = 128 << 20
  package init() {}
}

/// `-name`.
package struct NameConfiguration: Sendable, Equatable {
  /// Guest's name, shown by `query-name` and in titles.
  package var guest: String?
  /// Name of the host process.
  package var process: String?
  /// Name host threads after their task.
  package var debugThreads = false
}

/// A UUID: 16 bytes in the order of the text form.
package struct MachineUUID: Sendable, Equatable, CustomStringConvertible {
  /// 16 bytes, most significant (first in text) first.
  package let bytes: [UInt8]
}

/// Where the guest's first code comes from.
package struct BootSources: Sendable, Equatable {
  /// `-kernel`: bzImage, ELF with PVH note or multiboot image.
  package var kernel: String?
  /// `-initrd`.
  package var initrd: String?
  /// `-append`.
  package var append: String?
  /// `-bios`; nil: the board's default firmware.
  package var firmware: String?
  /// `-L` directories, searched in order before the built-in ones.
  package var dataDirectories: [String] = []
}

/// `-boot`: values for the firmware.
package struct BootOrderConfiguration: Sendable, Equatable {
  /// Drive letters `a` to `p` in order; nil: the board's default.
  package var order: String?
  /// Order for the first boot only.
  package var once: String?
  /// Interactive boot menu; nil: not said.
  package var menu: Bool?
  /// Splash picture file.
  package var splash: String?
  /// How long the splash is shown, milliseconds.
  package var splashTime: Int?
  /// Pause before a reboot after a failed boot, milliseconds; -1: none.
  package var rebootTimeout: Int?
  /// Only the devices with a boot index are tried.
  package var strict = false
}

/// One character device to create.
package struct ChardevConfiguration: Sendable, Equatable {
  /// Its id (`charmonitor`, `serial0`, `compat_monitor0`).
  package var label: String
  /// What it is.
  package var backend: ChardevBackend
  /// The option it came from, for messages about opening it.
  package var origin: OptionOrigin
  /// Second line QEMU prints when the device of a short form cannot be opened; nil for `-chardev`.
  package var consequence: String?

  /// The error to print when opening fails with `reason`.
  package func failure(_ reason: String) -> OptionError {
    OptionError(.failed, origin, reason, consequence: consequence)
  }
}

/// One monitor.
package struct MonitorConfiguration: Sendable, Equatable {
  /// What is spoken.
  package enum Mode: String, Sendable {
    /// HMP, lines for people.
    case readline
    /// QMP, JSON.
    case control
  }
  /// `-mon id=`, or the label of the short form; nil for the monitor behind `mon:`.
  package var id: String?
  /// Label of its character device.
  package var chardev: String
  package var mode: Mode
  /// QMP with line breaks and indentation.
  package var pretty: Bool
  /// The option it came from.
  package var origin: OptionOrigin
}

/// `-fw_cfg`.
package struct FirmwareItem: Sendable, Equatable {
  /// Where the contents come from.
  package enum Contents: Sendable, Equatable {
    /// A file, read when the machine is built.
    case file(String)
    /// The text itself, without a terminator.
    case text(String)
  }
  /// File name inside fw_cfg, at most 55 bytes.
  package var name: String
  package var contents: Contents
  /// The option it came from.
  package var origin: OptionOrigin
}

/// `-device`.
package struct DeviceConfiguration: Sendable, Equatable {
  /// Device type or alias.
  package var driver: String
  /// `id=`, nil when not given.
  package var id: String?
  /// All other properties in order of writing, `bus` and `addr` included.
  package var properties: [DeviceProperty]
  /// The option it came from.
  package var origin: OptionOrigin
}

/// `-global driver.property=value`.
package struct GlobalProperty: Sendable, Equatable {
  /// Type whose instances get the value.
  package var driver: String
  package var property: String
  package var value: String
  /// The option it came from.
  package var origin: OptionOrigin
}

/// `-rtc`.
package struct RTCConfiguration: Sendable, Equatable {
  /// What the guest's clock shows at start.
  package enum Base: Sendable, Equatable {
    /// Host's time in UTC.
    case utc
    /// Host's local time.
    case localTime
    /// A fixed start, seconds since 1970-01-01 00:00:00 as shown by the guest's clock.
    case fixed(secondsSince1970: Int64)
  }
  /// Which clock drives it.
  package enum Clock: String, Sendable {
    /// Follows changes of the host's wall clock.
    case host
    /// Host's monotonic clock.
    case rt
    /// Stops with the machine.
    case vm
  }
  package var base = Base.utc
  package var clock = Clock.host
  /// Lost periodic ticks are delivered later (`driftfix=slew`).
  package var slewsLostTicks = false
}

/// `-action`, `-no-reboot`, `-no-shutdown`, `-watchdog-action`. Raw values are QAPI's.
package struct ActionConfiguration: Sendable, Equatable {
  package enum Reboot: String, Sendable, CaseIterable { case reset, shutdown }
  package enum Shutdown: String, Sendable, CaseIterable { case poweroff, pause }
  package enum Panic: String, Sendable, CaseIterable {
    case pause, shutdown
    case exitFailure = "exit-failure"
    case none
  }
  package enum Watchdog: String, Sendable, CaseIterable {
    case reset, shutdown, poweroff, pause, debug, none
    case injectNMI = "inject-nmi"
  }
  package var reboot = Reboot.reset
  package var shutdown = Shutdown.poweroff
  package var panic = Panic.shutdown
  package var watchdog = Watchdog.reset
  package init() {}
}

/// What concerns the host process, not the guest.
package struct ProcessConfiguration: Sendable, Equatable {
  /// `-pidfile`.
  package var pidFile: String?
  /// `-daemonize`: the parent exits with 0 when sockets listen and the pid file is written.
  package var daemonize = false
  /// `-sandbox on`; nil: no filter.
  package var sandbox: SandboxConfiguration?
}

/// `-sandbox on,…`: which system calls are refused beyond the base filter.
package struct SandboxConfiguration: Sendable, Equatable {
  /// Treatment of calls that change privileges.
  package enum Privileges: String, Sendable, CaseIterable { case allow, deny, children }
  package var deniesObsolete = true
  package var elevatePrivileges = Privileges.allow
  package var deniesSpawn = false
  package var deniesResourceControl = false
}

/// `-d` and `-D`.
package struct LogConfiguration: Sendable, Equatable {
  /// Items to log, valid names only, without duplicates.
  package var items: [String] = []
  /// File instead of stderr; `%d` in it stands for the process id.
  package var file: String?
}

/// `-msg`.
package struct MessageConfiguration: Sendable, Equatable {
  /// Messages start with the date and time.
  package var timestamp = false
  /// Messages carry the guest's name.
  package var guestName = false
}

/// `-overcommit`.
package struct OvercommitConfiguration: Sendable, Equatable {
  /// Guest RAM is locked in memory.
  package var lockMemory = false
  /// Guest may use power-saving instructions directly.
  package var cpuPowerManagement = false
}

extension MachineUUID {
  /// Lower case, with dashes.
  package var description: String {
    var text = ""
    for (index, byte) in bytes.enumerated() {
      if [4, 6, 8, 10].contains(index) { text += "-" }
      let digits = String(byte, radix: 16)
      text += digits.utf8.count == 1 ? "0" + digits : digits
    }
    return text
  }
}
