import Glibc
package import Host
import Synchronization

/// What a device does when its medium or the size of it changes. Called from any thread, with no lock held.
package protocol BlockDeviceOperations: AnyObject, Sendable {
  /// Whether media can be changed.
  var hasRemovableMedium: Bool { get }
  var isTrayOpen: Bool { get }
  /// The guest does not want its medium to be taken.
  var isMediumLocked: Bool { get }
  /// There is another medium, or none.
  func mediumChanged(isLoaded: Bool)
  /// The user asks the guest to give the medium away.
  func requestEject(isForced: Bool)
  /// The disk has another size.
  func resized()
}

extension BlockDeviceOperations {
  package var hasRemovableMedium: Bool { false }
  package var isTrayOpen: Bool { false }
  package var isMediumLocked: Bool { false }
  package func mediumChanged(isLoaded: Bool) {}
  package func requestEject(isForced: Bool) {}
  package func resized() {}
}

/// What a device or a tool holds of the block graph: a node or an empty drive, with everything that belongs to the user of a disk and not to the disk: the gate
/// for requests, limits, accounting, the policy for errors, the write cache's mode.
///
/// Any thread. `submit` never blocks; the calls named after what they do block until it is done.
package final class BlockBackend: Sendable {
  /// The drive's id; empty when only the device has a name.
  package let name: String
  package let id: UInt64
  private let graph: BlockGraph

  struct Held: Sendable {
    let request: BlockRequest
    let tag: UInt64
    let queue: BlockCompletionQueue
    let started: Int64
  }

  struct State {
    var node: (any BlockNode)?
    var detectZeroes = ZeroDetection.off
    var unmaps = false
    var inFlight = 0
    /// How many want no requests to start.
    var drains = 0
    /// Requests that came meanwhile.
    var held: [Held] = []
    /// Requests that failed and are tried anew when the machine goes on.
    var parked: [Held] = []
    var hasWriteCache = true
    var onReadError = BlockErrorPolicy.report
    var onWriteError = BlockErrorPolicy.enospc
    var tracksIOStatus = false
    var ioStatus = BlockIOStatus.ok
    var used: BlockPermissions
    var shared: BlockPermissions
    var group: ThrottleGroup?
    var statistics = BlockStatistics(now: HostClock.monotonic)
    weak var device: (any BlockDeviceOperations)?
    var deviceID: String?
    var devicePath: String?
    var errorHandler: (@Sendable (BlockIOError) -> Void)?
  }
  let state: Mutex<State>
  /// Moves whenever a request ends, for those who wait for the last.
  private let idle = WaitWord()

  private static let nextID = Atomic<UInt64>(1)

  /// An empty drive. `used` and `shared` are what its user does with the disk and lets others do.
  package init(
    _ graph: BlockGraph, name: String = "", used: BlockPermissions = [],
    shared: BlockPermissions = .all
  ) {
    self.graph = graph
    self.name = name
    id = BlockBackend.nextID.wrappingAdd(1, ordering: .relaxed).newValue
    state = Mutex(State(used: used, shared: shared))
  }

  /// A backend for a tool, which closes the node with it: reads, and writes and resizes where the node can.
  package convenience init(_ graph: BlockGraph, tool node: any BlockNode) throws(BlockError) {
    self.init(
      graph, used: node.isReadOnly ? .consistentRead : [.consistentRead, .write, .resize])
    try insert(node)
  }

  // MARK: Medium

  /// The node; nil for an empty drive.
  package var node: (any BlockNode)? { state.withLock { $0.node } }
  /// Bytes of the disk; 0 without one.
  package var length: UInt64 { node?.length ?? 0 }
  package var isReadOnly: Bool { node?.isReadOnly ?? false }
  package var isInserted: Bool { node != nil }

  /// Puts a node into the empty drive. Throws when others' use of it conflicts with ours.
  package func insert(_ node: any BlockNode) throws(BlockError) {
    let (used, shared) = state.withLock { ($0.used, $0.shared) }
    try graph.changeUsers(of: node.name) { users in
      users.append(
        NodeUse(
          holder: .backend(id), role: "root", description: userDescription, used: used,
          shared: shared))
    }
    let entry = graph.entry(of: node)
    state.withLock { state in
      state.node = node
      state.detectZeroes = entry?.settings.detectZeroes ?? .off
      state.unmaps = entry?.settings.unmaps ?? true
      state.ioStatus = .ok
    }
  }

  /// Takes the node out, after the requests in flight; closes it unless somebody else uses it. Throws what closing throws; it is out all the same.
  package func remove() throws(BlockError) {
    beginDrain()
    defer { endDrain() }
    let node = state.withLock { state in
      let node = state.node
      state.node = nil
      return node
    }
    guard let node else { return }
    try? graph.changeUsers(of: node.name) { $0.removeAll { $0.holder == .backend(id) } }
    try graph.releaseIfUnused(node.name)
  }

  /// The node was replaced in the graph (a snapshot), which has moved our use already.
  func setNode(_ node: any BlockNode) {
    let entry = graph.entry(of: node)
    state.withLock { state in
      state.node = node
      state.detectZeroes = entry?.settings.detectZeroes ?? .off
      state.unmaps = entry?.settings.unmaps ?? true
    }
  }

  /// Does and allows something else with the disk from now on. Throws, and nothing changes, when that conflicts.
  package func setPermissions(
    _ used: BlockPermissions, shared: BlockPermissions
  ) throws(BlockError) {
    if let node {
      try graph.changeUsers(of: node.name) { users in
        for index in users.indices where users[index].holder == .backend(id) {
          users[index].used = used
          users[index].shared = shared
        }
      }
    }
    state.withLock { ($0.used, $0.shared) = (used, shared) }
  }

  private var userDescription: String {
    if !name.isEmpty { return "block device '\(name)'" }
    if let device = state.withLock({ $0.deviceID }) { return "block device '\(device)'" }
    return "an unnamed block device"
  }

  // MARK: The device

  /// The device, and its id and QOM path for messages.
  package func attach(
    _ device: any BlockDeviceOperations, id: String? = nil, path: String? = nil
  ) {
    state.withLock { state in
      state.device = device
      state.deviceID = id
      state.devicePath = path
    }
  }

  package func detachDevice() {
    state.withLock { state in
      state.device = nil
      state.deviceID = nil
      state.devicePath = nil
    }
  }

  package var device: (any BlockDeviceOperations)? { state.withLock { $0.device } }
  package var deviceID: String? { state.withLock { $0.deviceID } }
  package var devicePath: String? { state.withLock { $0.devicePath } }

  // MARK: Settings

  /// Whether writes may stay in a cache until the guest flushes.
  package var hasWriteCache: Bool {
    get { state.withLock { $0.hasWriteCache } }
    set { state.withLock { $0.hasWriteCache = newValue } }
  }

  package var onReadError: BlockErrorPolicy { state.withLock { $0.onReadError } }
  package var onWriteError: BlockErrorPolicy { state.withLock { $0.onWriteError } }

  package func setErrorPolicy(read: BlockErrorPolicy, write: BlockErrorPolicy) {
    state.withLock { ($0.onReadError, $0.onWriteError) = (read, write) }
  }

  /// Called for every failure that the policy decides on, from any thread: event, and for `.stop` the end of the machine's run.
  package func onError(_ handler: @escaping @Sendable (BlockIOError) -> Void) {
    state.withLock { $0.errorHandler = handler }
  }

  /// The device reports `io-status`.
  package func trackIOStatus() { state.withLock { $0.tracksIOStatus = true } }
  /// Nil for devices without, and where no failure stops the machine.
  package var ioStatus: BlockIOStatus? {
    state.withLock { state in
      let stops =
        state.onReadError == .stop || state.onWriteError == .stop || state.onWriteError == .enospc
      return state.tracksIOStatus && stops ? state.ioStatus : nil
    }
  }

  package var throttleGroup: ThrottleGroup? { state.withLock { $0.group } }

  /// Joins a group of limits, or none.
  package func setThrottleGroup(_ name: String?) {
    let group = name.map { graph.throttleGroups.use($0) }
    let old = state.withLock { state in
      let old = state.group
      state.group = group
      return old
    }
    if let old { graph.throttleGroups.release(old.name) }
  }

  // MARK: Statistics

  package var statistics: BlockStatistics { state.withLock { $0.statistics } }

  /// Changes what is counted (intervals, histograms).
  package func changeStatistics(_ change: (inout BlockStatistics) -> Void) {
    state.withLock { change(&$0.statistics) }
  }

  /// A request that the device itself has refused.
  package func noteInvalid(_ access: BlockAccess) {
    let now = HostClock.monotonic
    state.withLock { $0.statistics.invalid(access, now: now) }
  }

  // MARK: Drain

  package var inFlight: Int { state.withLock { $0.inFlight } }

  /// Lets no request start and waits for those in flight. Blocks; nests.
  package func beginDrain() {
    let group = state.withLock { state in
      state.drains += 1
      return state.group
    }
    // What waits for its limit would wait for long.
    group?.releaseAll()
    while true {
      let seen = idle.value
      if state.withLock({ $0.inFlight }) == 0 { return }
      idle.wait(while: seen)
    }
  }

  /// Ends one `beginDrain`; the last starts what has come meanwhile.
  package func endDrain() {
    let held = state.withLock { state in
      state.drains -= 1
      guard state.drains == 0 else { return [Held]() }
      let held = state.held
      state.held = []
      state.inFlight += held.count
      return held
    }
    wakeDrain()
    resubmitAll(held)
  }

  /// Waits for requests in flight, which have time to end; with `flushing` also until all that was written is stable, as far as that is possible. Blocks.
  package func settle(flushing: Bool) {
    beginDrain()
    endDrain()
    guard flushing, let node, !node.isReadOnly else { return }
    // Whoever flushes next hears of a failure: nodes remember it.
    try? node.flush()
  }

  /// The machine goes on: what had failed and stopped it is tried anew.
  package func resume() {
    let parked = state.withLock { state in
      state.ioStatus = .ok
      let parked = state.parked
      state.parked = []
      state.inFlight += parked.count
      return parked
    }
    resubmitAll(parked)
  }

  /// The device was reset: what is parked or held for `queue` will not be done, and not be reported.
  package func cancelParked(for queue: BlockCompletionQueue) {
    state.withLock { state in
      state.parked.removeAll { $0.queue === queue }
      state.held.removeAll { $0.queue === queue }
    }
  }

  package var parkedCount: Int { state.withLock { $0.parked.count } }

  func leave(_ state: inout State) { state.inFlight -= 1 }

  /// Somebody waits for the last request, or for the end of a drain.
  func wakeDrain() { idle.advance() }

  /// Waits until requests may start.
  func waitForDrain() {
    while true {
      let seen = idle.value
      if state.withLock({ $0.drains }) == 0 { return }
      idle.wait(while: seen)
    }
  }
}
