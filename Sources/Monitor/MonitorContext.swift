package import Block
package import CPU
package import Chardev
package import DeviceModel
package import Host
package import Machine
package import Options
package import QAPI

/// A machine that is not made yet: what `-preconfig` shows, and how to go on.
@MainLoop
package struct MachinePreparation {
  let configuration: LaunchConfiguration
  let chardevs: ChardevRegistry
  /// As the options and `set-action` left them.
  var actions: ActionConfiguration
  let makeMachine: @MainLoop () -> Void
  let quit: @MainLoop (ShutdownCause) -> Void

  /// `makeMachine` ends in `MonitorContext.start`, or ends the process; `quit` ends the process in good order.
  package init(
    _ configuration: LaunchConfiguration, chardevs: ChardevRegistry,
    makeMachine: @escaping @MainLoop () -> Void, quit: @escaping @MainLoop (ShutdownCause) -> Void
  ) {
    self.configuration = configuration
    self.chardevs = chardevs
    actions = configuration.actions
    self.makeMachine = makeMachine
    self.quit = quit
  }
}

/// What the monitors of one process share: the machine, its events, and whose turn it is.
///
/// Monitors attach before the machine exists, so that clients are greeted early and the serial ports of
/// a multiplexed device get the focus; commands wait until `start`.
@MainLoop
package final class MonitorContext {
  /// Runs one line of the human monitor for `human-monitor-command`: line, CPU index and what the client may do in, what it
  /// prints out, lines ending in CR LF.
  package typealias HumanMonitor = @MainLoop (String, Int?, MonitorAccess) async -> String

  /// Where the machine's events go.
  package let events = EventBroadcaster()
  /// The human monitor behind `human-monitor-command`; the line is refused while there is none.
  package var humanMonitor: HumanMonitor?

  /// File descriptors that clients gave with `getfd`.
  package let descriptors = DescriptorTable()

  /// The other nodes of the machine; nil when it is all here.
  package internal(set) var cluster: ClusterMonitors?

  /// Whether clients asked for events about migration (`migrate-set-capabilities`).
  var sendsMigrationEvents = false

  /// What the human monitors remember together.
  let humanMonitorDefaults = HMPDefaults()

  let dispatcher = QMPDispatcher()
  /// The commands that have to wait for something.
  let inFlight = CommandsInFlight()
  private var lastClientNumber = 0
  /// Why there will be no machine.
  private var failure: Event?
  /// Keyboard and mouse input on its way to the guest.
  let input = InputQueue()
  /// The machine as it is known before it is made (`-preconfig`).
  private(set) var preparation: MachinePreparation?
  /// What the cluster looks like while the nodes of the machine are joining, which is before it is made.
  private(set) var joining: (@MainLoop () -> ClusterInfo)?
  private var started: (machine: Machine, cpuCapabilities: CPUCapabilities)?
  private var waiters: [@MainLoop () -> Void] = []
  private var readers: [@MainLoop () -> Void] = []

  /// The objects that users make.
  package let objects: ObjectRegistry
  /// Disks and what is below them.
  package let blocks: BlockGraph
  /// Drives of `drive_add`.
  var addedDrives: [DriveConfiguration] = []
  /// Those that change disks take turns.
  let blockGate = AsyncGate()
  private var tree: ObjectTree?

  /// A context without a machine; without `objects` or `blocks` its own, empty ones.
  package init(objects: ObjectRegistry? = nil, blocks: BlockGraph? = nil) {
    let graph = blocks ?? BlockGraph()
    self.blocks = graph
    let factory = ObjectFactory(
      MachineConfiguration(type: "none"), throttleGroups: graph.throttleGroups)
    self.objects = objects ?? ObjectRegistry(make: factory.make)
  }

  /// The tree of all objects, as far as they exist.
  package var objectTree: ObjectTree {
    if let tree { return tree }
    let tree = ObjectTree(
      root: .container { [unowned self] in
        var children: ObjectNode.Children = [("objects", objects.node)]
        if let machine = started?.machine { children.append(("machine", machine.objectNode)) }
        if let chardevs = try? chardevs { children.append(("chardevs", chardevs.objectNode)) }
        return children
      })
    self.tree = tree
    return tree
  }

  /// Lets commands run that do not need the machine, until `start` (`-preconfig`).
  package func prepare(_ preparation: MachinePreparation) {
    self.preparation = preparation
    for waiter in exchangeReaders() { waiter() }
    dispatcher.start()
  }

  /// The nodes of the machine are joining until `start`: commands run that do not need the machine, others wait. `status` is what
  /// `query-cluster` tells meanwhile.
  package func join(
    _ preparation: MachinePreparation, status: @escaping @MainLoop () -> ClusterInfo
  ) {
    var preparation = preparation
    // What was changed with `-preconfig` holds.
    if let earlier = self.preparation { preparation.actions = earlier.actions }
    joining = status
    prepare(preparation)
  }

  /// Whether a command of this kind has to wait until the nodes have joined.
  func waits(_ command: Command) -> Bool { joining != nil && !command.allowsPreconfig }

  /// Makes the machine that was prepared. Throws when that was done.
  func exitPreconfig() throws(QAPIError) {
    guard let preparation, joining == nil else {
      throw QAPIError("The command is permitted only before machine initialization")
    }
    preparation.makeMachine()
  }

  /// What the command line asks for. Throws before the machine is prepared.
  package var configuration: LaunchConfiguration {
    get throws(QAPIError) {
      if let preparation { return preparation.configuration }
      return try machine.configuration
    }
  }

  /// The character devices. Throws before the machine is prepared.
  package var chardevs: ChardevRegistry {
    get throws(QAPIError) {
      if let preparation { return preparation.chardevs }
      return try machine.chardevs
    }
  }

  /// Changes what reboot, shutdown, panic and watchdog lead to. Throws before the machine is prepared.
  func changeActions(_ change: (inout ActionConfiguration) -> Void) throws(QAPIError) {
    if var preparation {
      change(&preparation.actions)
      self.preparation = preparation
    } else {
      let machine = try machine
      change(&machine.actions)
    }
  }

  /// Throws QEMU's sentence for a command that needs the machine while there is none yet.
  func checkAvailable(_ command: Command) throws(QAPIError) {
    if preparation != nil, !command.allowsPreconfig {
      if joining != nil {
        throw QAPIError(
          "The command '\(command.rawValue)' is permitted only after all nodes have joined")
      }
      throw QAPIError(
        "The command '\(command.rawValue)' is permitted only after machine initialization"
          + " has completed")
    }
  }

  /// Gives the machine to the monitors, and with it what its accelerator can give to CPU models.
  /// Commands that wait run now.
  package func start(_ machine: Machine, cpuCapabilities: CPUCapabilities) {
    machine.cpuCapabilities = cpuCapabilities
    if let preparation { machine.actions = preparation.actions }
    preparation = nil
    joining = nil
    started = (machine, cpuCapabilities)
    let ready = waiters + exchangeReaders()
    waiters = []
    for waiter in ready { waiter() }
    dispatcher.start()
  }

  /// Runs `body` when commands can run, with or without a machine: at once when they can already.
  func whenReady(_ body: @escaping @MainLoop () -> Void) {
    if started == nil, preparation == nil { readers.append(body) } else { body() }
  }

  private func exchangeReaders() -> [@MainLoop () -> Void] {
    let ready = readers
    readers = []
    return ready
  }

  func nextClientNumber() -> Int {
    lastClientNumber += 1
    return lastClientNumber
  }

  /// Tells the QMP clients that there will be no machine, and why: those that have negotiated at once, others as soon as they
  /// do. `option` and `value` are those at fault, if any.
  package func failStart(option: String?, value: String?, reason: String) {
    let event = Event.xStartFailed(option: option, value: value, reason: reason)
    failure = event
    joining = nil
    preparation = nil
    events.emit(event)
    dispatcher.start()
  }

  /// Tells those clients too that have not negotiated, since the end has come.
  package func endFailedStart() {
    guard let failure else { return }
    let message = EventMessage(events.timed(failure))
    for connection in dispatcher.clients where !connection.isNegotiated {
      connection.send(message, always: true)
    }
  }

  /// Whether every QMP client has heard that the start failed.
  package var isFailureKnown: Bool { dispatcher.clients.allSatisfy(\.isNegotiated) }

  /// A client has negotiated: tells it what it should know.
  func greet(_ connection: QMPConnection) {
    if let failure { connection.send(EventMessage(events.timed(failure))) }
  }

  /// Runs `body` when there is a machine: at once when there is one already.
  package func whenStarted(_ body: @escaping @MainLoop () -> Void) {
    if started == nil { waiters.append(body) } else { body() }
  }

  /// The machine that the commands act on. Throws while there is none.
  package var machine: Machine {
    get throws(QAPIError) {
      guard let started else { throw QAPIError("The machine is not initialized yet") }
      return started.machine
    }
  }

  /// What the accelerator can give to CPU models. Throws while there is no machine.
  var cpuCapabilities: CPUCapabilities {
    get throws(QAPIError) {
      guard let started else { throw QAPIError("The machine is not initialized yet") }
      return started.cpuCapabilities
    }
  }
}
