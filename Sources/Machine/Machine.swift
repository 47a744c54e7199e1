package import Block
package import CPU
package import Chardev
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
  let group = VCPUGroup()
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
  private let onEvent: @MainLoop (QAPI.Event) -> Void
  private let onExit: @MainLoop (Int32) -> Void

  /// Builds the machine, in `prelaunch`.
  ///
  /// `onEvent` gets what monitors must know, before the command that caused it is answered; `onExit` gets the status with
  /// which the process ends. Throws `MachineError`.
  package init(
    _ configuration: LaunchConfiguration, accelerator: any Accelerator, cpuid: CPUIDTable,
    apicIDs: [APICID], chardevs: ChardevRegistry, blocks: BlockGraph = BlockGraph(),
    objects: ObjectRegistry? = nil, network: Network? = nil,
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
    let objects =
      objects ?? ObjectRegistry(make: ObjectFactory(configuration.machine).make)
    self.objects = objects
    acceleratorName = accelerator.name
    control = RunControl(actions: configuration.actions)
    let isEmpty = configuration.machine.type == "none"
    let requests = RequestBox()
    let ram = try MemoryBackend.ofMachine(configuration, in: objects)
    let parts = MachineParts(
      configuration, apicIDs: isEmpty ? [] : apicIDs, ram: ram, blocks: blocks,
      requests: requests)
    drives = parts.drives
    memory = parts.context.memory
    ports = parts.context.ports
    deviceMemory = parts.context.deviceMemory
    clock = parts.clock
    fabric = parts.fabric
    board =
      isEmpty
      ? try EmptyBoard(configuration)
      : try PCBoard(
        parts, chardevs: chardevs, objects: objects, network: network)
    do {
      vm = try accelerator.makeVM(memory: memory, cpuid: cpuid)
      try makeVCPUs(parts)
    } catch let error as AcceleratorError {
      throw MachineError(error.message)
    } catch {
      throw MachineError("cannot start a vCPU thread: \(error)")
    }
    let group = group
    requests.connect { [weak self] request in
      // The guest must not run on past its own reset or power-off until the main loop gets to it.
      let holds = request.stopsTheGuest
      if holds { group.hold() }
      MainLoop.post { [weak self] in
        self?.handle(request)
        if holds { group.release() }
      }
    }
    connectHotplug()
    drives.events.connect { [weak self] error, backend in self?.diskFailed(error, backend) }
    try resetAll(.cold)
  }

  private func makeVCPUs(_ parts: MachineParts) throws {
    for (index, apicID) in parts.apicIDs.enumerated() {
      let id = VCPUID(UInt32(index))
      guard let apic = fabric.localAPIC(id) else { continue }
      let bus = VCPUBus(
        id: id, apic: apic, ports: ports, deviceMemory: deviceMemory, a20: parts.a20)
      let vcpu = try vm.makeVCPU(id: id, apicID: apicID, host: bus)
      bus.connect(vcpu)
      let name =
        configuration.name.debugThreads
        ? "CPU \(id)/\(acceleratorName.uppercased())" : "vcpu/\(id)"
      let thread = VCPUThread(
        name: name, vcpu: vcpu, apic: apic, signature: cpuid.signature,
        tscFrequency: vm.tscFrequency,
        isBoot: index == 0
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

  /// `stop`.
  package func stop() { perform(control.stop()) }

  /// `cont`. Throws when a reset must come first.
  package func resume() throws(RunControlError) { perform(try control.resume()) }

  /// `system_reset`.
  package func reset() { perform(control.reset(.hostQmpSystemReset)) }

  /// `system_powerdown`: presses the power button.
  package func powerDown() {
    Trace.write(.qemuSystemPowerdownRequest, "")
    onEvent(.powerdown)
    _ = board.pressPowerButton()
  }

  /// `system_wakeup`. Throws when the guest is not suspended.
  package func wakeUp() throws(RunControlError) {
    Trace.write(.systemWakeupRequest, "")
    perform(try control.wakeUp())
  }

  /// A disk failed, and its policy says that the machine stops.
  func stopOnDiskError() { perform(control.stopOnDiskError()) }

  /// `inject-nmi`: an edge on LINT1 of every local APIC.
  package func injectNMI() { fabric.pulseNMI() }

  /// Stops the guest while its state is being saved.
  func suspendForSaving() { perform(control.beginSaving()) }

  /// Lets the guest go on after `suspendForSaving`, if it ran before.
  func resumeAfterSaving() { perform(control.endSaving()) }

  /// Tells monitors.
  func emit(_ event: QAPI.Event) { onEvent(event) }

  /// Ends the process in good order: `quit` or a signal.
  package func quit(_ cause: ShutdownCause) {
    Trace.write(.qemuSystemShutdownRequest, "reason=\(cause.rawValue)")
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
    // The thread parked itself before it reported.
    thread(id)?.resume()
  }

  private func perform(_ effects: [RunControl.Effect]) {
    if state != tracedState {
      Trace.write(
        .runstateSet,
        "current_run_state \(tracedState.traced) new_state \(state.traced)")
      tracedState = state
    }
    for effect in effects {
      switch effect {
      case .pauseVCPUs: pauseVCPUs()
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
      case .exit(let status): onExit(status)
      }
    }
  }

  /// Virtual time and vCPUs stand and go together; both begin standing.
  private func pauseVCPUs() {
    guard clock.isRunning else { return }
    group.pause()
    clock.pause()
    // What devices have begun ends before anybody looks at the guest's memory.
    for backend in blocks.backends {
      backend.beginDrain()
      backend.endDrain()
    }
    Trace.write(.vmStateNotify, "running 0 reason \(state.traced)")
  }

  private func resumeVCPUs() {
    guard !clock.isRunning else { return }
    Trace.write(.vmStateNotify, "running 1 reason \(state.traced)")
    clock.resume()
    hasRun = true
    for backend in blocks.backends { backend.resume() }
    for thread in group.threads { thread.apic.timeStampCounterChanged() }
    group.release()
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
    return Int(id.rawValue) < threads.count ? threads[Int(id.rawValue)] : nil
  }
}

extension RunState {
  /// Number and name, as trace lines show them.
  fileprivate var traced: String {
    "\(RunState.allCases.firstIndex(of: self) ?? 0) (\(rawValue))"
  }
}
