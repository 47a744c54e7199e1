// Where interrupts go: lines, messages and IPIs in, the right local APICs out, here or on another node.
// Lock order: IOAPIC or PIC → one local APIC → (no lock) kick. Never two local APICs, never IOAPIC and PIC at once.

package import DeviceModel
import Synchronization

/// Another node, as far as interrupts are concerned. Calls may come with the IOAPIC's lock or a device's held and must only
/// queue: but for those that say so they never wait for the node.
package protocol RemoteDestination: AnyObject, Sendable {
  /// Delivers `message` to these vCPUs of the node; destination and shorthand have been resolved.
  func deliver(_ message: InterruptMessage, to vcpus: VCPUSet)
  /// The same for INIT and start-up that a vCPU sends, on its thread, no lock held: returns when the node's local APICs have them, so
  /// that whoever learns of it afterwards can rely on it.
  func deliverAndWait(_ message: InterruptMessage, to vcpus: VCPUSet)
  /// Waits while too much is queued for the node. On a vCPU's thread, no lock held.
  func waitForRoom()
  /// Raises the NMI wire (LINT1) of the node's vCPUs.
  func pulseNMI()
  /// Tells the node that holds the I/O APIC about the end of a level-triggered interrupt.
  func endOfInterrupt(vector: UInt8)
  /// Carries the level of the PIC's output to LINT0 of the boot processor, which that node runs.
  func setLINT0(_ level: Bool)
  /// An interrupt acknowledge cycle at the node that holds the PIC; nil when the request is gone. Unlike the others it waits for the node:
  /// called on the boot processor's thread, no lock held.
  func acknowledgePIC() -> UInt8?
}

extension RemoteDestination {
  /// For those where `deliver` has delivered when it returns.
  package func deliverAndWait(_ message: InterruptMessage, to vcpus: VCPUSet) {
    deliver(message, to: vcpus)
  }
  package func waitForRoom() {}
}

/// Routes interrupts of one machine, as one node sees it. All methods: any thread, no lock of this module held.
package final class InterruptFabric: Sendable {
  /// Where a vCPU runs.
  package enum Placement: Sendable {
    /// On this node.
    case local
    /// On a node that is reached through this.
    case remote(any RemoteDestination)
  }

  /// One vCPU, present from the beginning.
  package struct Processor: Sendable {
    /// APIC ID given by the board.
    package var apicID: APICID
    /// The node that runs it.
    package var placement: Placement

    /// A vCPU; its `VCPUID` is its place in the list.
    package init(apicID: APICID, placement: Placement = .local) {
      self.apicID = apicID
      self.placement = placement
    }
  }

  /// What the board decides.
  package struct Configuration: Sendable {
    /// vCPU 0, the boot processor, first; at most `VCPUSet.capacity`.
    package var processors: [Processor]
    /// What CPUID promises of the local APICs.
    package var features: LocalAPIC.Features = [.x2APIC, .tscDeadline]
    /// MAXPHYADDR.
    package var physicalAddressBits: UInt8 = 40
    /// The node with the IOAPIC and the PIC, if it is not this one.
    package var controllers: (any RemoteDestination)?
    /// Called when a local vCPU's route changes, without a lock, for the other nodes to know.
    package var routeChanged: (@Sendable (VCPUID, APICRoute) -> Void)?

    /// A machine on one node.
    package init(processors: [Processor]) { self.processors = processors }
  }

  private struct RemoteNode: Sendable {
    let destination: any RemoteDestination
    var members: VCPUSet
  }

  struct IOAPICState {
    var model = IOAPIC()
    /// Number of sources that hold each pin up.
    var sources = [Int32](repeating: 0, count: IOAPIC.pinCount)
    /// Number of rising edges of each pin.
    var raised = [UInt64](repeating: 0, count: IOAPIC.pinCount)
  }

  struct PICState {
    var model = PIC()
    var sources = [Int32](repeating: 0, count: 16)
    var raised = [UInt64](repeating: 0, count: 16)
  }

  let routes: RouteTable
  private let slots: [LocalAPICSlot?]
  /// What vCPUs of other nodes have after a reset.
  private let initialRoutes: [(index: Int, route: APICRoute)]
  /// The node of the boot processor, if that is not this one.
  private let bootNode: (any RemoteDestination)?
  private let remotes: [RemoteNode]
  private let locals: VCPUSet
  private let controllers: (any RemoteDestination)?
  /// With other nodes: interrupts for vCPUs of this one.
  package let localCounts: InterruptCounts?
  let ioapic = Mutex(IOAPICState())
  let pic = Mutex(PICState())
  /// Where the search for a lowest-priority destination begins.
  private let rotation = Atomic<Int>(0)

  /// A fabric with all local APICs in the state after power-on.
  package init(_ configuration: Configuration, clock: any MachineClock) {
    let processors = configuration.processors.prefix(VCPUSet.capacity)
    let routes = RouteTable(initialIDs: processors.map { $0.apicID.rawValue })
    var slots: [LocalAPICSlot?] = []
    var remotes: [RemoteNode] = []
    var initialRoutes: [(index: Int, route: APICRoute)] = []
    var locals = VCPUSet()
    let tell = configuration.routeChanged
    let routeChanged: (@Sendable (Int, APICRoute) -> Void)? =
      if let tell { { @Sendable index, route in tell(VCPUID(UInt32(index)), route) } } else { nil }
    for (index, processor) in processors.enumerated() {
      let apic = LocalAPIC(
        initialID: processor.apicID.rawValue, isBootstrap: index == 0,
        features: configuration.features, physicalAddressBits: configuration.physicalAddressBits)
      switch processor.placement {
      case .local:
        locals.insert(index)
        slots.append(
          LocalAPICSlot(
            index: index, apic: apic, routes: routes, clock: clock, routeChanged: routeChanged))
      case .remote(let destination):
        slots.append(nil)
        routes.set(index, apic.route)
        initialRoutes.append((index, apic.route))
        if let known = remotes.firstIndex(where: { $0.destination === destination }) {
          remotes[known].members.insert(index)
        } else {
          var members = VCPUSet()
          members.insert(index)
          remotes.append(RemoteNode(destination: destination, members: members))
        }
      }
    }
    self.routes = routes
    self.slots = slots
    self.remotes = remotes
    self.initialRoutes = initialRoutes
    bootNode = remotes.first { $0.members.contains(0) }?.destination
    self.locals = locals
    controllers = configuration.controllers
    localCounts = remotes.isEmpty ? nil : InterruptCounts()
  }

  /// The local APIC of a vCPU of this node; nil for others.
  package func localAPIC(_ vcpu: VCPUID) -> LocalAPICUnit? {
    slot(Int(vcpu.rawValue)).map { LocalAPICUnit(fabric: self, slot: $0) }
  }

  /// Number of vCPUs on all nodes.
  package var processorCount: Int { slots.count }

  /// Power-on reset of IOAPIC and PIC and of this node's local APICs. All vCPUs of the machine are paused, and every node does the same.
  package func reset() {
    ioapic.withLock { $0.model.reset() }
    pic.withLock { $0.model.reset() }
    for slot in slots { _ = slot?.update { $0.reset() } }
    for remote in initialRoutes { routes.set(remote.index, remote.route) }
    updateLINT0()
  }

  // MARK: - Messages

  /// Delivers a message of a device: MSI, or an I/O APIC.
  package func send(_ message: InterruptMessage) {
    var kicks = VCPUSet()
    deliver(message, &kicks)
    kick(kicks)
  }

  /// A write of a device (or a vCPU outside its register page) to the MSI window. Other addresses are ignored.
  package func signalMSI(address: UInt64, data: UInt32) {
    guard let message = MSI.message(address: address, data: data) else { return }
    send(message)
  }

  /// Delivers an interprocessor interrupt of vCPU `sender`, on its thread. The sender itself is not kicked.
  func send(_ message: InterruptMessage, shorthand: DestinationShorthand, from sender: Int) {
    var kicks = VCPUSet()
    switch shorthand {
    case .none: deliver(message, &kicks, isCommand: true)
    case .itself:
      var only = VCPUSet()
      only.insert(sender)
      deliver(message, to: only, &kicks, isCommand: true)
    case .allIncludingSelf: deliver(message, to: routes.present, &kicks, isCommand: true)
    case .allExcludingSelf:
      var others = routes.present
      others.remove(sender)
      deliver(message, to: others, &kicks, isCommand: true)
    }
    kicks.remove(sender)
    kick(kicks)
  }

  /// The NMI wire: an edge at LINT1 of every local APIC (`inject-nmi`, a chipset's error line).
  package func pulseNMI() {
    pulseLocalNMI()
    for node in remotes { node.destination.pulseNMI() }
  }

  /// An edge at LINT1 of this node's local APICs.
  package func pulseLocalNMI() {
    for slot in slots {
      guard let slot else { continue }
      let (_, kick) = slot.update { apic in
        apic.setLINT1(true)
        apic.setLINT1(false)
      }
      if kick { slot.kick() }
    }
  }

  // MARK: - From other nodes

  /// A message that another node has routed to these vCPUs of this node.
  package func receive(_ message: InterruptMessage, for vcpus: VCPUSet) {
    var kicks = VCPUSet()
    for node in vcpus.intersection(locals).indices {
      if slots[node]?.accept(message) == true { kicks.insert(node) }
    }
    kick(kicks)
  }

  /// The route of another node's vCPU has changed.
  package func setRoute(of vcpu: VCPUID, _ route: APICRoute) {
    let index = Int(vcpu.rawValue)
    guard index < slots.count, slots[index] == nil else { return }
    routes.set(index, route)
  }

  /// The PIC, which another node has, drives LINT0 of the boot processor, which is here.
  package func receiveLINT0(_ level: Bool) {
    guard let slot = slot(0), slot.update({ $0.setLINT0(level) }).kick else { return }
    slot.kick()
  }

  // MARK: - End of interrupt

  /// The end of a level-triggered interrupt, from a local APIC here or on another node.
  package func endOfInterrupt(vector: UInt8) {
    if let controllers {
      controllers.endOfInterrupt(vector: vector)
      controllers.waitForRoom()
    } else {
      withIOAPIC { $0.model.endOfInterrupt(vector: vector) }
    }
  }

  // MARK: - Delivery

  /// Finds the destinations of `message` and delivers to them. `isCommand`: it is a vCPU's, which may wait for other nodes.
  private func deliver(
    _ message: InterruptMessage, _ kicks: inout VCPUSet, isCommand: Bool = false
  ) {
    guard message.asserted, message.deliveryMode != .reserved else { return }
    if let index = routes.singleDestination(message) {
      if let slot = slots[index] {
        localCounts?.add(message.deliveryMode)
        if slot.accept(message) { kicks.insert(index) }
        return
      }
      var only = VCPUSet()
      only.insert(index)
      deliver(message, to: only, &kicks, isCommand: isCommand)
      return
    }
    let matches = routes.destinations(message)
    deliver(message, to: matches, &kicks, isCommand: isCommand)
  }

  /// Delivers to these vCPUs, or for lowest priority to one of them.
  private func deliver(
    _ message: InterruptMessage, to matches: VCPUSet, _ kicks: inout VCPUSet,
    isCommand: Bool = false
  ) {
    var targets = matches
    if message.deliveryMode == .lowestPriority {
      guard let chosen = arbitrate(matches) else { return }
      targets = VCPUSet()
      targets.insert(chosen)
    }
    for index in targets.intersection(locals).indices {
      localCounts?.add(message.deliveryMode)
      if slots[index]?.accept(message) == true { kicks.insert(index) }
    }
    for node in remotes {
      let there = targets.intersection(node.members)
      if there.isEmpty { continue }
      if !isCommand {
        node.destination.deliver(message, to: there)
      } else if message.deliveryMode == .initialize || message.deliveryMode == .startUp {
        node.destination.deliverAndWait(message, to: there)
      } else {
        node.destination.deliver(message, to: there)
        node.destination.waitForRoom()
      }
    }
  }

  /// Lowest priority: the next after the last one among the matches whose APIC is enabled, this node's first.
  private func arbitrate(_ matches: VCPUSet) -> Int? {
    var enabled = VCPUSet()
    for index in matches.indices where routes.route(index).softwareEnabled { enabled.insert(index) }
    let here = enabled.intersection(locals)
    let candidates = here.isEmpty ? enabled : here
    let start = rotation.load(ordering: .relaxed)
    guard let chosen = candidates.first(from: start) ?? candidates.first(from: 0) else {
      return nil
    }
    rotation.store(chosen &+ 1, ordering: .relaxed)
    return chosen
  }

  func kick(_ vcpus: VCPUSet) {
    for index in vcpus.indices { slots[index]?.kick() }
  }

  func slot(_ index: Int) -> LocalAPICSlot? {
    index >= 0 && index < slots.count ? slots[index] : nil
  }

  // MARK: - Controllers

  /// Changes the I/O APIC and sends what its pins then send, under its lock so that a message cannot come later
  /// than a mask that the guest has written.
  func withIOAPIC(_ body: (inout IOAPICState) -> PinSet) {
    var kicks = VCPUSet()
    ioapic.withLock { state in
      var rest = body(&state).rawValue
      while rest != 0 {
        deliver(state.model.message(of: rest.trailingZeroBitCount), &kicks)
        rest &= rest &- 1
      }
    }
    kick(kicks)
  }

  /// Changes the PIC and carries its output to LINT0 of the boot processor.
  func withPIC<R: Sendable>(_ body: (inout PICState) -> R) -> R {
    var kicked = false
    let result = pic.withLock { state in
      let before = state.model.output
      let result = body(&state)
      let after = state.model.output
      if before != after { kicked = driveLINT0(after) }
      return result
    }
    if kicked { slot(0)?.kick() }
    return result
  }

  /// The wire from the PIC to the boot processor after a reset of either.
  private func updateLINT0() {
    guard controllers == nil else { return }
    pic.withLock { state in _ = driveLINT0(state.model.output) }
  }

  /// The PIC's output has this level, and its lock is held. True: kick the boot processor, here, once it is not.
  private func driveLINT0(_ level: Bool) -> Bool {
    if let slot = slots.first ?? nil { return slot.update { $0.setLINT0(level) }.kick }
    bootNode?.setLINT0(level)
    return false
  }

  /// An interrupt acknowledge cycle of the boot processor, here or on another node; nil when the request is gone.
  package func acknowledgePIC() -> UInt8? {
    if let controllers { return controllers.acknowledgePIC() }
    return withPIC { $0.model.output ? $0.model.acknowledge() : nil }
  }
}
