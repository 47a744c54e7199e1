import CPU
import Cluster
import DeviceModel
import Host
import QAPI
import Shm

/// The run of a machine on several nodes, on the main loop of each (distributed.md, section 9).
///
/// Node 0 decides: it has the run state, and turns it into steps that it takes one after the other, each when all nodes have taken the one
/// before. The others send it what their monitors and guests ask, follow its signals, and answer when they have. What a monitor asks does
/// not happen when a node does not prepare for it in time (`ClusterControl+Operations`).
@MainLoop
final class ClusterControl {
  let seat: ClusterSeat
  unowned let machine: Machine

  /// Node 0: what is to be done.
  enum Step {
    /// All nodes are to be ready for what follows.
    case prepare
    case effect(RunControl.Effect)
    /// What waits for the steps before it, with the reason when they did not happen.
    case run(@MainLoop (String?) -> Void)
  }
  struct Entry {
    var step: Step
    /// The state that the machine has again when this is given up; nil when it cannot be, because the guest has brought it about.
    var before: RunState?
  }
  var steps: [Entry] = []
  /// Number of the last operation that other nodes take part in.
  var operation: UInt32 = 0
  /// Node 0: the step for which nodes prepare.
  var coordinator = OperationCoordinator(limit: 10_000_000_000)
  var preparing: Preparing?
  var deadline: HostTimer?
  /// Other nodes: what node 0 has not answered, and how what was asked last ended.
  var asked = Asked()
  /// Who has not answered which one.
  private var awaited: [NodeID: UInt32] = [:]
  /// Nodes whose machines are made, and those that are lost.
  private var ready: Set<NodeID> = []
  private(set) var lost: Set<NodeID> = []
  /// Nodes that take part.
  var partners: Set<NodeID> { ready.subtracting(lost) }
  /// Virtual time at which the nodes stand.
  var standing: Int64 = 0
  /// Node 0: memory is as the guest is to find it.
  private var hasBegun = false

  /// Other nodes: the operation for which this one stands, and whose markers for it have come.
  private var markers: [UInt32: Set<NodeID>] = [:]
  private var pausing: UInt32?
  /// vCPUs that wait for node 0's word, by the number of threads' pauses that are to be taken back.
  private var heldVCPUs: [UInt32: Int] = [:]
  private var leaves = false

  init(_ seat: ClusterSeat, _ machine: Machine) {
    self.seat = seat
    self.machine = machine
  }

  var isFirst: Bool { seat.isFirst }
  /// Node 0 is lost: nobody decides any more.
  var isAlone: Bool { lost.contains(.devices) }

  // MARK: - Node 0

  /// Does these one after the other, behind what is under way. `before`: a monitor has asked for it, and it is given up when a node does
  /// not prepare in time; the machine is in that state then, as it was.
  func perform(_ effects: [RunControl.Effect], from before: RunState? = nil) {
    guard isFirst else { return performAlone(effects) }
    if effects.isEmpty { return }
    // To stand is what nodes prepare themselves by; whatever else a monitor asks is announced.
    if before != nil, effects.first != .pauseVCPUs {
      steps.append(Entry(step: .prepare, before: before))
    }
    steps += effects.map { Entry(step: .effect($0), before: before) }
    advance()
  }

  /// Runs `body` when everything asked for until now is done, or given up: then it gets the reason.
  func afterwards(_ body: @escaping @MainLoop (String?) -> Void) {
    guard isFirst else { return body(nil) }
    steps.append(Entry(step: .run(body)))
    advance()
  }

  func advance() {
    while awaited.isEmpty, preparing == nil, !steps.isEmpty {
      // Nobody goes on before everybody is there.
      if case .effect(.resumeVCPUs) = steps[0].step, !isComplete { return }
      let entry = steps.removeFirst()
      switch entry.step {
      case .run(let body): body(nil)
      case .prepare: prepare(.prepare, from: entry.before)
      case .effect(let effect): begin(effect, from: entry.before)
      }
    }
  }

  private var isComplete: Bool {
    hasBegun && seat.others.allSatisfy { ready.contains($0) || lost.contains($0) }
  }

  /// The memory that the guest begins with is in place: the others may have the map.
  func begin() {
    hasBegun = true
    for node in ready { welcome(node) }
    advance()
  }

  private func welcome(_ node: NodeID) {
    machine.publisher?.ready(node)
    seat.send(ClusterSignal(.state, state: machine.state), to: node)
    // Without firmware, vCPUs begin with memory types set, and the first in the kernel.
    let start = machine.board.start
    guard !start.isEmpty else { return }
    operation &+= 1
    awaited[node] = operation
    let signal = ClusterSignal(.reset, state: machine.state, number: operation)
    seat.send(signal, start.bytes, to: node)
  }

  private func begin(_ effect: RunControl.Effect, from before: RunState?) {
    switch effect {
    case .pauseVCPUs:
      guard machine.clock.isRunning else { return }
      prepare(.pause, from: before)
      machine.perform(effect)
      standing = machine.clock.now
    case .resetMachine, .wakeMachine:
      // Here first: what the board puts into memory and vCPUs, and the map that it begins with, come before the others' reset.
      machine.perform(effect)
      ask(.reset, machine.board.start.bytes)
    case .resumeVCPUs:
      goOn()
    case .exit(let status):
      broadcast(ClusterSignal(.exit, state: machine.state, number: UInt32(bitPattern: status)))
      machine.perform(effect)
    case .emit(.shutdown(_, let cause)):
      machine.perform(effect)
      let index = ShutdownCause.allCases.firstIndex(of: cause) ?? 0
      broadcast(
        ClusterSignal(
          .shutdown, state: machine.state, number: UInt32(truncatingIfNeeded: index)))
    case .emit, .pressPowerButton, .injectNMI:
      machine.perform(effect)
      broadcast(ClusterSignal(.state, state: machine.state))
    }
  }

  /// vCPUs and time of all nodes go on.
  func goOn() {
    guard !machine.clock.isRunning else { return }
    machine.clock.stand(at: standing)
    machine.perform(.resumeVCPUs)
    broadcast(ClusterSignal(.resume, state: machine.state), time().bytes)
  }

  private func ask(_ kind: ClusterSignal.Kind, _ bytes: [UInt8] = []) {
    operation &+= 1
    for node in partners { awaited[node] = operation }
    broadcast(ClusterSignal(kind, state: machine.state, number: operation), bytes)
  }

  /// The nodes that are lost, for memory to be gathered from the others.
  var lostNodes: NodeSet { lost.reduce(NodeSet()) { $0.union(NodeSet($1)) } }

  func broadcast(_ signal: ClusterSignal, _ bytes: [UInt8] = []) {
    for node in partners { seat.send(signal, bytes, to: node) }
  }

  private func time() -> ClusterTime {
    ClusterTime(
      standing: standing, origin: machine.clock.origin,
      counterOffset: machine.vm.counterOffset ?? 0,
      host: HostIdentity.current, counter: machine.vm.counter ?? 0, moment: HostClock.monotonic)
  }

  /// Takes the hold of a request that came in a device access of `node` back.
  func endHold(_ number: UInt32, of node: NodeID) {
    seat.send(ClusterSignal(.holdOver, state: machine.state, number: number), to: node)
  }

  // MARK: - Other nodes

  /// What a monitor or a guest here wants: node 0 decides.
  func ask(_ signal: ClusterSignal, _ text: String = "") {
    seat.send(signal, Array(text.utf8), to: .devices)
  }

  /// A vCPU has stopped, and its thread was paused once for it: node 0 says when it goes on.
  func report(_ exit: VMExit, of vcpu: UInt32) -> Bool {
    let kind: ClusterSignal.Kind
    var text = ""
    switch exit {
    case .shutdown: kind = .tripleFault
    case .debug: kind = .debugStop
    case .failure(let reason): (kind, text) = (.failure, reason)
    case .halt, .interrupted, .interruptWindow: return false
    }
    heldVCPUs[vcpu, default: 0] += 1
    ask(ClusterSignal(kind, number: vcpu), text)
    return true
  }

  /// What happens without the others, because they are gone.
  private func performAlone(_ effects: [RunControl.Effect]) {
    for effect in effects { machine.perform(effect) }
  }

  // MARK: - Signals

  func received(_ signal: ClusterSignal, from node: NodeID, _ bytes: [UInt8]) {
    if signal.kind == .marker {
      markers[signal.number, default: []].insert(node)
      return answerPause()
    }
    if isFirst {
      receivedByFirst(signal, node, bytes)
    } else if node == .devices {
      follow(signal, bytes)
    }
  }

  private func receivedByFirst(_ signal: ClusterSignal, _ node: NodeID, _ bytes: [UInt8]) {
    let isOwn = seat.vcpus(of: node).contains(signal.number)
    switch signal.kind {
    case .ready:
      guard ready.insert(node).inserted else { return }
      if hasBegun { welcome(node) }
      advance()
    case .done:
      let isPrepared = preparing?.operation == signal.number
      guard isPrepared || awaited[node] == signal.number else { return }
      if bytes.count == 8 {
        // The machine stands at the latest time that any node has seen.
        standing = max(standing, Int64(bitPattern: LittleEndian(bytes).u64(0)))
      }
      if isPrepared { return prepared(node) }
      awaited[node] = nil
      advance()
    case .askStop: answer(signal.number, of: node) { machine.stop() }
    case .askContinue:
      answer(signal.number, of: node) { () throws(RunControlError) in try machine.resume() }
    case .askReset: answer(signal.number, of: node) { machine.reset() }
    case .askPowerDown: machine.powerDown()
    case .askWakeUp:
      answer(signal.number, of: node) { () throws(RunControlError) in try machine.wakeUp() }
    case .askNMI: machine.injectNMI()
    case .askQuit: machine.quit(cause(signal) ?? .hostQmpQuit)
    case .tripleFault where isOwn, .debugStop where isOwn, .failure where isOwn:
      let exit: VMExit =
        switch signal.kind {
        case .tripleFault: .shutdown
        case .debugStop: .debug
        default: .failure(String(decoding: bytes.prefix(1024), as: UTF8.self))
        }
      machine.act(on: exit, ofVCPU: signal.number)
      afterwards { [weak self] _ in
        guard let self else { return }
        seat.send(
          ClusterSignal(.released, state: machine.state, number: signal.number), to: node)
      }
    default: seat.violated(node, "the signal \(signal.kind) makes no sense here")
    }
  }

  private func follow(_ signal: ClusterSignal, _ bytes: [UInt8]) {
    switch signal.kind {
    case .pause:
      machine.follow(signal.state)
      machine.perform(.pauseVCPUs)
      pausing = signal.number
      for node in seat.others where node != .devices {
        seat.send(ClusterSignal(.marker, number: signal.number), to: node)
      }
      answerPause()
    case .prepare: answer(signal.number)
    case .answered: asked.answer(signal.number, String(decoding: bytes.prefix(1024), as: UTF8.self))
    case .reset:
      machine.follow(signal.state)
      guard let state = ResetState(bytes) else { return refuse(signal) }
      machine.board.start = state
      machine.perform(.resetMachine)
      answer(signal.number)
    case .resume:
      machine.follow(signal.state)
      guard let time = ClusterTime(bytes), !machine.clock.isRunning else { return refuse(signal) }
      // What this node was to stand for may have been given up.
      pausing = nil
      align(time)
      machine.resumeVCPUs(origin: time.origin &- seat.clockOffset)
    case .exit:
      machine.follow(signal.state)
      leaves = true
      machine.perform(.pauseVCPUs)
      machine.perform(.exit(Int32(bitPattern: signal.number)))
    case .released:
      guard let count = heldVCPUs[signal.number], count > 0 else { return }
      heldVCPUs[signal.number] = count - 1
      machine.thread(VCPUID(signal.number))?.resume()
    case .state: machine.follow(signal.state)
    case .shutdown:
      machine.follow(signal.state)
      guard let cause = cause(signal) else { return refuse(signal) }
      machine.emit(.shutdown(guest: RunControl.isOfGuest(cause), reason: cause))
    default: refuse(signal)
    }
  }

  private func cause(_ signal: ClusterSignal) -> ShutdownCause? {
    let causes = ShutdownCause.allCases
    let index = Int(signal.number)
    return causes.indices.contains(index) ? causes[index] : nil
  }

  private func refuse(_ signal: ClusterSignal) {
    seat.violated(.devices, "the signal \(signal.kind) makes no sense here")
  }

  /// Answers when this node stands, and everything that others had sent it before they stood has come.
  private func answerPause() {
    guard let number = pausing else { return }
    let others = Set(seat.others).subtracting(lost).subtracting([.devices])
    guard others.isSubset(of: markers[number] ?? []) else { return }
    pausing = nil
    markers = markers.filter { $0.key > number }
    answer(number)
  }

  private func answer(_ number: UInt32) {
    var bytes: [UInt8] = []
    bytes.append64(UInt64(bitPattern: machine.clock.now))
    seat.send(ClusterSignal(.done, number: number), bytes, to: .devices)
  }

  /// Puts this node's clocks where node 0's are.
  private func align(_ time: ClusterTime) {
    let offset = seat.clockOffset
    machine.clock.stand(at: time.standing)
    if time.host != 0, time.host == HostIdentity.current {
      machine.vm.counterOffset = time.counterOffset
    } else if let own = machine.vm.counter, let present = machine.vm.counterOffset {
      // It is on the way for milliseconds; an hour is as good as any limit, and cannot overflow below.
      let hour: Int64 = 3_600_000_000_000
      let passed = min(max(HostClock.monotonic &+ offset &- time.moment, -hour), hour)
      let ticks = passed.multipliedFullWidth(
        by: Int64(clamping: min(machine.vm.tscFrequency, 100_000_000_000)))
      let (quotient, _) = Int64(1_000_000_000).dividingFullWidth(ticks)
      let wanted = time.counter &+ UInt64(bitPattern: quotient)
      machine.vm.counterOffset = present &+ (wanted &- own)
    }
  }

  // MARK: - Failure

  /// `node` is lost; the vCPUs here stand already.
  func lost(_ node: NodeID, _ reason: String) {
    guard lost.insert(node).inserted, !leaves, !machine.isEnding else { return }
    awaited[node] = nil
    if node == .devices { asked.giveUp("\(node) is lost") }
    machine.vm.abandon(seat.vcpus(of: node).map { VCPUID($0) })
    Log.error("\(node) is lost: \(reason); the guest is frozen")
    giveUp(because: node)
    machine.freeze()
    switch seat.lossPolicy {
    case .pause, .restore: break
    case .shutdown: machine.perform(.exit(3))
    }
    answerPause()
    advance()
  }
}

/// What tells this host from others.
enum HostIdentity {
  /// A hash of the kernel's name for its present run; 0 when it does not tell.
  static let current: UInt64 = {
    guard
      let bytes = try? FileDescriptor.contents(of: "/proc/sys/kernel/random/boot_id", limit: 256)
    else { return 0 }
    // FNV-1a.
    return bytes.reduce(0xCBF2_9CE4_8422_2325) { ($0 ^ UInt64($1)) &* 0x100_0000_01B3 }
  }()
}
