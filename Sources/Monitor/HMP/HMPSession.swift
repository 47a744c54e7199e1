package import Host
package import Options
package import QAPI

/// What all human monitors of a process remember together: the format of the last dump.
@MainLoop
package final class HMPDefaults {
  var format = HMPFormat()

  package init() {}
}

/// One human monitor: runs command lines against the handlers of the QMP commands and says what is to be printed.
///
/// It knows nothing of connections; `HMPServer` puts a line editor and a character device around it.
@MainLoop
package final class HMPSession {
  let commands: any CommandHandlers
  /// Nothing before there is a machine.
  private(set) var machine: any HMPMachine
  /// There is no machine yet (`-preconfig`): most commands are unavailable.
  private(set) var isEarly = false
  /// The vCPU that `x`, `info registers` and the like are about.
  var currentCPU = 0
  /// Lines of the editor, for `info history`; empty without one.
  var history: [[UInt8]] = []
  /// `quit` was given: there is no further prompt.
  package internal(set) var hasQuit = false
  /// Runs a line on another node when it belongs there: name of the command, line, current vCPU; nil when it belongs here.
  var elsewhere: (@MainLoop (String, String, Int) async -> String?)?
  private var output = ""
  private let defaults: HMPDefaults
  private let access: MonitorAccess

  /// `defaults` is what the human monitors of a process share.
  package init(
    commands: any CommandHandlers, machine: any HMPMachine, defaults: HMPDefaults = HMPDefaults(),
    access: MonitorAccess = .full
  ) {
    self.commands = commands
    self.machine = machine
    self.defaults = defaults
    self.access = access
  }

  /// A session before there is a machine (`-preconfig`), until `machineCame`.
  package init(
    early commands: any CommandHandlers, defaults: HMPDefaults, access: MonitorAccess = .full
  ) {
    self.commands = commands
    self.defaults = defaults
    self.access = access
    machine = HMPAbsentMachine()
    isEarly = true
  }

  /// There is a machine now.
  package func machineCame(_ machine: any HMPMachine) {
    self.machine = machine
    isEarly = false
  }

  /// Whether a command can be used now; others are not shown.
  func isAvailable(_ command: HMPCommand) -> Bool { !isEarly || command.isEarly }

  /// Runs one line and answers what it prints, with `\r\n` line ends.
  ///
  /// - Parameter cpuIndex: the vCPU that the line is about, in place of the current one.
  package func perform(commandLine: String, cpuIndex: Int? = nil) async -> String {
    let previous = currentCPU
    if let cpuIndex { currentCPU = cpuIndex }
    defer { if cpuIndex != nil { currentCPU = previous } }
    output = ""
    Trace.write(.handleHMPCommand, "cmdline: \(commandLine)")
    await execute(Array(commandLine.utf8))
    return HMPSession.withCarriageReturns(output)
  }

  /// `perform` for a line whose command does not wait; of one that does, what it has printed until it waits.
  package func run(commandLine: String, cpuIndex: Int? = nil) -> String {
    var text: String?
    MainLoop.start { text = await self.perform(commandLine: commandLine, cpuIndex: cpuIndex) }
    return text ?? HMPSession.withCarriageReturns(output)
  }

  /// Adds text to the output, `\n` for line ends.
  func print(_ text: String) { output += text }

  /// The named register of the current vCPU.
  func register(_ name: String) -> UInt64? {
    machine.cpuState(currentCPU).flatMap { RegisterText.value(name, in: $0) }
  }

  // MARK: -

  private func execute(_ line: [UInt8]) async {
    var position = 0
    guard let command = findCommand(line, &position) else { return }
    guard access.allowsHuman(command.names[0], looks: command.access == .looks) else {
      print("Error: The command \(command.names[0]) is not allowed on this monitor\n")
      return
    }
    let name = String(decoding: line[..<position], as: UTF8.self)
    if let elsewhere {
      let words = name.split { $0 == " " || $0 == "\t" }
      let path = (words.dropLast() + [Substring(command.names[0])]).joined(separator: " ")
      if let text = await elsewhere(path, String(decoding: line, as: UTF8.self), currentCPU) {
        print(text)
        if command.names[0] == "quit" { hasQuit = true }
        return
      }
    }
    var parser = HMPArgumentParser(
      commandName: command.names.joined(separator: "|"), text: line, position: position,
      register: { [self] in register($0) }, lastFormat: defaults.format)
    let arguments: HMPArguments
    do {
      arguments = try parser.parse(command.parameters)
      defaults.format = parser.lastFormat
    } catch {
      defaults.format = parser.lastFormat
      print("\(error.text)\nTry \"help \(name)\" for more information\n")
      return
    }
    do throws(QAPIError) {
      try await command.run(self, arguments)
    } catch {
      print("Error: \(error.description)\n")
    }
  }

  /// The command that the line names; prints the error and answers nil when there is none. `position` ends after its name.
  private func findCommand(_ line: [UInt8], _ position: inout Int) -> HMPCommand? {
    var table = HMPCommandTable.commands
    var found: HMPCommand?
    var at = 0
    while true {
      while at < line.count, isBlank(line[at]) { at += 1 }
      if at == line.count { return found }
      let start = at
      while at < line.count, !isBlank(line[at]), line[at] != UInt8(ascii: "/") { at += 1 }
      let word = String(decoding: line[start..<at], as: UTF8.self)
      guard let command = table.first(where: { $0.names.contains(word) }) else {
        print("unknown command: '\(String(decoding: line[..<at], as: UTF8.self))'\n")
        return nil
      }
      guard isAvailable(command) else {
        print(
          "Command '\(String(decoding: line[..<at], as: UTF8.self))' not available"
            + " until machine initialization has completed.\n")
        return nil
      }
      found = command
      position = at
      guard !command.subcommands.isEmpty else { return command }
      table = command.subcommands
    }
  }

  private static func withCarriageReturns(_ text: String) -> String {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(text.utf8.count + 64)
    for byte in text.utf8 {
      if byte == 10 { bytes.append(13) }
      bytes.append(byte)
    }
    return String(decoding: bytes, as: UTF8.self)
  }
}
