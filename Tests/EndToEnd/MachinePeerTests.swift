import Host
import JSON
import Support
import Testing

#if canImport(Glibc)
  import Glibc
#endif

/// Starts QEMU 7.2 and this program with the same options and compares what they answer to the same commands.
@Suite struct MachinePeerTests {
  /// One way in which an answer may differ, and why.
  private struct Exception: Sendable {
    let reason: String
    /// Both answers, made equal in what the reason covers.
    let align: @Sendable (_ command: String, _ answer: JSONValue, _ isOurs: Bool) -> JSONValue
  }

  private static let exceptions: [Exception] = [
    Exception(reason: "no firmware of ours has the files of QEMU's") { command, answer, _ in
      ["x-query-roms", "x-query-ramblock"].contains(command) && answer["return"] != nil
        ? ["return": "text"] : answer
    },
    Exception(reason: "the board has no IDE controller") { command, answer, _ in
      guard command == "query-pci", let bus = answer["return"]?.arrayValue?.first?.objectValue
      else { return answer }
      var pruned = bus
      pruned["devices"] = .array(
        (bus["devices"]?.arrayValue ?? []).filter { $0["id"]?["device"] != 0x7010 })
      return ["return": [.object(pruned)]]
    },
    Exception(reason: "only one capability of migration exists") { command, answer, isOurs in
      guard command == "query-migrate-capabilities", let list = answer["return"]?.arrayValue
      else { return answer }
      return ["return": .array(list.filter { $0["capability"] == "events" })]
    },
    Exception(reason: "QOM numbers unattached devices differently") { command, answer, _ in
      guard ["query-hotpluggable-cpus", "query-stats"].contains(command),
        let list = answer["return"]?.arrayValue
      else { return answer }
      return [
        "return": .array(
          list.map { entry in
            guard var object = entry.objectValue, object["qom-path"] != nil else { return entry }
            object["qom-path"] = "path"
            return .object(object)
          })
      ]
    },
  ]

  /// Runs the commands on both and compares every answer; events too, by name and data, in order.
  func compare(
    _ options: [String], _ commands: [(name: String, arguments: String)],
    eventsAsAWhole: Bool = false, _ location: SourceLocation = #_sourceLocation
  ) throws {
    guard let qemu = try Self.peer() else { return }
    let theirs = try Self.answers(qemu, options, commands)
    let ours = try Self.answers(Goliath.path, options, commands)
    for ((command, their), our) in zip(zip(commands, theirs), ours) {
      var (left, right) = (their.answer, our.answer)
      for exception in Self.exceptions {
        left = exception.align(command.name, left, false)
        right = exception.align(command.name, right, true)
      }
      if left != right {
        Issue.record(
          "\(command.name) \(command.arguments): \(Self.difference(left, right))",
          sourceLocation: location)
      }
      if !eventsAsAWhole {
        #expect(their.events == our.events, "\(command.name)", sourceLocation: location)
      }
    }
    #expect(theirs.flatMap(\.events) == ours.flatMap(\.events), sourceLocation: location)
  }

  /// QEMU's path; nil, after saying so, when it is not here or not 7.2.
  private static func peer() throws -> String? {
    guard let qemu = Process.find("qemu-system-x86_64"),
      try Process.output([qemu, "--version"]).text.contains("version 7.2.")
    else {
      print("skipped: QEMU 7.2 is not installed")
      return nil
    }
    return qemu
  }

  /// The first places that differ.
  private static func difference(_ left: JSONValue, _ right: JSONValue) -> String {
    guard let left = left.objectValue, let right = right.objectValue else {
      return "QEMU \(left.text.prefix(400)), ours \(right.text.prefix(400))"
    }
    var parts: [String] = []
    for key in Set(left.keys).union(right.keys).sorted() where left[key] != right[key] {
      guard let theirs = left[key], let ours = right[key] else {
        parts.append("\(key) is not in both")
        continue
      }
      parts.append("\(key): \(difference(theirs, ours))")
    }
    return parts.joined(separator: "; ")
  }

  private struct Answer { let answer: JSONValue, events: [String] }

  private static func answers(
    _ program: String, _ options: [String], _ commands: [(name: String, arguments: String)]
  ) throws -> [Answer] {
    let folder = Goliath.temporaryFolder()
    defer { _ = try? Process.output(["rm", "-rf", folder]) }
    let process = try Process(
      [program] + options + ["-display", "none", "-qmp", "unix:\(folder)/q,server=on,wait=off"])
    defer {
      process.kill(signal: SIGKILL)
      _ = process.wait(seconds: 5)
    }
    let client = try QMPClient(path: folder + "/q")
    var result: [Answer] = []
    for (name, arguments) in commands {
      try client.send("{\"execute\":\"\(name)\",\"arguments\":\(arguments)}")
      var events: [String] = []
      while true {
        let message = try client.receive()
        guard let event = message["event"] else {
          result.append(Answer(answer: message, events: events))
          break
        }
        events.append("\(event.text) \(message["data"]?.text ?? "")")
      }
    }
    return result
  }

  private func plain(_ names: String) -> [(name: String, arguments: String)] {
    names.split(separator: " ").map { (String($0), "{}") }
  }

  private static let queries = """
    query-status query-current-machine query-memory-size-summary query-acpi-ospm-status \
    query-stats-schemas query-mice x-query-irq x-query-numa x-query-ramblock x-query-roms \
    rtc-reset-reinjection query-hotpluggable-cpus query-migrate-capabilities query-kvm query-pci \
    query-name query-uuid query-target x-exit-preconfig
    """

  @Test func queriesOfAPC() throws {
    try compare(
      ["-machine", "pc", "-accel", "tcg", "-S", "-m", "64", "-nodefaults", "-name", "peer"],
      plain(Self.queries))
    try compare(
      [
        "-machine", "pc,acpi=off", "-accel", "tcg", "-S", "-m", "96", "-nodefaults", "-smp",
        "2,maxcpus=8,sockets=2,dies=2,cores=2", "-cpu", "Haswell",
      ], plain(Self.queries))
  }

  @Test func queriesOfNoMachine() throws {
    try compare(["-machine", "none", "-nodefaults"], plain(Self.queries))
  }

  @Test func statistics() throws {
    try compare(
      ["-machine", "pc", "-accel", "tcg", "-S", "-nodefaults"],
      [
        ("query-stats", #"{"target":"vm"}"#), ("query-stats", "{}"),
        ("query-stats", #"{"target":"vcpu","vcpus":["a"]}"#),
        ("query-stats", #"{"target":"vm","vcpus":["a"]}"#),
        ("query-stats", #"{"target":"vm","providers":[{"provider":"kvm","names":["x"]}]}"#),
        ("query-stats", #"{"target":"vm","providers":[{"provider":"xen"}]}"#),
        ("query-stats-schemas", #"{"provider":"kvm"}"#),
      ])
  }

  /// The kernel's counters of a guest that has not run. Needs a /dev/kvm that makes machines, whether or not they run well.
  @Test func statisticsOfKVM() throws {
    guard let kvm = try? FileDescriptor.open("/dev/kvm", O_RDWR) else {
      print("skipped: no /dev/kvm here")
      return
    }
    kvm.close()
    let options = ["-machine", "pc", "-S", "-nodefaults", "-smp", "2", "-accel"]
    let commands: [(name: String, arguments: String)] = [
      ("query-stats-schemas", "{}"), ("query-stats", #"{"target":"vm"}"#),
      (
        "query-stats",
        #"{"target":"vcpu","providers":[{"provider":"kvm","names":["exits","halt_wait_hist"]}]}"#
      ), ("query-stats", #"{"target":"vcpu","vcpus":["/no/such"]}"#),
      ("query-stats", #"{"target":"vm","providers":[{"provider":"kvm","names":[]}]}"#),
      ("query-stats", #"{"target":"vm","providers":[{"provider":"kvm","names":["x"]}]}"#),
      ("query-stats", #"{"target":"vm","providers":[]}"#), ("query-kvm", "{}"),
    ]
    guard let qemu = try Self.peer() else { return }
    let theirs = try Self.answers(qemu, options + ["kvm"], commands)
    let ours = try Self.answers(Goliath.path, options + ["kvm,probe=off"], commands)
    for ((command, their), our) in zip(zip(commands, theirs), ours) {
      var (left, right) = (their.answer, our.answer)
      for exception in Self.exceptions {
        left = exception.align(command.name, left, false)
        right = exception.align(command.name, right, true)
      }
      if left != right {
        Issue.record("\(command.name) \(command.arguments): \(Self.difference(left, right))")
      }
    }
    #expect(ours[0].answer["return"]?.arrayValue?.count == 2)
  }

  @Test func input() throws {
    let move = #"{"events":[{"type":"rel","data":{"axis":"x","value":3}}]}"#
    try compare(
      ["-machine", "pc", "-accel", "tcg", "-S", "-nodefaults"],
      [
        ("send-key", #"{"keys":[{"type":"qcode","data":"a"}]}"#), ("send-key", "{}"),
        ("send-key", #"{"keys":[{"type":"qcode","data":"zz"}]}"#),
        ("send-key", #"{"keys":[{"type":"number","data":3000}]}"#),
        ("input-send-event", #"{"events":[]}"#), ("input-send-event", move), ("cont", "{}"),
        ("input-send-event", move),
        ("input-send-event", #"{"events":[{"type":"abs","data":{"axis":"x","value":3}}]}"#),
        (
          "input-send-event",
          #"{"events":[{"type":"btn","data":{"button":"left","down":true}}]}"#
        ),
        (
          "input-send-event",
          #"{"events":[{"type":"key","data":{"down":true,"key":{"type":"qcode","data":"a"}}}]}"#
        ), ("input-send-event", #"{"device":"none","events":[]}"#),
      ])
  }

  @Test func beforeTheMachine() throws {
    let commands = """
      query-status query-hotpluggable-cpus query-name query-uuid query-kvm query-pci stop cont \
      system_reset no-such-command migrate-set-capabilities set-action x-exit-preconfig \
      x-exit-preconfig query-status query-hotpluggable-cpus
      """
    let options = ["-machine", "pc", "-accel", "tcg", "-nodefaults", "-preconfig", "-smp", "2"]
    try compare(options, plain(commands))
    try compare(options + ["-S"], plain(commands))
    try compare(options, plain("query-status quit"))
    // What was set before holds afterwards.
    try compare(
      options + ["-S", "-no-shutdown"],
      [
        ("set-action", #"{"reboot":"shutdown"}"#), ("x-exit-preconfig", "{}"),
        ("system_reset", "{}"), ("query-status", "{}"),
      ])
  }

  /// What the guest does, done here by writing its ports: panics, resets. Its processor halts.
  @Test(arguments: [
    [], ["-no-shutdown"], ["-action", "panic=pause"], ["-action", "panic=none"], ["-no-reboot"],
    ["-no-reboot", "-no-shutdown"], ["-S"],
  ])
  func lifeCycles(options: [String]) throws {
    let folder = Goliath.temporaryFolder()
    defer { _ = try? Process.output(["rm", "-rf", folder]) }
    var firmware = [UInt8](repeating: 0xF4, count: 65536)
    // cli; hlt; jmp to the hlt; at the reset vector a jump to F000:0000.
    firmware.replaceSubrange(0..<4, with: [0xFA, 0xF4, 0xEB, 0xFD])
    firmware.replaceSubrange(0xFFF0..<0xFFF5, with: [0xEA, 0, 0, 0, 0xF0])
    let image = try FileDescriptor.open(folder + "/halt", O_WRONLY | O_CREAT)
    _ = try image.write(firmware)
    func line(_ text: String) -> (name: String, arguments: String) {
      ("human-monitor-command", #"{"command-line":"\#(text)"}"#)
    }
    let panic = line("o /b 0x505 1")
    let reset = line("o /b 0xcf9 6")
    var steps: [(name: String, arguments: String)] = []
    let endsAtPanic =
      ![["-no-shutdown"], ["-no-reboot", "-no-shutdown"]]
      .contains(options) && options.first != "-action"
    if !endsAtPanic {
      // QEMU takes up a stopped machine's reset late; the steps between give it time.
      steps += [panic] + plain("query-status query-status stop cont query-status system_reset")
      steps += plain("query-status cont query-status")
    }
    if options == ["-no-reboot"] {
      steps += plain("query-status stop query-status cont stop stop cont cont")
    } else {
      steps += [reset] + plain("query-status query-status stop cont system_reset query-status")
      steps += plain("cont query-status system_powerdown system_wakeup inject-nmi quit")
    }
    try compare(
      [
        "-machine", "pc", "-accel", "tcg", "-nodefaults", "-bios", folder + "/halt", "-device",
        "pvpanic",
      ] + options, steps, eventsAsAWhole: true)
  }

  /// Names, order, aliases and flags are QEMU's; what cannot be had depends on the accelerator.
  @Test func modelsListed() throws {
    guard let qemu = try Self.peer() else { return }
    let options = ["-machine", "none", "-nodefaults", "-accel", "tcg"]
    let lists = try [qemu, Goliath.path].map { program in
      let answers = try Self.answers(program, options, plain("query-cpu-definitions"))
      return (answers[0].answer["return"]?.arrayValue ?? []).map { entry -> JSONValue in
        guard var object = entry.objectValue else { return entry }
        object["unavailable-features"] = nil
        return .object(object)
      }
    }
    #expect(lists[0].count == lists[1].count)
    for (left, right) in zip(lists[0], lists[1]) where left != right {
      Issue.record("\(Self.difference(left, right))")
    }
  }

  @Test func modelsWrittenOut() throws {
    var commands: [(name: String, arguments: String)] = []
    func add(_ type: String, _ name: String, _ props: String = "{}") {
      commands.append(
        (
          "query-cpu-model-expansion",
          #"{"type":"\#(type)","model":{"name":"\#(name)","props":\#(props)}}"#
        ))
    }
    for name in [
      "base", "qemu64-v1", "qemu32", "EPYC", "EPYC-Rome-v2", "Haswell-noTSX", "486", "n270",
      "Skylake-Server-v5", "Opteron_G5", "Dhyana", "Snowridge",
    ] {
      // The default under this accelerator is on here and off in QEMU, whose CPU lacks it.
      add("static", name, #"{"x2apic":false}"#)
      add("full", name, #"{"x2apic":false}"#)
    }
    add("full", "base", #"{"family":5,"avx2":true,"model-id":"x","xlevel":3,"level":3}"#)
    add("static", "base", #"{"sse4_1":true,"lm":true,"kvmclock":true,"vmx":true}"#)
    add("full", "base", #"{"hv-passthrough":true,"hv-vendor-id":"me"}"#)
    add("full", "base", #"{"host-phys-bits":true,"phys-bits":99,"check":false,"kvm":false}"#)
    add("static", "EPYC", #"{"svm":false,"sse4_1":false,"x2apic":false}"#)
    add("full", "no-such")
    add("full", "qemu64", #"{"no-such":true}"#)
    add("full", "qemu64", #"{"avx2":1}"#)
    add("full", "qemu64", #"{"family":"x"}"#)
    add("full", "qemu64", #"{"family":5000}"#)
    add("full", "qemu64", #"{"stepping":-5}"#)
    add("full", "qemu64", #"{"vendor":"x"}"#)
    add("half", "qemu64")
    try compare(["-machine", "none", "-nodefaults", "-accel", "tcg"], commands)
  }
}
