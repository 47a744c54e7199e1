import Block
import CPU
import Chardev
import Cluster
import DeviceModel
import Glibc
import Host
import Machine
import Monitor
import Net
import Options
import QAPI
import Security
import Shm

/// One running `goliath`: character devices, monitors, machine; started in this order so that a client is greeted before the
/// machine is made.
@MainLoop
final class Node {
  private let configuration: LaunchConfiguration
  private let daemon: Daemon?
  private let chardevs = ChardevRegistry()
  private let network = Network()
  private let blocks = BlockGraph { Log.line($0) }
  private let monitorContext: MonitorContext
  private var qmpMonitors: [QMPMonitor] = []
  private var humanMonitors: [HMPServer] = []
  private var machine: Machine?
  private var pidFile: PidFile?
  private var auditLogs: [String: AuditLog] = [:]
  private var failureTimer: HostTimer?
  /// The other nodes of the machine; nil when it is all here.
  private var cluster: ClusterNode?
  private var metrics: MetricsServer?
  /// Joining is under way.
  private var joining: JoinProgress?
  /// The process is to end with this status as soon as joining has ended.
  private var endsWith: Int32?

  /// Lives as long as the process.
  private static var running: Node?

  init(_ configuration: LaunchConfiguration, daemon: Daemon?) {
    self.configuration = configuration
    self.daemon = daemon
    monitorContext = MonitorContext(
      objects: ObjectRegistry(
        make: ObjectFactory(
          configuration.machine, cpus: configuration.smp.cpus,
          throttleGroups: blocks.throttleGroups, network: network
        ).make),
      blocks: blocks)
    let events = monitorContext.events
    blocks.onCorruption { [blocks] node, damage in
      let device = blocks.node(named: node).flatMap { blocks.backends(on: $0).first?.name }
      MainLoop.post {
        events.emit(
          .blockImageCorrupted(
            device: device ?? "", nodeName: node, msg: damage.message,
            offset: damage.offset.map { Int(clamping: $0) },
            size: damage.size.map { Int(clamping: $0) }, fatal: damage.isFatal))
      }
    }
  }

  /// Makes everything; ends the process with status 1 and one clear line when something cannot be made.
  func start() {
    Node.running = self
    do {
      try Signals.watch { [weak self] request in self?.terminate(request) }
      try addDescriptors()
      try writePidFile()
      try makeObjects(early: true)
      try makeChardevs()
      try makeNetworks()
      try makeMonitors()
      try makeMetrics()
      chardevs.whenConnected { [weak self] in self?.prepareMachine() }
    } catch {
      fail(error)
    }
  }

  /// `-object`: those that character devices may use before these, memory after them.
  private func makeObjects(early: Bool) throws(OptionError) {
    for object in configuration.objects where object.isEarly == early {
      do throws(QAPIError) { try monitorContext.objects.add(object.options) } catch {
        throw object.origin.failure(error.description)
      }
    }
  }

  /// The sets are there before anything is opened.
  private func addDescriptors() throws {
    let added = configuration.process.addedDescriptors
    for entry in added {
      do throws(SocketError) {
        let copy = try InheritedDescriptor.duplicate(entry.descriptor)
        DescriptorSets.shared.add(copy, to: entry.set, note: entry.note)
      } catch { throw entry.origin.failure(error.message) }
    }
    // One descriptor may be in several sets: closed when all have their copies.
    for number in Set(added.map(\.descriptor)) { FileDescriptor(owning: number).close() }
    DescriptorSets.shared.setMachineProbe {
      MainLoop.assumeIsolated { Node.running?.machine?.isRunning ?? false }
    }
  }

  private func makeChardevs() throws {
    chardevs.onTestExit = { [weak self] in self?.exit($0) }
    chardevs.descriptorNamed = { [monitorContext] in monitorContext.descriptors.take($0) }
    let objects = monitorContext.objects
    chardevs.credentialsNamed = { id throws(ChardevError) in
      do throws(QAPIError) { return try CredentialsObject.named(id, in: objects) } catch {
        throw ChardevError(.notFound, error.description)
      }
    }
    chardevs.isAuthorised = { id, name throws(TLSError) in
      do throws(QAPIError) {
        return try AuthorizationObjects.allows(name, by: id, in: objects)
      } catch { throw TLSError(error.description) }
    }
    chardevs.muxEscape = configuration.escapeCharacter
    chardevs.onNotice = { FileDescriptor.writeToStandardOutput($0 + "\n") }
    chardevs.onReport = { [configuration] label, text in
      let origin = configuration.chardevs.first { $0.label == label }?.origin
      Log.error((origin.map { "\($0.text): " } ?? "") + text)
    }
    chardevs.onMuxCommand = { [weak self] command in
      if command == .quit { self?.end(.hostUi) }
    }
    for chardev in configuration.chardevs {
      do throws(ChardevError) {
        try chardevs.create(chardev.label, chardev.backend)
      } catch {
        throw chardev.failure(error.message)
      }
    }
  }

  /// `-netdev`, `-nic`, `-net`.
  private func makeNetworks() throws(OptionError) {
    network.onEvent = { [monitorContext] in monitorContext.events.emit($0) }
    network.descriptorNamed = { [monitorContext] in monitorContext.descriptors.take($0) }
    network.openForward = { [chardevs] label, text throws(NetError) in
      try ForwardFrontend(label, text, in: chardevs)
    }
    for wanted in configuration.netdevs {
      do throws(NetError) {
        try network.launch(wanted.netdev, isAnonymous: wanted.isAnonymous, hub: wanted.hub)
      } catch {
        guard let cause = error.cause else { throw wanted.origin.failure(error.message) }
        throw wanted.origin.failure(cause).followed(by: error.message)
      }
    }
  }

  /// Before the machine: on a multiplexed device the serial port, which attaches later, gets the focus.
  private func makeMonitors() throws {
    HMPServer.serveHumanMonitorCommand(in: monitorContext)
    for monitor in configuration.monitors {
      guard let chardev = chardevs[monitor.chardev] else {
        throw monitor.origin.failure("chardev \"\(monitor.chardev)\" not found")
      }
      do throws(ChardevError) {
        switch monitor.mode {
        case .control:
          qmpMonitors.append(
            try QMPMonitor(
              on: chardev, isPretty: monitor.pretty, access: monitor.access,
              audit: try auditLog(monitor), context: monitorContext))
        case .readline:
          humanMonitors.append(
            try HMPServer(
              on: chardev, access: monitor.access, audit: try auditLog(monitor),
              context: monitorContext))
        }
      } catch {
        throw monitor.origin.failure(error.message)
      }
    }
  }

  /// `-metrics`.
  private func makeMetrics() throws(OptionError) {
    guard let wanted = configuration.metrics else { return }
    do throws(ChardevError) {
      metrics = try MetricsServer(wanted.address) { [monitorContext] in
        MachineMetrics.text(monitorContext)
      }
    } catch { throw wanted.origin.failure(error.message) }
  }

  /// Opens the accelerator, and makes the machine unless that has to wait for `x-exit-preconfig`.
  private func prepareMachine() {
    guard !configuration.drives.isEmpty || !configuration.blockdevs.isEmpty else {
      return prepareMachineWithDisks()
    }
    // Opening may take long; whoever has negotiated is answered meanwhile.
    Task { @MainLoop [configuration, blocks] in
      do {
        let opened = try await HostThread.value(name: "open") {
          Result { () throws(OptionError) in try DriveOpener.open(configuration, in: blocks) }
        }
        try opened.get()
        prepareMachineWithDisks()
      } catch {
        fail(error)
      }
    }
  }

  private func prepareMachineWithDisks() {
    do {
      let choice = try AcceleratorChoice(configuration)
      try makeObjects(early: false)
      guard configuration.waitsForPreconfig else { return makeMachine(choice) }
      monitorContext.prepare(
        MachinePreparation(
          configuration, chardevs: chardevs,
          makeMachine: { [weak self] in self?.makeMachine(choice) },
          quit: { [weak self] in self?.quitUnmade($0) }))
      daemon?.announceReady()
    } catch {
      fail(error)
    }
  }

  private func makeMachine(_ choice: AcceleratorChoice) {
    if let wanted = configuration.cluster { join(wanted, choice) } else { startMachine(choice) }
  }

  /// Joins the other nodes, while monitors are answered, and makes this one's part of the machine.
  private func join(_ wanted: ClusterConfiguration, _ choice: AcceleratorChoice) {
    let progress = JoinProgress()
    joining = progress
    monitorContext.join(
      MachinePreparation(
        configuration, chardevs: chardevs, makeMachine: {},
        quit: { [weak self] in self?.quitUnmade($0) }),
      status: { ClusterInfo(wanted, progress) })
    Task { @MainLoop [configuration, monitorContext] in
      var choice = choice
      do {
        let credentials = try ClusterNode.credentials(wanted, in: monitorContext.objects)
        let ram = configuration.memory.size
        let accelerator = choice.accelerator.name
        let capabilities = choice.capabilities
        let offer = CPUExchange.bytes(choice.offer)
        let link = try await HostThread.value(name: "join") {
          try ClusterNode.join(
            ClusterNode.Terms(
              configuration: wanted, ram: ram,
              // Files are read whole for this.
              items: try ClusterItems.of(
                configuration, accelerator: accelerator,
                firmwareFolders: BootFile.firmwareDirectories,
                usualFirmware: BootFile.defaultFirmware),
              offer: offer,
              agree: { offers throws(ClusterError) in
                try CPUExchange.agree(offers, configuration, capabilities)
              }, credentials: credentials, progress: progress))
        }
        joining = nil
        if let status = endsWith {
          try? await HostThread.value(name: "leave") { ClusterNode.discard(link) }
          return close(status)
        }
        guard let agreement = CPUExchange.agreement(link.joined.agreement) else {
          throw ClusterError(.refused, "node 0 does not say which CPU the guest has")
        }
        if let text = CPUAgreement.text(agreement.missing) {
          Log.warning("\(text); the guest does without")
        }
        choice.adopt(agreement)
        cluster = try ClusterNode(link, ram: ram, context: monitorContext)
        startMachine(choice)
      } catch {
        joining = nil
        if let status = endsWith { return close(status) }
        fail(error)
      }
    }
  }

  private func startMachine(_ choice: AcceleratorChoice) {
    do {
      let topology = CPUTopology(configuration.smp)
      let machine = try Machine(
        configuration, accelerator: choice.accelerator, cpuid: choice.cpuid,
        apicIDs: (0..<configuration.smp.cpus).map { APICID(topology.apicID(ofVCPU: $0)) },
        chardevs: chardevs, blocks: blocks, objects: monitorContext.objects, network: network,
        numa: cluster.flatMap { $0.numa(ramSize: configuration.memory.size) },
        seat: cluster?.seat, sharedMemory: cluster?.memory,
        onEvent: { [monitorContext] in monitorContext.events.emit($0) },
        onExit: { [weak self] status in self?.exit(status) })
      for warning in network.warnings { Log.warning(warning) }
      self.machine = machine
      monitorContext.start(machine, cpuCapabilities: choice.capabilities)
      if !configuration.waitsForPreconfig { daemon?.announceReady() }
      if let cluster {
        cluster.start(machine) { [weak self] result in self?.begin(result) }
      } else if !configuration.startPaused {
        try machine.resume()
      }
    } catch {
      fail(error)
    }
  }

  /// All nodes' machines are made, or one never will be.
  private func begin(_ result: Result<Void, any Error>) {
    do {
      try result.get()
      try machine?.takePart()
      if configuration.cluster?.node == .devices, !configuration.startPaused {
        try machine?.resume()
      }
    } catch {
      fail(error)
    }
  }

  // MARK: - The end

  private func terminate(_ request: TerminationRequest) {
    let path = HostThread.programPath(ofProcess: request.processID)
    Log.error(
      "terminating on signal \(request.signal) from pid \(request.processID) (\(path))")
    end(.hostSignal)
  }

  private func end(_ cause: ShutdownCause) {
    if let machine { machine.quit(cause) } else { quitUnmade(cause) }
  }

  /// Ends the process while there is no machine.
  private func quitUnmade(_ cause: ShutdownCause) {
    monitorContext.events.emit(.shutdown(guest: false, reason: cause))
    exit(0)
  }

  /// Later, so that the command which caused it is answered first.
  private func exit(_ status: Int32) {
    MainLoop.post { [self] in finish(status) }
  }

  private func finish(_ status: Int32) {
    if let joining {
      // Sockets and memory are taken back before the process ends.
      endsWith = status
      return joining.cancel("node \(configuration.cluster?.node.rawValue ?? 0) was told to end")
    }
    guard let cluster else { return close(status) }
    // Saying goodbye may take as long as a node takes to hear it.
    self.cluster = nil
    cluster.giveUp()
    Task { @MainLoop in
      try? await HostThread.value(name: "leave") { cluster.leave() }
      close(status)
    }
  }

  private func close(_ status: Int32) {
    machine?.tearDown()
    Machine.closeDisks(blocks)
    chardevs.shutDown()
    metrics?.close()
    network.shutDown()
    for log in auditLogs.values { log.drain() }
    pidFile?.remove()
    MainLoop.stop(status: status)
  }

  private func fail(_ error: any Error) {
    for line in FailureText.lines(error) { Log.line(line) }
    // At once: a human monitor on this terminal must not greet anybody any more.
    for monitor in configuration.monitors where monitor.mode == .readline {
      chardevs[monitor.chardev]?.shutDown()
    }
    let (origin, reason) = FailureText.parts(error)
    monitorContext.failStart(option: origin?.option, value: origin?.argument, reason: reason)
    if qmpMonitors.isEmpty { return finish(1) }
    awaitFailureIsKnown(until: HostClock.monotonic + Node.failureGrace)
  }

  /// So long (nanoseconds) the process stays for QMP clients to come, negotiate and read why it failed. Whoever starts it with a
  /// monitor connects within milliseconds.
  private static let failureGrace: Int64 = 250_000_000

  private func awaitFailureIsKnown(until deadline: Int64) {
    let everyoneCame = qmpMonitors.allSatisfy { !$0.isListening || $0.clientCount > 0 }
    let now = HostClock.monotonic
    if now >= deadline || (everyoneCame && monitorContext.isFailureKnown) {
      monitorContext.endFailedStart()
      return finish(1)
    }
    let timer = MainLoop.timers.makeTimer { [weak self] in
      MainLoop.assumeIsolated { self?.awaitFailureIsKnown(until: deadline) }
    }
    failureTimer = timer
    timer.arm(at: min(deadline, now + 5_000_000))
  }

  /// The log of a monitor; monitors with one file share it.
  private func auditLog(_ monitor: MonitorConfiguration) throws(ChardevError) -> AuditLog? {
    guard let path = monitor.auditFile else { return nil }
    if let log = auditLogs[path] { return log }
    do throws(SystemError) {
      let log = try AuditLog(path)
      auditLogs[path] = log
      return log
    } catch {
      throw ChardevError(.cannotOpen, "Could not open '\(path)': \(error.reason)")
    }
  }

  private func writePidFile() throws(OptionError) {
    guard let path = configuration.process.pidFile else { return }
    do {
      pidFile = try PidFile(path)
    } catch {
      throw OptionOrigin(option: "-pidfile", argument: path).failure(
        "cannot create PID file: \(error.message)")
    }
  }
}

/// What the user reads when the start fails.
enum FailureText {
  /// The option at fault, if one is, and the reason.
  static func parts(_ error: any Error) -> (origin: OptionOrigin?, reason: String) {
    switch error {
    case let error as OptionError: (error.origin, error.reason)
    case let error as MachineError: (error.origin, error.message)
    case let error as AcceleratorError: (nil, error.message)
    case let error as CPUModelError: (nil, error.message)
    case let error as RunControlError: (nil, error.message)
    case let error as ClusterError: (nil, error.message)
    case let error as SharedObjectError: (nil, error.text)
    case let error as QAPIError: (nil, error.description)
    default: (nil, "\(error)")
    }
  }

  static func lines(_ error: any Error) -> [String] {
    let program = Log.programName
    switch error {
    case let error as OptionError: return error.lines(program: program)
    case let error as MachineError:
      guard let origin = error.origin else { return ["\(program): \(error.message)"] }
      return origin.failure(error.message).lines(program: program)
    case let error as AcceleratorError: return ["\(program): \(error.message)"]
    case let error as CPUModelError: return ["\(program): \(error.message)"]
    case let error as RunControlError: return ["\(program): \(error.message)"]
    case let error as ClusterError: return ["\(program): \(error.message)"]
    case let error as SharedObjectError: return ["\(program): \(error.text)"]
    case let error as QAPIError: return ["\(program): \(error.description)"]
    default: return ["\(program): \(error)"]
    }
  }
}
