import Cluster
import DeviceModel
import Host
import Synchronization

/// Node 0's side of `RemoteDevice`: makes the accesses of other nodes' vCPUs in its own address spaces, on the thread that receives from the
/// node, and answers.
///
/// What an access causes may have to be over before the vCPU goes on: a change of the memory map must have reached all nodes (the answer
/// waits for them, not the thread), and a guest that asked for its own reset must not execute another instruction (the answer says so).
/// While devices come and go (`hold`) no access is under way; those that come meanwhile are made afterwards, each node's in order.
final class DeviceServer: Sendable {
  private let transport: any FrameTransport
  private let ports: AddressSpace
  private let deviceMemory: AddressSpace
  private let placement: [NodeID]
  private let chipset: ChipsetPublisher

  /// An access that a receiving thread makes right now.
  private struct Access {
    var thread: UInt
    var node: NodeID
    var hold: UInt32?
  }
  /// One that waits for `release`.
  private struct Deferred: Sendable {
    var header: FrameHeader
    var node: NodeID
    var bytes: [UInt8]
  }
  private struct State {
    var accesses: [Access] = []
    var lastHold: UInt32 = 0
    var holds = 0
    var deferred: [Deferred] = []
    /// A worker makes those that had to wait.
    var isCatchingUp = false
  }
  private let state = Mutex(State())
  /// Advances when an access ends while somebody waits for that.
  private let ended = WaitWord()

  init(_ seat: ClusterSeat, _ context: MachineContext, _ chipset: ChipsetPublisher) {
    transport = seat.transport
    placement = seat.placement
    ports = context.ports
    deviceMemory = context.deviceMemory
    self.chipset = chipset
  }

  /// One request of `node`.
  func serve(_ header: FrameHeader, of node: NodeID, _ body: any FrameBody) {
    let bytes = body.remaining > 0 ? body.read(body.remaining) ?? [] : []
    if begin(header, node, bytes) { make(header, node, bytes) }
  }

  // MARK: - Between accesses

  /// Waits until no access of another node is under way, and lets none begin until `release`. Main loop.
  func hold() {
    state.withLock { $0.holds += 1 }
    while true {
      let seen = ended.value
      if state.withLock({ $0.accesses.isEmpty }) { return }
      ended.wait(while: seen)
    }
  }

  /// Takes one `hold` back.
  func release() {
    let catchesUp = state.withLock { state in
      state.holds -= 1
      guard state.holds == 0, !state.deferred.isEmpty, !state.isCatchingUp else { return false }
      state.isCatchingUp = true
      return true
    }
    if catchesUp { WorkerPool.shared.submit { self.catchUp() } }
  }

  /// Whether this access may be made now; otherwise it waits its turn.
  private func begin(_ header: FrameHeader, _ node: NodeID, _ bytes: [UInt8]) -> Bool {
    let thread = HostThread.currentHandle
    return state.withLock { state in
      if state.holds > 0 || state.isCatchingUp {
        state.deferred.append(Deferred(header: header, node: node, bytes: bytes))
        return false
      }
      state.accesses.append(Access(thread: thread, node: node))
      return true
    }
  }

  private func catchUp() {
    let thread = HostThread.currentHandle
    while true {
      let next = state.withLock { state -> Deferred? in
        guard state.holds == 0, !state.deferred.isEmpty else {
          state.isCatchingUp = false
          return nil
        }
        let next = state.deferred.removeFirst()
        state.accesses.append(Access(thread: thread, node: next.node))
        return next
      }
      guard let next else { return }
      make(next.header, next.node, next.bytes)
    }
  }

  /// The access that this thread makes is over: what its answer must say besides.
  private func end() -> Access? {
    let thread = HostThread.currentHandle
    let (access, isWatched) = state.withLock { state -> (Access?, Bool) in
      guard let index = state.accesses.lastIndex(where: { $0.thread == thread }) else {
        return (nil, false)
      }
      return (state.accesses.remove(at: index), state.holds > 0)
    }
    if isWatched { ended.advance() }
    return access
  }

  // MARK: - Accesses

  private func make(_ header: FrameHeader, _ node: NodeID, _ bytes: [UInt8]) {
    var answer: (argument: UInt64, bytes: [UInt8])?
    switch header.type {
    case .portRead, .portWrite:
      if let access = DeviceFrames.port(header.argument), isOwn(access, node) {
        answer = port(access, isRead: header.type == .portRead, bytes)
      }
    case .memoryRead:
      let access = DeviceFrames.memory(header.argument)
      if isOwn(access, node) {
        let value = deviceMemory.read(
          access.address, width: access.width, vcpu: VCPUID(access.vcpu))
        answer = (value, [])
      }
    case .memoryWrite, .doorbell:
      let access = DeviceFrames.memory(header.argument)
      if isOwn(access, node), bytes.count == 8 {
        deviceMemory.write(
          access.address, width: access.width, LittleEndian(bytes).u64(0),
          vcpu: VCPUID(access.vcpu))
        answer = (0, [])
      }
    default: break
    }
    let access = end()
    guard header.request != 0 else { return }
    guard var answer else {
      return transport.refuse(header, of: node, "no such device access")
    }
    if let hold = access?.hold { answer.bytes.append32(hold) }
    if chipset.isPublished {
      // As nearly always: without a closure.
      return transport.reply(
        to: header, of: node, argument: answer.argument, bytes: answer.bytes)
    }
    let (transport, reply) = (transport, answer)
    chipset.whenPublished {
      transport.reply(to: header, of: node, argument: reply.argument, bytes: reply.bytes)
    }
  }

  /// One port, or several elements of a string instruction, one after the other: nil when there is no such access. The vCPU goes on
  /// with the rest itself when the guest has asked for something that must come before its next instruction.
  private func port(
    _ access: DeviceFrames.Access, isRead: Bool, _ bytes: [UInt8]
  ) -> (argument: UInt64, bytes: [UInt8])? {
    let vcpu = VCPUID(access.vcpu)
    guard access.isString else {
      if isRead { return (ports.read(access.address, width: access.width, vcpu: vcpu), []) }
      ports.write(access.address, width: access.width, UInt64(access.value), vcpu: vcpu)
      return (0, [])
    }
    let count = Int(access.value)
    guard count > 0, count <= DeviceFrames.longestString / access.width,
      bytes.count == (isRead ? 0 : count * access.width)
    else { return nil }
    var result: [UInt8] = []
    if isRead { result.reserveCapacity(count * access.width + 4) }
    var done = 0
    repeat {
      if isRead {
        let value = ports.read(access.address, width: access.width, vcpu: vcpu)
        DeviceFrames.append(value, width: access.width, to: &result)
      } else {
        let value = DeviceFrames.element(done, width: access.width, of: bytes)
        ports.write(access.address, width: access.width, UInt64(value), vcpu: vcpu)
      }
      done += 1
    } while done < count && !isHeld
    return (UInt64(done), result)
  }

  /// Whether the guest has asked for something in the access that this thread makes.
  private var isHeld: Bool {
    let thread = HostThread.currentHandle
    return state.withLock { state in
      state.accesses.last { $0.thread == thread }?.hold != nil
    }
  }

  private func isOwn(_ access: DeviceFrames.Access, _ node: NodeID) -> Bool {
    let index = Int(access.vcpu)
    return index < placement.count && placement[index] == node
  }

  /// The guest, in the access that the calling thread makes, asked for something that must come before its next instruction. The node
  /// and the number of the hold that its answer will carry; nil when the calling thread makes no access for another node.
  func noteHold() -> (node: NodeID, hold: UInt32)? {
    let thread = HostThread.currentHandle
    return state.withLock { state in
      guard let index = state.accesses.lastIndex(where: { $0.thread == thread }) else {
        return nil
      }
      state.lastHold &+= 1
      if state.accesses[index].hold == nil { state.accesses[index].hold = state.lastHold }
      return state.accesses[index].hold.map { (state.accesses[index].node, $0) }
    }
  }
}
