import Host
import QAPI

/// All commands of the human monitor, by name.
enum HMPCommandTable {
  static let commands: [HMPCommand] = {
    let tables: [[HMPCommand]] = [
      memoryCommands, controlCommands, logCommands, inputCommands, characterDeviceCommands,
      objectCommands, deviceCommands, netCommands, blockCommands, dumpCommands,
      clusterCommands,
      [infoCommand, helpCommand],
    ]
    return tables.flatMap { $0 }.sorted { $0.names[0] < $1.names[0] }
  }()

  static let infoCommands: [HMPCommand] = {
    let tables: [[HMPCommand]] = [
      generalInfoCommands, machineInfoCommands, objectInfoCommands, translationInfoCommands,
      dumpInfoCommands, netInfoCommands, blockInfoCommands, clusterInfoCommands,
    ]
    return tables.flatMap { $0 }.sorted { $0.names[0] < $1.names[0] }
  }()

  static let infoCommand = HMPCommand(
    "info", "item:s?", "[subcommand]", help: "show something about the system", .looks, early: true,
    subcommands: infoCommands
  ) { session, _ in
    for command in infoCommands where session.isAvailable(command) {
      session.print(command.helpLine(prefix: "info "))
    }
  }

  static let helpCommand = HMPCommand(
    "help|?", "name:S?", "[cmd]", help: "list the commands, or describe one", .looks, early: true
  ) { session, arguments in
    help(session, arguments.text("name") ?? "")
  }

  private static let controlCommands = [
    HMPCommand("cont|c", help: "let the guest run") { session, _ throws(QAPIError) in
      try await session.commands.cont()
    },
    HMPCommand("stop|s", help: "stop the guest") { session, _ throws(QAPIError) in
      try await session.commands.stop()
    },
    HMPCommand("quit|q", help: "end the program at once", early: true) {
      session, _ throws(QAPIError) in
      try session.commands.quit()
      session.hasQuit = true
    },
    HMPCommand(
      "singlestep", "option:s?", "[on|off]",
      help: "execute one guest instruction in each block of tcg (on), or as many as fit (off)",
      completion: HMPCompleters.words(["off", "on"])
    ) { session, arguments in
      switch arguments.text("option") ?? "on" {
      case "on": session.machine.isSingleStepping = true
      case "off": session.machine.isSingleStepping = false
      case let word: session.print("unexpected option \(word)\n")
      }
    },
    HMPCommand("balloon", "value:M", "target", help: "leave the guest so much memory, in MiB") {
      session, arguments throws(QAPIError) in
      try session.commands.balloon(value: Int(arguments.integer("value") ?? 0))
    },
    HMPCommand(
      "watchdog_action", "action:s", "[reset|shutdown|poweroff|pause|debug|none]",
      help: "choose what happens when the guest's watchdog runs out",
      completion: HMPCompleters.words(WatchdogAction.allCases.map(\.rawValue))
    ) { session, arguments throws(QAPIError) in
      let word = (arguments.text("action") ?? "").lowercased()
      guard let action = WatchdogAction(rawValue: word) else {
        throw QAPIError("invalid parameter value: \(word)")
      }
      try session.commands.setAction(reboot: nil, shutdown: nil, panic: nil, watchdog: action)
    },
    HMPCommand("exit_preconfig", help: "make the machine (after -preconfig)", early: true) {
      session, _ throws(QAPIError) in try session.commands.xExitPreconfig()
    },
    HMPCommand("nmi", help: "send a non-maskable interrupt to the guest") {
      session, _ throws(QAPIError) in try session.commands.injectNmi()
    },
    HMPCommand("system_reset", help: "press the reset button") { session, _ throws(QAPIError) in
      try await session.commands.systemReset()
    },
    HMPCommand("system_powerdown", help: "press the power button") {
      session, _ throws(QAPIError) in try session.commands.systemPowerdown()
    },
    HMPCommand("system_wakeup", help: "wake the guest from suspend") {
      session, _ throws(QAPIError) in try session.commands.systemWakeup()
    },
    HMPCommand(
      "cpu", "index:i", "index", help: "choose the CPU that other commands are about", .looks
    ) { session, arguments in
      let index = Int(arguments.integer("index") ?? 0)
      let vcpus = try? session.commands.queryCpusFast()
      if index < session.machine.cpuCount
        || vcpus?.contains(where: { $0.cpuIndex == index }) == true
      {
        session.currentCPU = index
      } else {
        session.print("invalid CPU index\n")
      }
    },
  ]

  // MARK: -

  @MainLoop
  private static func help(_ session: HMPSession, _ line: String) {
    var words: [String] = []
    for word in line.split(whereSeparator: { $0 == " " || $0 == "\t" }) {
      words.append(word.count > 1 && word.first == "\"" ? word.filter { $0 != "\"" } : String(word))
    }
    guard let first = words.first else {
      for command in commands where session.isAvailable(command) {
        session.print(command.helpLine())
      }
      return
    }
    var table = commands
    var prefix = ""
    var found: HMPCommand?
    for word in words {
      guard
        let command = table.first(where: { $0.names.contains(word) && session.isAvailable($0) })
      else {
        session.print("unknown command: '\(words.joined(separator: " "))'\n")
        return
      }
      if let found { prefix += found.names[0] + " " }
      found = command
      if command.subcommands.isEmpty { break }
      table = command.subcommands
    }
    guard let found else { return }
    if found.subcommands.isEmpty {
      session.print(found.helpLine(prefix: prefix))
    } else {
      for command in found.subcommands where session.isAvailable(command) {
        session.print(command.helpLine(prefix: "\(first) "))
      }
    }
  }
}
