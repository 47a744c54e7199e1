import Cluster
import DeviceModel
import Devices
import Host
import Shm
import Synchronization

/// Node 0's memory map for the other nodes: published to each when it is ready and after every change, with a version; a vCPU whose access
/// causes a change goes on when all nodes have it. The change itself waits for nobody: whoever makes it may hold locks.
final class ChipsetPublisher: Sendable {
  private struct Waiter: Sendable {
    var version: UInt64
    var run: @Sendable () -> Void
  }
  private struct State {
    var version: UInt64 = 0
    /// The version that each ready node has.
    var acknowledged: [NodeID: UInt64] = [:]
    var waiters: [Waiter] = []
    /// Those that are not RAM, by number from 1.
    var blocks: [RAMBlock] = []
  }

  private let transport: any FrameTransport
  private let deviceMemory: AddressSpace
  private let memory: GuestMemory
  private let ram: RAMBlock?
  private let a20: A20Gate
  private let state = Mutex(State())
  /// The last version that some node does not have yet; 0: all have all. What every device access looks at.
  private let outstanding = Atomic<UInt64>(0)
  /// Frames of one change leave before those of the next. They are posted: nobody waits for a node in here.
  private struct Sending: Sendable { var doorbells: [Range<UInt64>] = [] }
  private let sending = Mutex(Sending())

  init(
    _ seat: ClusterSeat, memory: GuestMemory, deviceMemory: AddressSpace, ram: RAMBlock?,
    a20: A20Gate
  ) {
    transport = seat.transport
    self.deviceMemory = deviceMemory
    self.memory = memory
    self.ram = ram
    self.a20 = a20
  }

  /// Follows the map from now on.
  func begin() {
    memory.observeSlots { [weak self] _ in self?.changed() }
    a20.observe { [weak self] _ in self?.changed() }
    deviceMemory.observe { [weak self] in self?.changed(onlyDoorbells: true) }
  }

  /// `node` takes maps from now on.
  func ready(_ node: NodeID) {
    sending.withLock { sending in
      sending.doorbells = deviceMemory.doorbells
      state.withLock { $0.acknowledged[node] = 0 }
      for (index, block) in state.withLock({ $0.blocks }).enumerated() {
        sendContents(of: block, number: UInt8(truncatingIfNeeded: index + 1), to: [node])
      }
      finish { _ in }
      sendMap(to: [node], sending.doorbells)
    }
  }

  func acknowledged(_ version: UInt64, by node: NodeID) {
    finish { state in
      guard let known = state.acknowledged[node], version <= state.version else { return }
      state.acknowledged[node] = max(known, version)
    }
  }

  /// Nobody waits for `node` any more.
  func lost(_ node: NodeID) { finish { $0.acknowledged[node] = nil } }

  /// Whether all ready nodes have the present version.
  var isPublished: Bool { outstanding.load(ordering: .acquiring) == 0 }

  /// Runs `body` when all ready nodes have the present version, at once if they do; otherwise on the thread that brings the last answer.
  /// What a device access of a vCPU has changed is seen on all nodes then.
  func whenPublished(_ body: @escaping @Sendable () -> Void) {
    let version = outstanding.load(ordering: .acquiring)
    if version == 0 { return body() }
    finish { $0.waiters.append(Waiter(version: version, run: body)) }
  }

  /// Waits until all ready nodes have the present version. On the thread of a vCPU, no lock held.
  func waitUntilPublished() {
    if outstanding.load(ordering: .acquiring) == 0 { return }
    let done = WaitWord()
    let seen = done.value
    whenPublished { done.advance() }
    while done.value == seen { done.wait(while: seen) }
  }

  /// Changes the state, then runs whoever has waited long enough.
  private func finish(_ change: (inout State) -> Void) {
    let due = state.withLock { state -> [Waiter] in
      change(&state)
      let least = state.acknowledged.values.min() ?? UInt64.max
      outstanding.store(state.version <= least ? 0 : state.version, ordering: .releasing)
      let due = state.waiters.filter { $0.version <= least }
      if !due.isEmpty { state.waiters.removeAll { $0.version <= least } }
      return due
    }
    for waiter in due { waiter.run() }
  }

  /// The map or the gate has changed, on a vCPU's thread, one that serves a node, or the main loop. `onlyDoorbells`: of the map, only what
  /// devices answer. On the main loop all vCPUs stand, and what lets them go on comes behind the map on the same streams.
  private func changed(onlyDoorbells: Bool = false) {
    sending.withLock { sending in
      let doorbells = deviceMemory.doorbells
      if onlyDoorbells, doorbells == sending.doorbells { return }
      sending.doorbells = doorbells
      let nodes = state.withLock { state -> [NodeID] in
        state.version &+= 1
        return Array(state.acknowledged.keys)
      }
      for slot in memory.slots where slot.block !== ram {
        let number = state.withLock { state -> Int? in
          if state.blocks.contains(where: { $0 === slot.block }) { return nil }
          state.blocks.append(slot.block)
          return state.blocks.count
        }
        if let number {
          sendContents(of: slot.block, number: UInt8(truncatingIfNeeded: number), to: nodes)
        }
      }
      guard !nodes.isEmpty else { return }
      // Before anybody can answer.
      finish { _ in }
      sendMap(to: nodes, doorbells)
    }
  }

  private func sendMap(to nodes: [NodeID], _ doorbells: [Range<UInt64>]) {
    let blocks = state.withLock { $0.blocks }
    let slots = memory.slots.compactMap { slot -> ChipsetMap.Slot? in
      var number = Int(ChipsetMap.ram)
      if slot.block !== ram {
        guard let index = blocks.firstIndex(where: { $0 === slot.block }) else { return nil }
        number = index + 1
      }
      return ChipsetMap.Slot(
        guest: slot.guest.rawValue, size: slot.size, offset: slot.offset,
        block: UInt8(truncatingIfNeeded: number), isReadOnly: slot.isReadOnly)
    }
    let map = ChipsetMap(
      version: state.withLock { $0.version }, isA20Open: a20.isOpen, slots: slots,
      doorbells: Array(doorbells.prefix(ChipsetMap.doorbellLimit)))
    let header = FrameHeader(.chipset, argument: UInt64(ChipsetMap.Kind.map.rawValue))
    for node in nodes { transport.post(header, bytes: map.bytes, to: node) }
  }

  private func sendContents(of block: RAMBlock, number: UInt8, to nodes: [NodeID]) {
    let argument =
      UInt64(ChipsetMap.Kind.contents.rawValue) | UInt64(number) << 8 | UInt64(block.size) << 16
    for offset in stride(from: 0, to: block.size, by: ChipsetMap.chunk) {
      var bytes: [UInt8] = []
      bytes.append64(UInt64(offset))
      bytes += block.contents(offset..<offset + ChipsetMap.chunk)
      for node in nodes {
        transport.post(FrameHeader(.chipset, argument: argument), bytes: bytes, to: node)
      }
    }
  }
}
