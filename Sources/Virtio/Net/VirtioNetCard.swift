package import Host
package import Net
package import QAPI
import Shm
import Synchronization

/// The frames of a virtio network card: between its queues and its ports, on the main loop.
@MainLoop
package final class VirtioNetCard: NetCard {
  private let device: VirtioNet
  private let model: String
  private let network: Network
  package private(set) var ports: [NetPort] = []
  /// The card's QOM path, once it has one.
  package var path: @MainLoop () -> String? = { nil }
  private let id: String?
  package var isAnonymous: Bool { id == nil }

  private weak var transport: VirtioPCI?
  private var hadPeer = false
  private var notifiesFilter = true
  /// Reused for every frame.
  private let output = IOBuffer(count: Offload.longHeader + Frame.maximum)
  private let header = IOBuffer(count: Offload.longHeader)
  private var sent = VirtQueueElement()
  private var filled: [VirtQueueElement] = []
  private var vector = IOVector()
  /// What the driver negotiated, as long as it runs.
  private var headerSize = Offload.shortHeader
  private var isMergeable = false
  private var isRunning = false
  private var activePairs = 1

  /// A queue pair's flags, set on vCPU threads.
  private final class Pair: Sendable {
    let isSendPosted = Atomic<Bool>(false)
    /// The guest has no buffers, and shall say when it has.
    let isStarved = Atomic<Bool>(false)
  }
  private let pairs: [Pair]

  /// Most frames that are sent in one turn of the main loop.
  private static let budget = 128

  package init(
    _ device: VirtioNet, name: String, model: String, id: String?, in network: Network
  ) {
    self.device = device
    self.model = model
    self.network = network
    self.id = id
    pairs = (0..<device.settings.pairs).map { _ in Pair() }
    for index in 0..<device.settings.pairs {
      ports.append(
        NetPort(
          name, kind: "nic", index: index,
          details: "model=\(model),macaddr=\(device.settings.mac)", owner: self))
    }
  }

  /// Connects the card with its transport.
  package func attach(to transport: VirtioPCI) {
    self.transport = transport
    let pairs = pairs
    // Made once: posting them allocates nothing more than a place in the main loop's list.
    let sends: [@MainLoop @Sendable () -> Void] = pairs.indices.map { index in
      { [weak self] in
        pairs[index].isSendPosted.store(false, ordering: .sequentiallyConsistent)
        self?.send(index)
      }
    }
    let refills: [@MainLoop @Sendable () -> Void] = pairs.indices.map { index in
      { [weak self] in self?.ports[index].becomesReady() }
    }
    var reactions = VirtioNet.Reactions()
    reactions.send = { index in
      if !pairs[index].isSendPosted.exchange(true, ordering: .sequentiallyConsistent) {
        MainLoop.post(sends[index])
      }
    }
    reactions.hasBuffers = { index in
      if pairs[index].isStarved.exchange(false, ordering: .sequentiallyConsistent) {
        MainLoop.post(refills[index])
      }
    }
    reactions.started = { MainLoop.post { [weak self] in self?.started() } }
    reactions.stopped = { MainLoop.post { [weak self] in self?.stopped() } }
    reactions.changed = { filter, setUp in
      MainLoop.post { [weak self] in self?.changed(filter: filter, setUp: setUp) }
    }
    device.connect(transport, reactions)
  }

  /// The card leaves the machine.
  package func detach() {
    isRunning = false
    network.unregister(self)
    network.releaseAddress(device.settings.mac)
  }

  // MARK: - Driver

  private func started() {
    let state = device.state.withLock { $0 }
    guard state.isStarted, let transport else { return }
    headerSize = state.headerSize
    isMergeable = state.hasMergeableBuffers
    isRunning = true
    setUp(state)
    for index in pairs.indices {
      // The driver need not tell of buffers before we miss them.
      _ = transport.setPolled(2 * index, true)
      ports[index].becomesReady()
      send(index)
    }
  }

  private func stopped() {
    guard !device.state.withLock({ $0.isStarted }) else { return }
    isRunning = false
    for port in ports {
      port.accepts = []
      // Whoever waits for buffers need not any more: frames go nowhere.
      port.becomesReady()
    }
    showAddress(device.settings.mac)
  }

  private func changed(filter: Bool, setUp changed: Bool) {
    let state = device.state.withLock { $0 }
    if changed, state.isStarted { setUp(state) }
    if filter, notifiesFilter, let path = path() {
      notifiesFilter = false
      network.onEvent(.nicRxFilterChanged(name: id, path: path + "/virtio-backend"))
    }
  }

  private func setUp(_ state: VirtioNetState) {
    activePairs = state.activePairs
    let accepted = NetFeature.accepted(state.guestOffloads)
    for port in ports { port.accepts = accepted }
    if let backend = ports.first?.peer?.backend {
      backend.setOffloads(accepted)
      backend.setActiveQueues(activePairs)
    }
    showAddress(state.mac)
  }

  private func showAddress(_ mac: MACAddress) {
    for port in ports { port.details = "model=\(model),macaddr=\(mac)" }
  }

  // MARK: - From the guest

  package func resumeSending(on port: NetPort) { send(port.index) }

  /// Sends what the driver has put into a queue.
  private func send(_ index: Int) {
    guard isRunning, let transport, index < pairs.count else { return }
    let queue = 2 * index + 1
    let port = ports[index]
    var left = VirtioNetCard.budget
    while true {
      _ = transport.setPolled(queue, true)
      var count = 0
      while left > 0, !port.isWaiting, let frame = takeFrame(queue, transport) {
        left -= 1
        count += 1
        if frame.count >= 14 { port.send(frame) }
      }
      if count > 0 { transport.notifyDriver(queue) }
      // Goes on in `resumeSending`.
      if port.isWaiting { return }
      if left == 0 {
        if !pairs[index].isSendPosted.exchange(true, ordering: .sequentiallyConsistent) {
          let pair = pairs[index]
          MainLoop.post { [weak self] in
            pair.isSendPosted.store(false, ordering: .sequentiallyConsistent)
            self?.send(index)
          }
        }
        return
      }
      guard transport.setPolled(queue, false) else { return }
    }
  }

  /// Copies the next frame out and gives its buffers back; nil when there is none. A frame that is none has no bytes.
  private func takeFrame(_ queue: Int, _ transport: VirtioPCI) -> Frame? {
    device.gate.withLock { _ in
      guard transport.pop(queue, into: &sent) else { return nil }
      defer { transport.push(queue, sent, written: 0) }
      let length = Int(clamping: sent.readableLength)
      guard length > headerSize else {
        transport.fail("virtio-net header not in first element")
        return nil
      }
      guard length <= output.count else { return Frame(output, 0..<0) }
      vector.removeAll()
      var pins = MemoryPins()
      defer { transport.memory.release(&pins) }
      guard transport.memory.append(sent.readable, for: .read, to: &vector, pinning: &pins),
        output.gather(vector, from: 0, count: length, at: 0)
      else {
        transport.fail("a frame is not in memory")
        return nil
      }
      guard let offload = Offload(from: output, at: 0) else { return Frame(output, 0..<0) }
      return Frame(output, headerSize..<length, offload)
    }
  }

  // MARK: - To the guest

  package func receive(_ frame: Frame, on port: NetPort) -> Bool {
    let index = port.index
    guard isRunning, index < activePairs, let transport else { return true }
    let passes = device.state.withLock {
      $0.isPromiscuous || $0.passes(frame.destination, vlan: frame.vlan)
    }
    guard passes else { return true }
    let queue = 2 * index
    if fill(queue, frame, transport) { return true }
    // Says so when there are buffers, and looks once more, as they may have come in between.
    pairs[index].isStarved.store(true, ordering: .sequentiallyConsistent)
    if transport.setPolled(queue, false), fill(queue, frame, transport) {
      pairs[index].isStarved.store(false, ordering: .sequentiallyConsistent)
      _ = transport.setPolled(queue, true)
      return true
    }
    return false
  }

  /// Puts a frame into the driver's buffers; false when there are too few.
  private func fill(_ queue: Int, _ frame: Frame, _ transport: VirtioPCI) -> Bool {
    let isFilled: Bool = device.gate.withLock { _ in
      let total = UInt64(headerSize + frame.count)
      var room: UInt64 = 0
      var count = 0
      while room < total {
        if filled.count == count { filled.append(VirtQueueElement()) }
        guard isMergeable || count == 0, transport.pop(queue, into: &filled[count]) else {
          for _ in 0..<count { transport.unpop(queue) }
          // Too large for this driver's buffers, whatever it adds.
          return count > 0 && !isMergeable
        }
        guard filled[count].writableLength > 0, count > 0 || filled[0].writableLength >= 12 else {
          transport.fail("virtio-net receive queue contains no in buffers")
          return true
        }
        room += filled[count].writableLength
        count += 1
      }
      header.storeLittleEndian(UInt16(0), at: 10)
      frame.offload.store(to: header, at: 0)
      if isMergeable || headerSize == Offload.longHeader {
        header.storeLittleEndian(UInt16(truncatingIfNeeded: count), at: 10)
      }
      var done = 0
      var pins = MemoryPins()
      for number in 0..<count {
        vector.removeAll()
        let space = Int(clamping: filled[number].writableLength)
        let before = number == 0 ? headerSize : 0
        let part = min(space - before, frame.count - done)
        guard
          transport.memory.append(
            filled[number].writable, 0, UInt64(before + part), for: .write, to: &vector,
            pinning: &pins)
        else {
          transport.memory.release(&pins)
          transport.fail("a receive buffer is not in memory")
          return true
        }
        if number == 0 { header.scatter(0..<headerSize, to: vector) }
        let start = frame.range.lowerBound + done
        frame.buffer.scatter(start..<start + part, to: vector, at: before)
        transport.memory.release(&pins)
        transport.memory.noteWrites(filled[number].writable)
        done += part
        transport.push(
          queue, filled[number], written: UInt32(truncatingIfNeeded: before + part))
      }
      return true
    }
    if isFilled { transport.notifyDriver(queue) }
    return isFilled
  }

  // MARK: - Link and monitors

  package func linkChanged(on port: NetPort) {
    if port.peer == nil, hadPeer {
      port.isLinkUp = false
      hadPeer = false
    }
    if port.peer != nil { hadPeer = true }
    guard port.index == 0 else { return }
    let isUp = port.isLinkUp
    let (isChanged, hasStatus) = device.state.withLock { state in
      let isChanged = state.isLinkUp != isUp
      state.isLinkUp = isUp
      return (isChanged, state.features & NetFeature.status != 0)
    }
    if isChanged, hasStatus { transport?.configurationChanged() }
    if port.peer != nil, isRunning { setUp(device.state.withLock { $0 }) }
  }

  package var filter: RxFilterInfo? {
    notifiesFilter = true
    return device.state.withLock { $0 }.filter(name: ports.first?.name ?? model)
  }

  package func announce() {
    let byGuest = device.state.withLock { state in
      let needed = NetFeature.guestAnnounce | NetFeature.controlQueue
      guard state.isStarted, state.features & needed == needed else { return false }
      state.wantsAnnouncement = true
      return true
    }
    if byGuest {
      transport?.configurationChanged()
    } else {
      ports.first?.send(Announcements.frame(device.state.withLock { $0.mac }))
    }
  }
}
