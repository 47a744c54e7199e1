package import Cluster
import DeviceModel
import DistIRQ
import Host
import Shm
import Synchronization

/// A machine's place in its cluster: which vCPUs are here, and everything that the machine's side of other nodes sends.
///
/// Made before the node joins, so that its frames have a receiver from the first moment; the machine follows. Frames arrive on threads that
/// must not wait: interrupts go into local APICs and accesses into the bus at once, the rest goes to the main loop.
package final class ClusterSeat: FrameHandler {
  package let transport: any FrameTransport
  /// This node.
  package var node: NodeID { transport.node }
  /// The node of each vCPU of the machine.
  package let placement: [NodeID]
  /// What this node does when another is lost.
  package let lossPolicy: ClusterConfiguration.LossPolicy
  package let counters = SeatCounters()
  /// Cluster time minus this host's monotonic time, in nanoseconds: node 0's clock is cluster time.
  package var clockOffset: Int64 { clock.withLock { $0 }.offset() }

  private struct Clock: Sendable { let offset: @Sendable () -> Int64 }
  private let clock = Mutex(Clock { 0 })

  /// Takes cluster time from `offset` from now on.
  package func followClock(_ offset: @escaping @Sendable () -> Int64) {
    clock.withLock { $0 = Clock(offset: offset) }
  }

  private struct Accuser: Sendable { let call: @Sendable (NodeID, String) -> Void }
  private let accuser = Mutex<Accuser?>(nil)

  /// Calls `handler` with a node that has sent what no node may send: it is to be expelled. On a receiving thread or the main loop.
  package func onViolation(_ handler: @escaping @Sendable (NodeID, String) -> Void) {
    accuser.withLock { $0 = Accuser(call: handler) }
  }

  /// The machine's parts that frames concern.
  final class Receivers: Sendable {
    let fabric: InterruptFabric
    let server: DeviceServer?
    let publisher: ChipsetPublisher?
    let follower: ChipsetFollower?
    let coherent: CoherentMemory?
    /// Holds all vCPUs of this node, or takes that back. Any thread.
    let hold: @Sendable (Bool) -> Void
    /// On the main loop, in order of arrival.
    let signal: @MainLoop @Sendable (ClusterSignal, NodeID, [UInt8]) -> Void
    let lost: @MainLoop @Sendable (NodeID, String) -> Void

    init(
      fabric: InterruptFabric, server: DeviceServer?, publisher: ChipsetPublisher?,
      follower: ChipsetFollower?, coherent: CoherentMemory?,
      hold: @escaping @Sendable (Bool) -> Void,
      signal: @escaping @MainLoop @Sendable (ClusterSignal, NodeID, [UInt8]) -> Void,
      lost: @escaping @MainLoop @Sendable (NodeID, String) -> Void
    ) {
      self.fabric = fabric
      self.server = server
      self.publisher = publisher
      self.follower = follower
      self.coherent = coherent
      self.hold = hold
      self.signal = signal
      self.lost = lost
    }
  }

  private struct Early: Sendable {
    var signal: ClusterSignal
    var node: NodeID
    var bytes: [UInt8]
  }
  private struct State: Sendable {
    var receivers: Receivers?
    /// Signals that came before the machine: others that were ready first.
    var early: [Early] = []
    /// Holds that are in force, and those whose end came before they did.
    var holds: Set<UInt32> = []
    var holdsOver: Set<UInt32> = []
    /// The vCPUs stand, because a node is lost.
    var isFrozen = false
    var frozenReason: String?
    /// They stand, because this node has no lease.
    var isStanding = false
    /// All that are lost.
    var lost: NodeSet = []
    /// A loss that came before the machine.
    var earlyLoss: (node: NodeID, reason: String)?
  }
  private let state = Mutex(State())

  static let types: [FrameType] = [
    .portRead, .portWrite, .memoryRead, .memoryWrite, .doorbell, .interrupt, .nmi, .endOfInterrupt,
    .apicConfiguration, .picAcknowledge, .chipset, .line, .machineRequest,
  ]

  /// A seat that takes the machine's frames from `transport` on. `placement` says the node of each vCPU.
  package init(
    _ transport: any FrameTransport, placement: [NodeID],
    lossPolicy: ClusterConfiguration.LossPolicy = .pause
  ) {
    self.transport = transport
    self.placement = placement
    self.lossPolicy = lossPolicy
    transport.setHandler(self, for: ClusterSeat.types)
  }

  /// Whether this node has the devices and decides.
  package var isFirst: Bool { node == .devices }

  /// The vCPUs of a node, by index.
  package func vcpus(of node: NodeID) -> [UInt32] {
    placement.indices.filter { placement[$0] == node }.map { UInt32(truncatingIfNeeded: $0) }
  }

  /// All nodes but this one.
  var others: [NodeID] {
    (0..<transport.nodeCount).map { NodeID(rawValue: UInt8(truncatingIfNeeded: $0)) }
      .filter { $0 != node }
  }

  // MARK: - The machine

  func attach(_ receivers: Receivers) {
    let early = state.withLock { state in
      state.receivers = receivers
      let early = state.early
      state.early = []
      return early
    }
    if let loss = state.withLock({ $0.earlyLoss }) { freeze(loss.node, loss.reason) }
    for one in early { deliver(one.signal, one.node, one.bytes, receivers) }
  }

  func send(_ signal: ClusterSignal, _ bytes: [UInt8] = [], to node: NodeID) {
    transport.send(
      FrameHeader(.machineRequest, argument: signal.argument), bytes: bytes, to: node)
  }

  /// A route of a vCPU of this node has changed; the other nodes have it when this returns. On the vCPU's thread; on the main loop, where
  /// all vCPUs stand, it does not wait.
  func tell(_ route: APICRoute, of vcpu: VCPUID) {
    let header = FrameHeader(
      .apicConfiguration, argument: InterruptFrames.argument(route, vcpu: vcpu.rawValue))
    for node in others {
      if MainLoop.isCurrent {
        transport.send(header, body: IOVector(), to: node)
      } else {
        // A lost node needs no route.
        _ = try? transport.request(header, body: IOVector(), to: node)
      }
    }
  }

  // MARK: - Holds

  /// The answer to a device access holds the vCPUs of this node: four bytes, its number.
  func hold(_ bytes: [UInt8]) {
    let number = LittleEndian(bytes).u32(0)
    let receivers = state.withLock { state -> Receivers? in
      if state.holdsOver.remove(number) != nil { return nil }
      return state.holds.insert(number).inserted ? state.receivers : nil
    }
    receivers?.hold(true)
  }

  func holdIsOver(_ number: UInt32) {
    let receivers = state.withLock { state -> Receivers? in
      if state.holds.remove(number) != nil { return state.receivers }
      // An answer of an access that is under way; there is one for each vCPU at most.
      if state.holdsOver.count < placement.count * 2 { state.holdsOver.insert(number) }
      return nil
    }
    receivers?.hold(false)
  }

  /// A device access found nobody: the guest goes no further here.
  func accessFailed(_ error: TransportError) {
    switch error {
    case .lost(let node): freeze(node, "it does not answer a device access")
    case .refused(let reason): freeze(.devices, "it refused a device access: \(reason)")
    }
  }

  private func freeze(_ node: NodeID, _ reason: String) {
    let (receivers, isFirst) = state.withLock { state -> (Receivers?, Bool) in
      guard let receivers = state.receivers else {
        state.earlyLoss = (node, reason)
        return (nil, false)
      }
      if state.frozenReason == nil { state.frozenReason = "\(node) is lost: \(reason)" }
      defer { state.isFrozen = true }
      return (receivers, !state.isFrozen)
    }
    if isFirst {
      receivers?.hold(true)
      // Who waits for a page that will not come would never stand.
      receivers?.coherent?.freeze()
    }
    if let receivers { MainLoop.post { receivers.lost(node, reason) } }
  }

  /// Why the vCPUs stand until somebody accepts the loss of a node; nil when they do not.
  var frozenReason: String? { state.withLock { $0.isFrozen ? $0.frozenReason ?? "" : nil } }

  /// This node's vCPUs stand at once until further notice, or may go on: for want of a lease. Any thread.
  package func setStanding(_ stands: Bool) {
    let receivers = state.withLock { state -> Receivers? in
      guard state.isStanding != stands else { return nil }
      state.isStanding = stands
      return state.receivers
    }
    receivers?.hold(stands)
  }

  /// A node is lost, as the membership says. Any thread.
  package func lost(_ node: NodeID, because reason: String) {
    let receivers = state.withLock { state in
      state.lost.insert(NodeSet(node))
      return state.receivers
    }
    receivers?.publisher?.lost(node)
    freeze(node, reason)
  }

  /// The user lets the machine go on without the nodes that are lost: memory is gathered from the others, which do the same. Returns when
  /// this node's part is over. Any thread that may wait.
  package func recover() {
    let (coherent, lost) = state.withLock { ($0.receivers?.coherent, $0.lost) }
    guard let coherent else { return }
    let done = WaitWord()
    let seen = done.value
    coherent.recover(without: lost) { done.advance() }
    while done.value == seen { done.wait(while: seen) }
  }

  /// All have recovered: vCPUs may run again, once the machine is told to. Any thread.
  package func goOn() {
    state.withLock { $0.receivers }?.coherent?.thaw()
    let receivers = state.withLock { state -> Receivers? in
      guard state.isFrozen else { return nil }
      state.isFrozen = false
      state.frozenReason = nil
      return state.receivers
    }
    receivers?.hold(false)
  }

  // MARK: - FrameHandler

  package func lost(_ node: NodeID) {
    lost(node, because: "the connection to it has ended")
  }

  package func received(_ header: FrameHeader, from node: NodeID, _ body: any FrameBody) {
    guard let receivers = state.withLock({ $0.receivers }) else {
      return receivedEarly(header, node, body)
    }
    switch header.type {
    case .interrupt:
      guard let message = InterruptFrames.message(header.argument) else {
        return complain(header, node)
      }
      var set = VCPUSet()
      let vcpu = InterruptFrames.vcpu(header.argument)
      if vcpu != InterruptFrames.several {
        set.insert(Int(vcpu))
      } else if let bytes = body.read(InterruptFrames.setSize),
        let several = InterruptFrames.set(bytes)
      {
        set = several
      }
      receivers.fabric.receive(message, for: set)
      if header.request != 0 { transport.reply(to: header, of: node) }
    case .nmi: receivers.fabric.pulseLocalNMI()
    case .endOfInterrupt where isFirst:
      receivers.fabric.endOfInterrupt(vector: UInt8(truncatingIfNeeded: header.argument))
    case .apicConfiguration:
      let (vcpu, route) = InterruptFrames.route(header.argument)
      guard Int(vcpu) < placement.count, placement[Int(vcpu)] == node else {
        return complain(header, node)
      }
      receivers.fabric.setRoute(of: VCPUID(vcpu), route)
      if header.request != 0 { transport.reply(to: header, of: node) }
    case .line where node == .devices: receivers.fabric.receiveLINT0(header.argument == 1)
    case .picAcknowledge where isFirst:
      // Of the boot processor by its pin, or of any that an ExtINT message was for.
      let vector = receivers.fabric.acknowledgePIC()
      transport.reply(to: header, of: node, argument: vector.map { UInt64($0) | 0x100 } ?? 0)
    case .portRead, .portWrite, .memoryRead, .memoryWrite, .doorbell:
      guard let server = receivers.server else { return complain(header, node) }
      server.serve(header, of: node, body)
    case .chipset: receivedChipset(header, node, body, receivers)
    case .machineRequest:
      guard let signal = ClusterSignal(header.argument) else { return complain(header, node) }
      deliver(signal, node, body.read(body.remaining) ?? [], receivers)
    default: complain(header, node)
    }
  }

  private func receivedChipset(
    _ header: FrameHeader, _ node: NodeID, _ body: any FrameBody, _ receivers: Receivers
  ) {
    let bytes = body.read(body.remaining) ?? []
    if let follower = receivers.follower, node == .devices {
      if let complaint = follower.received(header.argument, bytes) {
        violated(node, "it sent a \(complaint)")
      }
    } else if let publisher = receivers.publisher, bytes.count == 8,
      header.argument == UInt64(ChipsetMap.Kind.acknowledgement.rawValue)
    {
      publisher.acknowledged(LittleEndian(bytes).u64(0), by: node)
    } else {
      complain(header, node)
    }
  }

  private func receivedEarly(_ header: FrameHeader, _ node: NodeID, _ body: any FrameBody) {
    guard header.type == .machineRequest, let signal = ClusterSignal(header.argument) else {
      // A node that is ready before this one; it asks again, or needs no answer.
      Log.error("\(node) sent a frame of type \(header.type) before this node was ready")
      if header.request != 0 { transport.refuse(header, of: node, "not ready") }
      return
    }
    let bytes = body.read(body.remaining) ?? []
    let receivers = state.withLock { state in
      // One of each node is all that can come.
      if state.receivers == nil, state.early.count < NodeID.limit {
        state.early.append(Early(signal: signal, node: node, bytes: bytes))
      }
      return state.receivers
    }
    if let receivers { deliver(signal, node, bytes, receivers) }
  }

  private func deliver(
    _ signal: ClusterSignal, _ node: NodeID, _ bytes: [UInt8], _ receivers: Receivers
  ) {
    if signal.kind == .holdOver, node == .devices { return holdIsOver(signal.number) }
    MainLoop.post { receivers.signal(signal, node, bytes) }
  }

  /// A node has broken the protocol: nobody computes on with what may be wrong.
  func violated(_ node: NodeID, _ reason: String) {
    Log.error("\(node) broke the protocol: \(reason)")
    if let accuser = accuser.withLock({ $0 }) {
      accuser.call(node, reason)
    } else {
      freeze(node, reason)
    }
  }

  /// A frame that this node cannot have been sent by a node of this program.
  private func complain(_ header: FrameHeader, _ node: NodeID) {
    violated(node, "a frame of type \(header.type) makes no sense here")
    if header.request != 0 {
      transport.refuse(header, of: node, "frame of type \(header.type) makes no sense here")
    }
  }
}
