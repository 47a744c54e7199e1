package import Block
package import CPU
package import Chardev
package import Cluster
package import DeviceModel
package import DistIRQ
package import Host
import JSON
package import Jobs
package import Net
package import Options
package import QAPI
package import Shm

/// A machine cannot be built or controlled as asked; `message` is the sentence for the user.
package struct MachineError: Error, Equatable, Sendable {
  package let message: String
  /// The option at fault, where one is.
  package let origin: OptionOrigin?

  package init(_ message: String, origin: OptionOrigin? = nil) {
    self.message = message
    self.origin = origin
  }
}

/// One guest: board, vCPUs, memory, run state. All control is on the main loop.
@MainLoop
package final class Machine {
  package let configuration: LaunchConfiguration
  /// RAM and ROM.
  package let memory: GuestMemory
  package let ports: AddressSpace
  package let deviceMemory: AddressSpace
  package let clock: VirtualClock
  /// Which accelerator runs the vCPUs: `kvm` or `tcg`.
  package let acceleratorName: String
  /// What CPUID answers on every vCPU.
  package let cpuid: CPUIDTable
  /// Which vCPUs are near which part of RAM, as the guest is told; nil when all are alike.
  package let numa: NUMATopology?
  /// Interrupt controllers, for inspection.
  package let fabric: InterruptFabric
  package let chardevs: ChardevRegistry
  /// Nodes of disks, and what devices hold of them.
  package let blocks: BlockGraph
  /// Network backends, hubs and cards.
  package let network: Network
  /// How drives come to devices.
  let drives: DriveProperty
  /// Long work that monitors watch.
  package let jobs: JobRegistry
  /// `dump-guest-memory`.
  package let dumps = DumpControl()

  let vm: any VirtualMachine
  /// What `query-status` says of `singlestep`, under any accelerator.
  var wantsSingleSteps: Bool
  let group: VCPUGroup
  let board: any Board
  /// The objects that the command line and monitors made.
  package let objects: ObjectRegistry
  /// `/machine` and what is below it, as far as somebody has asked for it.
  var rootNode: ObjectNode?
  var nodes: (generation: Int, list: [(path: String, node: ObjectNode)])?
  /// Whether vCPUs have executed anything since the last reset.
  var hasRun = false
  /// What `qom-set` wrote to properties of `/machine` that nothing reads any more.
  var changedProperties: [String: JSONValue] = [:]
  /// What the accelerator can give to CPU models, for the vCPUs' properties.
  package var cpuCapabilities: CPUCapabilities?
  private var control: RunControl
  /// The state that was told last to `runstate_set`.
  private var tracedState = RunState.prelaunch
  /// Disks come to rest before this is carried out; nil while nobody waits for them.
  private var delayed: [RunControl.Effect]?
  private var settled: [CheckedContinuation<Void, Never>] = []
  private let onEvent: @MainLoop (QAPI.Event) -> Void
  private let onExit: @MainLoop (Int32) -> Void
  /// The run of all nodes; nil for a machine on one node.
  private(set) var cluster: ClusterControl?
  /// RAM that goes from node to node by the page; nil for any other.
  package let coherent: CoherentMemory?
  /// Tells other nodes the memory map; on node 0 of several.
  let publisher: ChipsetPublisher?
  /// Makes other nodes' device accesses; on node 0 of several.
  let server: DeviceServer?
  /// Time-stamp counter and virtual time when the vCPUs last stood; nil where the accelerator does not know the counter.
  private var stood: (counter: UInt64, time: Int64)?
  /// The process is about to end.
  private(set) var isEnding = false

  /// Builds the machine, in `prelaunch`.
  ///
  /// `onEvent` gets what monitors must know, before the command that caused it is answered; `onExit` gets the status with
  /// which the process ends. `seat` and `sharedMemory` are the place in the cluster and the RAM of a machine on several nodes; when all
  /// of these are made, `takePart` follows. Throws `MachineError`.
  package init(
    _ configuration: LaunchConfiguration, accelerator: any Accelerator, cpuid: CPUIDTable,
    apicIDs: [APICID], chardevs: ChardevRegistry, blocks: BlockGraph = BlockGraph(),
    objects: ObjectRegistry? = nil, network: Network? = nil, numa: NUMATopology? = nil,
    seat: ClusterSeat? = nil, sharedMemory: NodeMemory? = nil,
    onEvent: @escaping @MainLoop (QAPI.Event) -> Void,
    onExit: @escaping @MainLoop (Int32) -> Void
  ) throws(MachineError) {
    self.configuration = configuration
    wantsSingleSteps = configuration.singleStep
    self.onEvent = onEvent
    self.onExit = onExit
    self.chardevs = chardevs
    self.blocks = blocks
    let network = network ?? Network()
    self.network = network
    network.onEvent = onEvent
    jobs = JobRegistry(onEvent: onEvent)
    self.cpuid = cpuid
    self.numa = numa
    let objects =
      objects ?? ObjectRegistry(make: ObjectFactory(configuration.machine).make)
    self.objects = objects
    acceleratorName = accelerator.name
    control = RunControl(actions: configuration.actions)
    let isEmpty = configuration.machine.type == "none"
    let requests = RequestBox()
    let ram = try MemoryBackend.ofMachine(configuration, in: objects, shared: sharedMemory?.block)
    let parts = MachineParts(
      configuration, apicIDs: isEmpty ? [] : apicIDs, ram: ram, blocks: blocks,
      requests: requests, numa: numa, seat: seat)
    drives = parts.drives
    memory = parts.context.memory
    memory.engines = sharedMemory?.engines
    ports = parts.context.ports
    deviceMemory = parts.context.deviceMemory
    clock = parts.clock
    fabric = parts.fabric
    var remote: (ports: RemoteDevice, memory: RemoteDevice)?
    if isEmpty {
      board = try EmptyBoard(configuration)
    } else if let seat, !seat.isFirst {
      remote = RemoteDevice.map(seat, in: parts.context)
      board = RemoteBoard()
    } else {
      board = try PCBoard(parts, chardevs: chardevs, objects: objects, network: network)
    }
    coherent =
      if let seat, let sharedMemory {
        try sharedMemory.makeCoherent(
          parts.context.memory,
          PCMemoryMap(
            ramSize: configuration.memory.size,
            limit: configuration.machine.maximumRAMBelow4GiB), seat,
          numa?.nodes.map { UInt64($0.ram.count) },
          opensEarlyPages: accelerator.name == "kvm")
      } else {
        nil
      }
    group = VCPUGroup(coherent)
    publisher = seat.flatMap { seat in
      seat.isFirst
        ? ChipsetPublisher(
          seat, memory: parts.context.memory, deviceMemory: parts.context.deviceMemory, ram: ram,
          a20: parts.a20) : nil
    }
    server = publisher.flatMap { publisher in
      seat.map { DeviceServer($0, parts.context, publisher) }
    }
    do {
      vm =
        if let coherent, let seat {
          try accelerator.makeVM(
            memory: memory, cpuid: cpuid, coherent: coherent, vcpus: seat.vcpus(of: seat.node).count
          )
        } else {
          try accelerator.makeVM(memory: memory, cpuid: cpuid)
        }
      try makeVCPUs(parts, remotePorts: remote?.ports)
    } catch let error as AcceleratorError {
      throw MachineError(error.message)
    } catch {
      throw MachineError("cannot start a vCPU thread: \(error)")
    }
    let group = group
    let server = server
    requests.connect { [weak self] request in
      // The guest must not run on past its own reset or power-off until the main loop gets to it.
      let holds = request.stopsTheGuest
      if holds { group.hold() }
      let elsewhere = holds ? server?.noteHold() : nil
      MainLoop.post { [weak self] in
        self?.handle(request)
        guard holds else { return }
        guard let cluster = self?.cluster else { return group.release() }
        cluster.afterwards { _ in
          group.release()
          if let elsewhere { cluster.endHold(elsewhere.hold, of: elsewhere.node) }
        }
      }
    }
    connectHotplug()
    drives.events.connect { [weak self] error, backend in self?.diskFailed(error, backend) }
    if let seat { join(seat, parts, ram, remote?.memory) } else { try resetAll(.cold) }
  }

  /// Takes part in the cluster from now on.
  private func join(
    _ seat: ClusterSeat, _ parts: MachineParts, _ ram: RAMBlock?, _ remote: RemoteDevice?
  ) {
    let cluster = ClusterControl(seat, self)
    self.cluster = cluster
    let group = group
    publisher?.begin()
    seat.attach(
      ClusterSeat.Receivers(
        fabric: fabric, server: server, publisher: publisher,
        follower: seat.isFirst
          ? nil
          : ChipsetFollower(
            seat, memory: parts.context.memory, ram: ram, a20: parts.a20, device: remote),
        coherent: coherent,
        hold: { isOn in if isOn { group.hold() } else { group.release() } },
        // The machine, not its part: that may outlive the machine by a moment.
        signal: { [weak self] signal, node, bytes in
          self?.cluster?.received(signal, from: node, bytes)
        },
        lost: { [weak self] node, reason in self?.cluster?.lost(node, reason) }))
  }

  /// All nodes have made their machines: this one can be run together with the others.
  /// On node 0, what the guest begins with is put into memory, which may be anywhere by now. Throws `MachineError`.
  package func takePart() throws(MachineError) {
    guard let cluster else { return }
    try resetAll(.cold)
    if cluster.isFirst {
      cluster.begin()
    } else {
      cluster.seat.send(ClusterSignal(.ready), to: .devices)
    }
  }

  private func makeVCPUs(_ parts: MachineParts, remotePorts: RemoteDevice?) throws {
    for (index, apicID) in parts.apicIDs.enumerated() {
      let id = VCPUID(UInt32(index))
      guard let apic = fabric.localAPIC(id) else { continue }
      let bus = VCPUBus(
        id: id, apic: apic, ports: ports, deviceMemory: deviceMemory, a20: parts.a20,
        publisher: publisher, remotePorts: remotePorts)
      let vcpu = try vm.makeVCPU(id: id, apicID: apicID, host: bus)
      bus.connect(vcpu)
      let name =
        configuration.name.debugThreads
        ? "CPU \(id)/\(acceleratorName.uppercased())" : "vcpu/\(id)"
      let thread = VCPUThread(
        name: name, vcpu: vcpu, apic: apic, signature: cpuid.signature,
        tscFrequency: vm.tscFrequency,
        isBoot: index == 0,
        takesShortTurns: publisher != nil || remotePorts != nil
      ) { [weak self] id, exit in
        MainLoop.post { [weak self] in self?.handle(exit, of: id) }
      }
      group.append(thread)
      try thread.start()
    }
  }

  // MARK: - Run state

  /// The run state, as `query-status` reports it.
  package var state: RunState { control.state }
  /// Whether vCPUs execute.
  package var isRunning: Bool { control.isRunning }
  /// What reboot, shutdown, panic and watchdog lead to.
  package var actions: ActionConfiguration {
    get { control.actions }
    set { control.actions = newValue }
  }

  /// Node 0, for a machine that it decides about; nil here, and alone.
  private var decider: ClusterControl? { cluster.flatMap { $0.isFirst ? nil : $0 } }

  /// `stop`. Disks that are busy end what they do afterwards: see `settle`.
  package func stop() {
    if let decider { return decider.request(.askStop) }
    perform(from: state, control.stop())
  }

  /// `cont`. Throws when a reset must come first, or a node is lost.
  package func resume() throws(RunControlError) {
    if let reason = cluster?.seat.frozenReason {
      throw RunControlError(message: "The cluster is frozen: \(reason)")
    }
    if let decider {
      // The state is node 0's; what it forbids, it forbids here.
      var copy = control
      _ = try copy.resume()
      return decider.request(.askContinue)
    }
    perform(from: state, try control.resume())
  }

  /// `system_reset`.
  package func reset() {
    if let decider { return decider.request(.askReset) }
    perform(from: state, control.reset(.hostQmpSystemReset))
  }

  /// `system_powerdown`: presses the power button.
  package func powerDown() {
    if let decider { return decider.ask(ClusterSignal(.askPowerDown)) }
    Trace.write(.qemuSystemPowerdownRequest, "")
    onEvent(.powerdown)
    _ = board.pressPowerButton()
  }

  /// `system_wakeup`. Throws when the guest is not suspended.
  package func wakeUp() throws(RunControlError) {
    Trace.write(.systemWakeupRequest, "")
    if let decider {
      var copy = control
      _ = try copy.wakeUp()
      return decider.request(.askWakeUp)
    }
    perform(from: state, try control.wakeUp())
  }

  /// A disk failed, and its policy says that the machine stops.
  func stopOnDiskError() { perform(control.stopOnDiskError()) }

  /// `inject-nmi`: an edge on LINT1 of every local APIC.
  package func injectNMI() { fabric.pulseNMI() }

  /// What the cluster knows, for monitors; nil for a machine on one node.
  package var seat: ClusterSeat? { cluster?.seat }

  /// Stops the guest while its state is being saved.
  func suspendForSaving() { perform(control.beginSaving()) }

  /// Lets the guest go on after `suspendForSaving`, if it ran before.
  func resumeAfterSaving() { perform(control.endSaving()) }

  /// Tells monitors.
  func emit(_ event: QAPI.Event) { onEvent(event) }

  /// Ends the process in good order: `quit` or a signal.
  package func quit(_ cause: ShutdownCause) {
    Trace.write(.qemuSystemShutdownRequest, "reason=\(cause.rawValue)")
    if let decider, !decider.isAlone {
      let number = ShutdownCause.allCases.firstIndex(of: cause) ?? 0
      return decider.ask(
        ClusterSignal(.askQuit, number: UInt32(truncatingIfNeeded: number)))
    }
    perform(control.shutDown(cause))
  }

  private func handle(_ request: MachineRequest) {
    switch request {
    case .reset: perform(control.reset(.guestReset))
    case .shutdown: quit(.guestShutdown)
    case .suspend: perform(control.suspend())
    case .panicked(crashLoaded: true): onEvent(.guestCrashloaded(action: .run))
    case .panicked(crashLoaded: false): perform(control.panic())
    case .rtcChanged(let offset, let path):
      onEvent(.rtcChange(offset: Int(offset), qomPath: path))
    case .balloonChanged(let actual): onEvent(.balloonChange(actual: Int(clamping: actual)))
    case .trayMoved(let drive, let path, let isOpen):
      onEvent(.deviceTrayMoved(device: drive, id: path, trayOpen: isOpen))
    case .watchdogExpired:
      Trace.write(.watchdogPerformAction, "action=\(actions.watchdog.rawValue)")
      if actions.watchdog == .debug { Log.line("watchdog: timer fired") }
      perform(control.watchdogExpired())
    case .exit(let status): perform([.pauseVCPUs, .exit(status)])
    }
  }

  private func handle(_ exit: VMExit, of id: VCPUID) {
    if let decider, decider.report(exit, of: id.rawValue) { return }
    act(on: exit, ofVCPU: id.rawValue)
    // The thread parked itself before it reported.
    let resume: @MainLoop () -> Void = { [weak self] in self?.thread(id)?.resume() }
    if let cluster { cluster.afterwards { _ in resume() } } else { resume() }
  }

  /// What a vCPU of any node has stopped for.
  func act(on exit: VMExit, ofVCPU id: UInt32) {
    switch exit {
    case .shutdown:
      Log.write([.guestErrors, .cpuReset], "CPU \(id): triple fault")
      perform(control.reset(.guestReset))
    case .debug: perform(control.debugStop())
    case .failure(let reason):
      Log.error("vCPU \(id) stopped: \(reason)")
      perform(control.fail())
    case .halt, .interrupted, .interruptWindow: break
    }
  }

  /// Another node has decided that the machine is in this state.
  func follow(_ state: RunState) {
    control.follow(state)
    traceState()
  }

  /// Stops for good, without the other nodes: one of them is lost.
  func freeze() {
    let effects = control.stop()
    traceState()
    for effect in effects { perform(effect) }
  }

  private func traceState() {
    if state != tracedState {
      Trace.write(
        .runstateSet,
        "current_run_state \(tracedState.traced) new_state \(state.traced)")
      tracedState = state
    }
  }

  /// `before`: the state that a monitor's wish changes, and that is again where the nodes do not agree in time. First of the arguments, so that
  /// it is looked at first.
  private func perform(from before: RunState? = nil, _ effects: [RunControl.Effect]) {
    traceState()
    if let cluster { return cluster.perform(effects, from: before) }
    if delayed != nil {
      delayed?.append(contentsOf: effects)
    } else {
      carryOut(effects[...])
    }
  }

  private func carryOut(_ effects: ArraySlice<RunControl.Effect>) {
    var rest = effects
    while let effect = rest.popFirst() {
      if effect == .pauseVCPUs {
        if pauseVCPUs() { return settleDisks(then: rest) }
      } else {
        perform(effect)
      }
    }
  }

  /// Does one thing, on this node.
  func perform(_ effect: RunControl.Effect) {
    switch effect {
    case .pauseVCPUs:
      // The steps of several nodes go on when this returns.
      if pauseVCPUs() { for backend in blocks.backends { backend.settle(flushing: false) } }
    case .resumeVCPUs: resumeVCPUs()
    case .resetMachine, .wakeMachine:
      do {
        group.pause()
        if effect == .wakeMachine { try wakeAll() } else { try resetAll(.warm) }
        group.release()
      } catch {
        group.release()
        Log.error("reset failed: \(error.message)")
        onExit(1)
      }
    case .emit(let event): onEvent(event)
    case .pressPowerButton: powerDown()
    case .injectNMI: injectNMI()
    case .exit(let status):
      isEnding = true
      onExit(status)
    }
  }

  /// Virtual time and vCPUs stand and go together; both begin standing. True when disks have something to do first: requests that are under
  /// way, which end before anybody looks at the guest's memory, and what a machine that stays as it is has only in caches.
  private func pauseVCPUs() -> Bool {
    guard clock.isRunning else { return false }
    group.pause()
    clock.pause()
    // In this order: the counter may have seen more than the clock, never less.
    let time = clock.now
    stood = vm.counter.map { ($0, time) }
    Trace.write(.vmStateNotify, "running 0 reason \(state.traced)")
    return blocks.backends.contains {
      $0.inFlight > 0 || !isRunning && $0.isInserted && !$0.isReadOnly
    }
  }

  /// Goes on with `rest` when disks are at rest; the main loop serves everybody else meanwhile.
  private func settleDisks(then rest: ArraySlice<RunControl.Effect>) {
    delayed = Array(rest)
    let flushes = !isRunning
    WorkerPool.shared.submit { [blocks, weak self] in
      for backend in blocks.backends { backend.settle(flushing: flushes) }
      MainLoop.post { [weak self] in self?.disksHaveSettled() }
    }
  }

  private func disksHaveSettled() {
    let rest = delayed ?? []
    delayed = nil
    carryOut(rest[...])
    // Another stop may have been asked for meanwhile.
    guard delayed == nil else { return }
    let waiting = settled
    settled = []
    for continuation in waiting { continuation.resume() }
  }

  /// Returns when what was asked of the machine has been done: after a stop, when disks are at rest and, on several nodes, all stand. Answers
  /// why it was not, because another node did not take part.
  @discardableResult
  package func settle() async -> String? {
    if let cluster, let reason = await cluster.settle() { return reason }
    guard delayed != nil else { return nil }
    await withCheckedContinuation { settled.append($0) }
    return nil
  }

  /// How long other nodes may take to prepare for what a monitor asks, before it is given up; 10 unless set.
  package func setOperationLimit(seconds: Double) { cluster?.setLimit(seconds: seconds) }

  /// On several nodes, virtual time was zero at the host time `origin`.
  func resumeVCPUs(origin: Int64? = nil) {
    guard !clock.isRunning else { return }
    Trace.write(.vmStateNotify, "running 1 reason \(state.traced)")
    continueCounter()
    clock.resume(origin: origin)
    vm.setClock { clock.now }
    hasRun = true
    for backend in blocks.backends { backend.resume() }
    for thread in group.threads { thread.apic.timeStampCounterChanged() }
    group.release()
  }

  /// The guest's time-stamp counter goes on from where it stood, as virtual time does. Other nodes get node 0's.
  private func continueCounter() {
    guard cluster?.isFirst ?? true, let stood, let own = vm.counter, let offset = vm.counterOffset
    else { return }
    self.stood = nil
    // Another node may have stood later. Nodes know each other's time up to some microseconds; a counter must not go back on any of them.
    let margin: Int64 = cluster == nil ? 0 : 20_000
    let second: UInt64 = 1_000_000_000
    let passed = min(UInt64(max(clock.now &- stood.time, 0)), 3600 * second) &+ UInt64(margin)
    let ticks = second.dividingFullWidth(
      passed.multipliedFullWidth(by: min(vm.tscFrequency, 100 * second))
    ).quotient
    vm.counterOffset = offset &+ (stood.counter &+ ticks &- own)
  }

  /// ACPI S3 ends: devices and vCPUs lost their state, memory did not.
  private func wakeAll() throws(MachineError) {
    board.prepareWake()
    try resetDevices(.warm)
    try board.finishWake(group.threads)
  }

  private func resetAll(_ kind: ResetKind) throws(MachineError) {
    completePendingRemovals()
    hasRun = false
    try resetDevices(kind)
    try board.prepareStart(group.threads)
  }

  private func resetDevices(_ kind: ResetKind) throws(MachineError) {
    for placed in board.devices { placed.device.reset(kind) }
    fabric.reset()
    for thread in group.threads {
      do {
        try thread.reset()
      } catch {
        throw MachineError(error.message)
      }
    }
  }

  /// Ends all vCPU threads; the machine is of no use after that.
  package func tearDown() {
    abandonDump()
    group.pause()
    for thread in group.threads { thread.end() }
  }

  func thread(_ id: VCPUID) -> VCPUThread? {
    let threads = group.threads
    // On one node the list has them all, in order.
    let index = Int(id.rawValue)
    if index < threads.count, threads[index].vcpu.id == id { return threads[index] }
    return threads.first { $0.vcpu.id == id }
  }
}

extension RunState {
  /// Number and name, as trace lines show them.
  fileprivate var traced: String {
    "\(RunState.allCases.firstIndex(of: self) ?? 0) (\(rawValue))"
  }
}
