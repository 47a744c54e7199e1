// What a command line asks for, fully resolved: defaults filled in, sizes in bytes, labels given,
// later options merged over earlier ones. Nothing here has been opened, allocated or probed.

package import Cluster

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
  /// The other nodes that the machine runs on; nil when it is all here. On nodes other than 0 there are no devices, drives and networks.
  package var cluster: ClusterConfiguration?
  /// `-cluster check=`: the nodes only meet and compare; nil: they start.
  package var clusterCheck: ClusterCheckForm?
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
  /// Network backends in order of making.
  package var netdevs: [NetdevConfiguration] = []
  /// Network cards of the board's, made before those of `-device`.
  package var nics: [NICConfiguration] = []
  /// `-device`, in order; types and properties are checked by the machine.
  package var devices: [DeviceConfiguration] = []
  /// `-blockdev`, in order; all are made before the first drive.
  package var blockdevs: [BlockdevConfiguration] = []
  /// `-drive` and its short forms in order, and last the board's default optical drive.
  package var drives: [DriveConfiguration] = []
  /// `-object`, in order.
  package var objects: [ObjectConfiguration] = []
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
  /// `-preconfig`: the machine is not made before `x-exit-preconfig`.
  package var waitsForPreconfig = false
  /// `-singlestep`: blocks of one instruction under `tcg`, told by `query-status`.
  package var singleStep = false
  /// `-nographic` was given (differs from `-display none`: the firmware talks to the serial port).
  package var nographic = false
  /// `-nodefaults` was given.
  package var noDefaults = false
  /// `-vga none` was given.
  package var hasNoVideoCard = false
  /// Whether a place on the PCI bus is kept for a video card, so that cards behind it have the numbers, and guests' networks the names,
  /// that they have with QEMU's default one.
  package var keepsVideoSlot: Bool { !noDefaults && !hasNoVideoCard }
  /// Pid file, daemon, sandbox: what concerns the host process.
  package var process = ProcessConfiguration()
  /// `-metrics`.
  package var metrics: MetricsConfiguration?
  /// `-d` and `-D`.
  package var log = LogConfiguration()
  /// `-msg`.
  package var messages = MessageConfiguration()
  /// `-only-migratable`: devices that cannot migrate are refused.
  package var onlyMigratable = false
  /// `-overcommit`.
  package var overcommit = OvercommitConfiguration()
  /// `-echr`: the byte that introduces multiplexer commands (default 1, Ctrl-a).
  package var escapeCharacter: UInt8 = 1
}

/// How the nodes say what comparing them gave.
package enum ClusterCheckForm: String, Sendable, CaseIterable {
  /// For people.
  case on
  /// As a JSON object.
  case json
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
  /// What the guest reads.
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

  /// All members.
  package init(
    driver: String, id: String?, properties: [DeviceProperty], origin: OptionOrigin
  ) {
    self.driver = driver
    self.id = id
    self.properties = properties
    self.origin = origin
  }
}

/// `-global driver.property=value`.
package struct GlobalProperty: Sendable, Equatable {
  /// Type whose instances get the value.
  package var driver: String
  /// Property name.
  package var property: String
  /// Value as text; the property's type decides how it is read.
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
  /// What the clock shows at start.
  package var base = Base.utc
  /// Which clock drives it.
  package var clock = Clock.host
  /// Lost periodic ticks are delivered later (`driftfix=slew`).
  package var slewsLostTicks = false
}

/// `-action`, `-no-reboot`, `-no-shutdown`, `-watchdog-action`. Raw values are QAPI's.
package struct ActionConfiguration: Sendable, Equatable {
  /// When the guest asks for a reset.
  package enum Reboot: String, Sendable, CaseIterable { case reset, shutdown }
  /// When the guest powers off.
  package enum Shutdown: String, Sendable, CaseIterable { case poweroff, pause }
  /// When the guest reports that it crashed.
  package enum Panic: String, Sendable, CaseIterable {
    case pause, shutdown
    case exitFailure = "exit-failure"
    case none
  }
  /// When a watchdog device expires.
  package enum Watchdog: String, Sendable, CaseIterable {
    case reset, shutdown, poweroff, pause, debug, none
    case injectNMI = "inject-nmi"
  }
  /// On the guest's reset.
  package var reboot = Reboot.reset
  /// On the guest's power off.
  package var shutdown = Shutdown.poweroff
  /// On the guest's crash.
  package var panic = Panic.shutdown
  /// On a watchdog's expiry.
  package var watchdog = Watchdog.reset

  /// QEMU's defaults.
  package init() {}
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
