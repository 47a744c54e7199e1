import Cluster
import Host
import QAPI

// Operations of all nodes in two steps (distributed.md, section 9). All nodes prepare: they stand, and what they had sent each other has arrived;
// or they are merely there. When they all have, node 0 commits: what follows in its steps. A node that does not prepare within ten seconds
// is the end of it, if a monitor has asked: all go on as before, and the monitor is told. What a guest has brought about has nobody to
// tell, and waits for the node; a process that is to end does not.
extension ClusterControl {
  /// Node 0: who has not prepared for the step that is under way.
  struct Preparing {
    var operation: UInt32
    var kind: ClusterSignal.Kind
    var before: RunState?
    var unprepared: Set<NodeID>
  }

  /// What this node's monitors have asked of node 0.
  struct Asked {
    private var last: UInt32 = 0
    private var pending: Set<UInt32> = []
    /// How the last ended; nil: well.
    private var failure: String?
    private var waiting: [(number: UInt32, done: @MainLoop (String?) -> Void)] = []

    mutating func begin() -> UInt32 {
      last = last == .max ? 1 : last + 1
      pending.insert(last)
      failure = nil
      return last
    }

    @MainLoop
    mutating func answer(_ number: UInt32, _ reason: String) {
      guard pending.remove(number) != nil else { return }
      let text = reason.isEmpty ? nil : reason
      if number == last { failure = text }
      let over = waiting.filter { $0.number == number }
      waiting.removeAll { $0.number == number }
      for one in over { one.done(text) }
    }

    /// Node 0 will not answer any more.
    @MainLoop
    mutating func giveUp(_ reason: String) {
      for number in pending.sorted() { answer(number, reason) }
    }

    /// Calls `done` when what was asked last is answered.
    @MainLoop
    mutating func afterwards(_ done: @escaping @MainLoop (String?) -> Void) {
      guard pending.contains(last) else { return done(failure) }
      waiting.append((last, done))
    }
  }

  /// Returns when what this node's monitors have asked is done, or given up: then with the reason.
  func settle() async -> String? {
    await withCheckedContinuation { done in
      if isFirst {
        afterwards { done.resume(returning: $0) }
      } else {
        asked.afterwards { done.resume(returning: $0) }
      }
    }
  }

  // MARK: - Other nodes

  /// Asks node 0 for something that it answers.
  func request(_ kind: ClusterSignal.Kind) {
    // Nobody is there who could do it.
    if isAlone { return }
    ask(ClusterSignal(kind, number: asked.begin()))
  }

  // MARK: - Node 0

  /// How long a node may take to prepare.
  func setLimit(seconds: Double) {
    coordinator = OperationCoordinator(limit: Int64(seconds * 1_000_000_000))
  }

  /// Does what `node` has asked for, and tells it how that ended.
  func answer(
    _ number: UInt32, of node: NodeID, _ body: () throws(RunControlError) -> Void
  ) {
    func tell(_ reason: String?) {
      seat.send(
        ClusterSignal(.answered, state: machine.state, number: number),
        Array((reason ?? "").utf8.prefix(1024)), to: node)
    }
    do throws(RunControlError) { try body() } catch { return tell(error.message) }
    afterwards { tell($0) }
  }

  /// PREPARE: the next step is taken when all nodes have answered.
  func prepare(_ kind: ClusterSignal.Kind, from before: RunState?) {
    let nodes = partners
    guard !nodes.isEmpty else { return }
    operation &+= 1
    let signal = ClusterSignal(kind, state: machine.state, number: operation)
    preparing = Preparing(operation: operation, kind: kind, before: before, unprepared: nodes)
    arm(nodes)
    broadcast(signal)
  }

  private func arm(_ nodes: Set<NodeID>) {
    _ = coordinator.begin(nodes, now: HostClock.monotonic)
    let timer =
      deadline
      ?? MainLoop.timers.makeTimer { [weak machine] in
        MainLoop.assumeIsolated { machine?.cluster?.expired() }
      }
    deadline = timer
    timer.arm(at: HostClock.monotonic &+ coordinator.limit)
  }

  /// PREPARED of `node`.
  func prepared(_ node: NodeID) {
    preparing?.unprepared.remove(node)
    let now = HostClock.monotonic
    _ = coordinator.prepared(node, coordinator.number, isReady: true, now: now)
    commitIfPrepared(now)
  }

  private func commitIfPrepared(_ now: Int64) {
    let all = Set([seat.node])
    guard coordinator.commitIfPrepared(all, now: now) == .commit else { return }
    // COMMIT is what the next steps say; those that need an answer wait for it themselves.
    _ = coordinator.committed(seat.node, coordinator.number)
    conclude()
    advance()
  }

  private func conclude() {
    preparing = nil
    deadline?.cancel()
  }

  private func expired() {
    guard let preparing, case .abort(let reason) = coordinator.tick(now: HostClock.monotonic)
    else {
      // Early, by the clock that counts.
      if preparing != nil { deadline?.arm(at: HostClock.monotonic &+ 10_000_000) }
      return
    }
    let effects = steps.compactMap { entry -> RunControl.Effect? in
      if case .effect(let effect) = entry.step { effect } else { nil }
    }
    let ends = effects.contains { if case .exit = $0 { true } else { false } }
    let isWanted = preparing.before != nil && steps.allSatisfy { $0.before != nil || $0.isWaiter }
    if ends {
      Log.error("\(reason); the others end")
      conclude()
      advance()
    } else if isWanted {
      abort(preparing, reason)
    } else {
      Log.error("\(reason); the guest waits for it")
      arm(preparing.unprepared)
    }
  }

  /// ABORT: everyone goes on as before, and who waits is told why.
  private func abort(_ preparing: Preparing, _ reason: String) {
    conclude()
    let waiters = takeWaiters()
    Log.error("\(reason); nothing was done")
    if let before = preparing.before { machine.follow(before) }
    if preparing.kind == .pause {
      // This is what ends the standstill of who has prepared, and of who does so now.
      goOn()
    } else {
      broadcast(ClusterSignal(.state, state: machine.state))
    }
    for waiter in waiters { waiter(reason) }
    advance()
  }

  /// A node is lost: what had not happened does not, but for the end of the process. The vCPUs stand.
  func giveUp(because node: NodeID) {
    _ = coordinator.lost(node)
    let wasPreparing = preparing != nil
    conclude()
    let ends = steps.contains { if case .effect(.exit) = $0.step { true } else { false } }
    if !wasPreparing || ends { return }
    for waiter in takeWaiters() { waiter("\(node) is lost") }
  }

  private func takeWaiters() -> [@MainLoop (String?) -> Void] {
    let all = steps
    steps = []
    return all.compactMap { if case .run(let body) = $0.step { body } else { nil } }
  }
}

extension ClusterControl.Entry {
  /// Only waits for what is before it.
  fileprivate var isWaiter: Bool { if case .run = step { true } else { false } }
}
