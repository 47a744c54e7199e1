// The table of options: -help, spelling hints and the parser all read it.

/// One option of the command line.
struct OptionDescriptor: Sendable {
  typealias Handler =
    @Sendable (inout ParserState, _ argument: String, OptionOrigin) throws(OptionError) -> Void

  /// Headings of `-help`.
  enum Section: String, CaseIterable {
    case machine = "Machine"
    case processor = "Processors and memory"
    case cluster = "Several nodes"
    case boot = "Booting"
    case disk = "Disks"
    case network = "Networks"
    case device = "Devices"
    case character = "Character devices and monitors"
    case display = "Display"
    case run = "Running"
    case process = "Process, log and configuration"
  }
  enum Action: Sendable {
    case flag(@Sendable (inout ParserState, OptionOrigin) throws(OptionError) -> Void)
    /// Takes an argument, shown in `-help` as the text given.
    case argument(String, Handler)
    /// QEMU has it, Goliath has not; the sentence says what there is instead. Values in `allowed`
    /// ask for what is the case anyway and are accepted.
    case refused(String, allowed: [String] = [])
  }
  /// Spellings without dashes; the first is shown in `-help`.
  let names: [String]
  let section: Section
  let summary: String
  let action: Action

  init(_ names: String..., in section: Section, _ summary: String, _ action: Action) {
    self.names = names
    self.section = section
    self.summary = summary
    self.action = action
  }
}

/// All options.
enum OptionTable {
  static let options: [OptionDescriptor] =
    machineOptions + processorOptions + clusterOptions + bootOptions + diskOptions + networkOptions
    + deviceOptions
    + characterOptions
    + displayOptions + runOptions + processOptions + refusedOptions

  /// Position in `options` by spelling.
  static let positions: [String: Int] = {
    var positions: [String: Int] = [:]
    positions.reserveCapacity(2 * options.count)
    for (position, option) in options.enumerated() {
      for name in option.names { positions[name] = position }
    }
    return positions
  }()

  static func option(named name: String) -> OptionDescriptor? {
    positions[name].map { options[$0] }
  }

  private static let machineOptions = [
    OptionDescriptor(
      "h", "help", in: .machine, "print this text and exit",
      .flag { state, _ in state.help = .options }),
    OptionDescriptor(
      "version", in: .machine, "print the version and exit",
      .flag { state, _ in state.help = .version }),
    OptionDescriptor(
      "machine", "M", in: .machine,
      "choose the machine type and its properties ('-machine help', '-machine TYPE,help')",
      .argument("[type=]TYPE[,PROP=VALUE,...]", MachineOptions.machine)),
    OptionDescriptor(
      "accel", in: .machine,
      "choose the accelerator; several are tried in order, as in kvm:tcg ('-accel help', '-accel tcg,help')",
      .argument("[accel=]NAME[,PROP=VALUE,...]", AcceleratorOptions.accel)),
    OptionDescriptor(
      "enable-kvm", in: .machine, "use KVM or fail; short for -machine accel=kvm",
      .flag { state, origin throws(OptionError) in
        try MachineOptions.set("accel", "kvm", &state, origin)
      }),
    OptionDescriptor(
      "name", in: .machine, "name the guest and the process",
      .argument(
        "[guest=]NAME[,process=NAME][,debug-threads=on|off]"
      ) { state, text, origin throws(OptionError) in
        try state.add(text, to: .name, origin: origin)
      }),
    OptionDescriptor(
      "uuid", in: .machine, "set the machine's UUID",
      .argument("UUID", ScalarOptions.uuid)),
    OptionDescriptor(
      "rtc", in: .machine, "set what the real-time clock starts with and follows",
      .argument(
        "[base=utc|localtime|DATETIME][,clock=host|rt|vm][,driftfix=none|slew]"
      ) { state, text, origin throws(OptionError) in
        try state.add(text, to: .rtc, origin: origin)
      }),
    OptionDescriptor(
      "no-acpi", in: .machine, "no ACPI tables and no PM device; short for -machine acpi=off",
      .flag { state, origin throws(OptionError) in
        try MachineOptions.set("acpi", "off", &state, origin)
      }),
    OptionDescriptor(
      "no-hpet", in: .machine, "no HPET; short for -machine hpet=off",
      .flag { state, origin throws(OptionError) in
        try MachineOptions.set("hpet", "off", &state, origin)
      }),
    OptionDescriptor(
      "usb", in: .machine, "short for -machine usb=on",
      .flag { state, origin throws(OptionError) in
        try MachineOptions.set("usb", "on", &state, origin)
      }),
  ]

  private static let processorOptions = [
    OptionDescriptor(
      "cpu", in: .processor, "choose the CPU model and its features ('-cpu help')",
      .argument("MODEL[,+FEATURE][,-FEATURE][,PROP=VALUE]", ScalarOptions.cpu)),
    OptionDescriptor(
      "smp", in: .processor, "set the number of vCPUs and their topology",
      .argument(
        "[[cpus=]N][,maxcpus=N][,sockets=N][,dies=N][,cores=N][,threads=N]", MachineOptions.smp)),
    OptionDescriptor(
      "m", in: .processor, "set the RAM size (megabytes unless a suffix says otherwise)",
      .argument("[size=]SIZE[,slots=N,maxmem=SIZE]") { state, text, origin throws(OptionError) in
        try state.add(text, to: .memory, origin: origin)
      }),
    OptionDescriptor(
      "overcommit", in: .processor, "lock guest RAM in memory; let guests use power-saving states",
      .argument("[mem-lock=on|off][,cpu-pm=on|off]") { state, text, origin throws(OptionError) in
        try state.add(text, to: .overcommit, origin: origin)
      }),
  ]

  private static let clusterOptions = [
    OptionDescriptor(
      "cluster", in: .cluster, "run this machine on several nodes, and say which one this is",
      .argument(
        "[id=]NAME,node=N,peers=ADDRESS+...[,vcpus=FIRST-LAST+...][,memory=shm|dsm][,shm-path=NAME]"
          + "[,tls-creds=ID|,psk=ID|,insecure=on][,home=POLICY][,on-node-loss=POLICY][,OPTION...]"
      ) { state, text, origin throws(OptionError) in
        try state.add(text, to: .cluster, origin: origin)
      }),
    OptionDescriptor(
      "local-cpu", in: .cluster,
      "N vCPUs from K on are here, N more on each other node (distributed QEMU's spelling)",
      .argument("[cpus=]N[,start=K][,iplist=\"ADDRESS ADDRESS...\"]") {
        state, text, origin throws(OptionError) in
        try state.add(text, to: .localCPU, origin: origin)
      }),
    OptionDescriptor(
      "shm-path", in: .cluster, "nodes on one host share RAM in this shared-memory object",
      .argument("NAME", ClusterOptions.sharedMemory)),
  ]

  private static let bootOptions = [
    OptionDescriptor(
      "kernel", in: .boot, "boot this kernel: bzImage, ELF with PVH note, or multiboot",
      .argument("FILE", MachineOptions.setter("kernel"))),
    OptionDescriptor(
      "initrd", in: .boot, "initial RAM disk for the kernel (modules for multiboot)",
      .argument("FILE", MachineOptions.setter("initrd"))),
    OptionDescriptor(
      "append", in: .boot, "command line of the kernel",
      .argument("TEXT", MachineOptions.setter("append"))),
    OptionDescriptor(
      "bios", in: .boot, "firmware image", .argument("FILE", MachineOptions.setter("firmware"))),
    OptionDescriptor(
      "L", in: .boot, "look for firmware here first ('-L help' lists the directories)",
      .argument("DIRECTORY") { state, text, _ in
        if OptionText.isHelp(text) { state.help = .dataDirectories }
        state.configuration.boot.dataDirectories.append(text)
      }),
    OptionDescriptor(
      "boot", in: .boot, "tell the firmware what to boot from, and how",
      .argument(
        "[order=DRIVES][,once=DRIVES][,menu=on|off][,splash=FILE][,splash-time=MS]"
          + "[,reboot-timeout=MS][,strict=on|off]", MachineOptions.boot)),
    OptionDescriptor(
      "fw_cfg", in: .boot, "add an item to fw_cfg",
      .argument("[name=]NAME,file=FILE|string=TEXT") { state, text, origin throws(OptionError) in
        try state.add(text, to: .firmwareItem, origin: origin)
      }),
    OptionDescriptor(
      "no-fd-bootchk", in: .boot, "firmware boots floppies without a boot signature",
      .flag { state, _ in state.configuration.machine.floppyBootCheck = false }),
  ]

  private static let diskOptions = [
    OptionDescriptor(
      "hda", in: .disk, "image of the first disk; so is an image without an option",
      .argument("FILE", DriveOptions.disk(0))),
    OptionDescriptor(
      "hdb", in: .disk, "image of the second disk", .argument("FILE", DriveOptions.disk(1))),
    OptionDescriptor(
      "hdc", in: .disk, "image of the third disk", .argument("FILE", DriveOptions.disk(2))),
    OptionDescriptor(
      "hdd", in: .disk, "image of the fourth disk", .argument("FILE", DriveOptions.disk(3))),
    OptionDescriptor(
      "cdrom", in: .disk, "image in the optical drive", .argument("FILE", DriveOptions.cdrom)),
    OptionDescriptor(
      "drive", in: .disk, "add a drive: an image, how it is opened, how the guest sees it",
      .argument(
        "[file=FILE][,if=ide|virtio|none][,bus=N,unit=N|,index=N][,media=disk|cdrom][,format=F]"
          + "[,cache=MODE][,readonly=on|off][,OPTION...]", DriveOptions.drive)),
    OptionDescriptor(
      "blockdev", in: .disk, "make a block node, to be used by name",
      .argument("[driver=]DRIVER,node-name=NAME[,OPTION...]|JSON", DriveOptions.blockdev)),
    OptionDescriptor(
      "snapshot", in: .disk, "write to temporary files instead of the images",
      .flag { state, _ in state.wantsSnapshots = true }),
  ]

  private static let networkOptions = [
    OptionDescriptor(
      "netdev", in: .network, "make a network backend, to be used by a network card",
      .argument("[type=]TYPE,id=ID[,OPTION...]|JSON", NetOptions.netdev)),
    OptionDescriptor(
      "nic", in: .network, "add a network card with a backend of its own, or none",
      .argument("[type=]TYPE|none[,model=MODEL][,mac=ADDRESS][,OPTION...]", NetOptions.nic)),
    OptionDescriptor(
      "net", in: .network, "add a network card (nic) or a backend to hub 0, or none",
      .argument(
        "nic[,model=MODEL][,macaddr=ADDRESS][,netdev=ID]|TYPE[,OPTION...]|none", NetOptions.net)),
  ]

  private static let deviceOptions = [
    OptionDescriptor(
      "device", in: .device, "add a device ('-device help', '-device TYPE,help')",
      .argument("TYPE[,id=ID][,PROP=VALUE,...]|JSON", DeviceOptions.device)),
    OptionDescriptor(
      "object", in: .device, "make an object ('-object help', '-object TYPE,help')",
      .argument("TYPE,id=ID[,PROP=VALUE,...]|JSON", ObjectOption.object)),
    OptionDescriptor(
      "global", in: .device, "set a property of every device of a type",
      .argument("TYPE.PROP=VALUE|driver=TYPE,property=PROP,value=VALUE", DeviceOptions.global)),
    OptionDescriptor(
      "set", in: .device, "change an earlier option that has an id",
      .argument("GROUP.ID.ARG=VALUE", DeviceOptions.set)),
    OptionDescriptor(
      "nodefaults", in: .device,
      "no serial port, parallel port, optical drive or monitor by default",
      .flag { state, _ in state.configuration.noDefaults = true }),
  ]

  private static let characterOptions = [
    OptionDescriptor(
      "chardev", in: .character, "add a character device ('-chardev help')",
      .argument(
        "BACKEND,id=ID[,mux=on|off][,logfile=FILE][,logappend=on|off][,OPTION...]",
        ChardevOptions.chardev)),
    OptionDescriptor(
      "serial", in: .character,
      "connect the next serial port (none, stdio, mon:stdio, unix:PATH, ...)",
      .argument("DEV") { state, _, origin in
        state.serials.append(origin)
        state.wantsDefaultSerial = false
        if origin.argument?.hasPrefix("mon:") == true { state.wantsDefaultMonitor = false }
      }),
    OptionDescriptor(
      "parallel", in: .character, "connect the next parallel port",
      .argument("DEV") { state, _, origin in
        state.parallels.append(origin)
        state.wantsDefaultParallel = false
        if origin.argument?.hasPrefix("mon:") == true { state.wantsDefaultMonitor = false }
      }),
    OptionDescriptor(
      "debugcon", in: .character, "connect the debug console (port 0xE9)",
      .argument("DEV") { state, _, origin in state.debugConsoles.append(origin) }),
    OptionDescriptor(
      "monitor", in: .character, "HMP monitor on a character device",
      .argument("DEV") { state, text, origin throws(OptionError) in
        try MonitorOptions.short(text, .readline, pretty: false, &state, origin)
      }),
    OptionDescriptor(
      "qmp", in: .character, "QMP monitor on a character device",
      .argument("DEV") { state, text, origin throws(OptionError) in
        try MonitorOptions.short(text, .control, pretty: false, &state, origin)
      }),
    OptionDescriptor(
      "qmp-pretty", in: .character, "QMP monitor that indents its output",
      .argument("DEV") { state, text, origin throws(OptionError) in
        try MonitorOptions.short(text, .control, pretty: true, &state, origin)
      }),
    OptionDescriptor(
      "mon", in: .character, "monitor on a character device made with -chardev",
      .argument("[chardev=]ID[,mode=readline|control][,pretty=on|off]") {
        state, text, origin throws(OptionError) in
        state.wantsDefaultMonitor = false
        try state.add(text, to: .monitor, origin: origin)
      }),
    OptionDescriptor(
      "echr", in: .character, "character that starts multiplexer commands, instead of Ctrl-a (1)",
      .argument("NUMBER", ScalarOptions.escapeCharacter)),
  ]

  private static let displayOptions = [
    OptionDescriptor(
      "nographic", in: .display, "no display; serial port and monitor share the terminal",
      .flag { state, origin throws(OptionError) in
        state.nographic = origin
        try MachineOptions.set("graphics", "off", &state, origin)
      }),
    OptionDescriptor(
      "display", in: .display, "choose the display; there is none yet but 'none'",
      .argument("none", ScalarOptions.display)),
    OptionDescriptor(
      "vga", in: .display, "choose the video card; there is none yet but 'none'",
      .argument("none", ScalarOptions.videoCard)),
    OptionDescriptor(
      "k", in: .display, "keyboard layout of displays",
      .argument("LANGUAGE", ScalarOptions.keyboardLayout)),
    OptionDescriptor(
      "audiodev", in: .display, "a sound back end; there is none yet but 'none'",
      .argument("[driver=]none,id=ID", AudioOptions.audiodev)),
  ]

  private static let runOptions = [
    OptionDescriptor(
      "S", in: .run, "do not start the vCPUs; a monitor's 'cont' does",
      .flag { state, _ in state.configuration.startPaused = true }),
    OptionDescriptor(
      "preconfig", in: .run, "do not make the machine; a monitor's 'x-exit-preconfig' does",
      .flag { state, _ in state.configuration.waitsForPreconfig = true }),
    OptionDescriptor(
      "singlestep", in: .run,
      "one guest instruction in each block of tcg; short for -accel tcg,one-insn-per-tb=on",
      .flag { state, _ in state.configuration.singleStep = true }),
    OptionDescriptor(
      "no-reboot", in: .run, "end instead of rebooting; short for -action reboot=shutdown",
      .flag { state, origin throws(OptionError) in
        try state.add("reboot=shutdown", to: .action, origin: origin)
      }),
    OptionDescriptor(
      "no-shutdown", in: .run, "pause instead of ending; short for -action shutdown=pause",
      .flag { state, origin throws(OptionError) in
        try state.add("shutdown=pause", to: .action, origin: origin)
      }),
    OptionDescriptor(
      "action", in: .run, "what to do when the guest reboots, shuts down, panics or hangs",
      .argument(
        "[reboot=reset|shutdown][,shutdown=poweroff|pause]"
          + "[,panic=pause|shutdown|exit-failure|none]"
          + "[,watchdog=reset|shutdown|poweroff|inject-nmi|pause|debug|none]"
      ) { state, text, origin throws(OptionError) in
        try state.add(text, to: .action, origin: origin)
      }),
    OptionDescriptor(
      "watchdog-action", in: .run, "short for -action watchdog=",
      .argument("ACTION") { state, text, origin throws(OptionError) in
        try state.add(
          [OptionEntry(key: "watchdog", value: text, origin: origin)], to: .action, origin)
      }),
    OptionDescriptor(
      "only-migratable", in: .run, "refuse devices that cannot migrate",
      .flag { state, _ in state.configuration.onlyMigratable = true }),
  ]

  private static let processOptions = [
    OptionDescriptor(
      "pidfile", in: .process, "write the process id to a file",
      .argument("FILE") { state, text, _ in state.configuration.process.pidFile = text }),
    OptionDescriptor(
      "metrics", in: .process, "answer Prometheus at /metrics",
      .argument("HOST:PORT|unix:PATH", MetricsOptions.metrics)),
    OptionDescriptor(
      "add-fd", in: .process, "put an inherited descriptor into a set, to open as /dev/fdset/SET",
      .argument("fd=FD,set=SET[,opaque=TEXT]") { state, text, origin throws(OptionError) in
        try state.add(text, to: .descriptorSet, origin: origin)
      }),
    OptionDescriptor(
      "daemonize", in: .process, "go to the background once everything listens",
      .flag { state, origin in
        state.daemonize = origin
        state.configuration.process.daemonize = true
      }),
    OptionDescriptor(
      "sandbox", in: .process, "restrict the system calls of this process",
      .argument(
        "on|off[,obsolete=allow|deny][,elevateprivileges=allow|deny|children]"
          + "[,spawn=allow|deny][,resourcecontrol=allow|deny]"
      ) { state, text, origin throws(OptionError) in
        try state.add(text, to: .sandbox, origin: origin)
      }),
    OptionDescriptor(
      "d", in: .process, "log these items, separated by commas ('-d help')",
      .argument("ITEM,...", ScalarOptions.logItems)),
    OptionDescriptor(
      "D", in: .process, "log to a file instead of stderr",
      .argument("FILE") { state, text, _ in state.configuration.log.file = text }),
    OptionDescriptor(
      "trace", in: .process, "write trace events to the log ('-trace help' lists them)",
      .argument("[[enable=]PATTERN][,events=FILE][,file=FILE]", ScalarOptions.trace)),
    OptionDescriptor(
      "dfilter", in: .process,
      "log guest code at these addresses only (in_asm, out_asm, exec, cpu)",
      .argument("FIRST..LAST|START+LENGTH|LAST-LENGTH,...") {
        state, text, origin throws(OptionError) in
        state.configuration.log.ranges = try AddressRanges.parse(text, origin)
      }),
    OptionDescriptor(
      "msg", in: .process, "what messages begin with",
      .argument("[timestamp=on|off][,guest-name=on|off]") {
        state, text, origin throws(OptionError) in
        try state.add(text, to: .messages, origin: origin)
      }),
    OptionDescriptor(
      "readconfig", in: .process, "read options from a file",
      .argument("FILE", ConfigurationFile.read)),
    OptionDescriptor(
      "no-user-config", in: .process, "accepted; no configuration file is read unless asked for",
      .flag { _, _ in }),
  ]
}
