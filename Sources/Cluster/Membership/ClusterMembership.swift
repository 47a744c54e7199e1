import Host
import Synchronization

/// Joining: from a configuration to links with all nodes (distributed.md, section 3).
package enum ClusterMembership {
  /// Listens, connects to the nodes before this one, is connected to by those behind it, compares configurations with node 0, and relates
  /// the clocks. Returns when all nodes are linked; nodes may be started in any order. Waits: not on the main loop.
  ///
  /// - Parameters:
  ///   - items: what must be alike on all nodes; node 0 compares, and both sides tell what differs.
  ///   - offer: for node 0: bytes that it reads from `JoinedCluster.offers`.
  ///   - credentials: nil for none, which `Options` allows where nobody else can connect, or the user wants it.
  ///   - judge: on node 0, what speaks against a node's offer; nil when nothing does. On a receiving thread.
  ///   - agree: on node 0, what follows from the offers of all nodes (by number, its own too), which every node then reads from
  ///     `JoinedCluster.agreement`; what it throws is told to all. On a receiving thread.
  ///   - progress: what others see meanwhile, and how they end it.
  ///
  /// Throws `ClusterError` with one line for the user: who is missing, what differs, who refused.
  package static func join(
    _ configuration: ClusterConfiguration, items: [ConfigurationItem], offer: [UInt8] = [],
    credentials: ClusterCredentials? = nil,
    judge: @escaping @Sendable (NodeID, [UInt8]) -> String? = { _, _ in nil },
    agree: @escaping @Sendable ([[UInt8]]) throws(ClusterError) -> [UInt8] = { _ in [] },
    progress: JoinProgress? = nil
  ) throws(ClusterError) -> JoinedCluster {
    let joining = try Joining(configuration, items, offer, credentials, judge, agree)
    progress?.attach(joining)
    return try joining.run()
  }
}

/// One attempt to join.
final class Joining: FrameHandler {
  private let configuration: ClusterConfiguration
  private let items: [ConfigurationItem]
  private let offer: [UInt8]
  private let credentials: ClusterCredentials?
  private let judge: @Sendable (NodeID, [UInt8]) -> String?
  private let agree: @Sendable ([[UInt8]]) throws(ClusterError) -> [UInt8]
  /// Node 0: the CONFIG of those that wait for the answer.
  private let unanswered: Mutex<[(FrameHeader, NodeID)]> = Mutex([])
  private let transport: LinkTransport
  private let service: JoinedCluster
  private let model: Mutex<JoinModel>
  /// Advances when the model changes.
  private let word = WaitWord()
  private let isOver = Atomic<Bool>(false)
  /// Connections whose handshakes are under way, the oldest first.
  private let halfOpen: Mutex<[HalfOpen]> = Mutex([])
  private let welcomes = Atomic<Int>(0)
  private let threads = Mutex<[HostThread]>([])
  private let listener: FileDescriptor
  private let refused = Atomic<Int>(0)

  private var node: NodeID { configuration.node }

  init(
    _ configuration: ClusterConfiguration, _ items: [ConfigurationItem], _ offer: [UInt8],
    _ credentials: ClusterCredentials?, _ judge: @escaping @Sendable (NodeID, [UInt8]) -> String?,
    _ agree: @escaping @Sendable ([[UInt8]]) throws(ClusterError) -> [UInt8]
  ) throws(ClusterError) {
    let count = configuration.addresses.count
    guard (2...NodeID.limit).contains(count), configuration.node.index < count else {
      throw ClusterError(
        .configuration, "a cluster has 2 to \(NodeID.limit) nodes, numbered from 0")
    }
    self.configuration = configuration
    self.items = items
    self.offer = offer
    self.credentials = credentials
    self.judge = judge
    self.agree = agree
    listener = try Joining.listen(configuration)
    var random = SystemRandomNumberGenerator()
    let instance =
      configuration.node == .devices ? UInt64.random(in: 1...UInt64.max, using: &random) : 0
    model = Mutex(JoinModel(configuration, items: items, instance: instance))
    transport = LinkTransport(node: configuration.node, nodeCount: count)
    service = JoinedCluster(configuration, transport)
    transport.setHandler(self, for: [.config])
  }

  private static func listen(
    _ configuration: ClusterConfiguration
  ) throws(ClusterError) -> FileDescriptor {
    let address = configuration.addresses[configuration.node.index]
    do throws(SocketError) {
      if case .unix(let path) = address, let slash = path.lastIndex(of: "/"),
        path[..<slash] == PrivateFolder.runtimePath
          || path.hasPrefix(PrivateFolder.runtimePath + "/")
      {
        try PrivateFolder.make(String(path[..<slash]))
      }
      return try Socket.listen(address, backlog: 128)
    } catch {
      throw ClusterError(
        .network,
        "cluster '\(configuration.id)': \(configuration.node) cannot listen at"
          + " \(address.text): \(error.message)")
    }
  }

  private func change<T: Sendable>(_ body: (inout JoinModel) -> T) -> T {
    let result = model.withLock { body(&$0) }
    word.advance()
    return result
  }

  // MARK: - The thread that joins

  func run() throws(ClusterError) -> JoinedCluster {
    transport.setLinkObserver { [weak self] node, end in self?.linkEnded(node, end) }
    start("join/accept") { [self] in acceptLoop() }
    for target in model.withLock({ $0.targets }) {
      start("join/\(target.rawValue)") { [self] in connectLoop(target) }
    }
    let deadline =
      HostClock.monotonic &+ Int64(configuration.joinTimeoutSeconds) &* 1_000_000_000
    var failure: ClusterError?
    while failure == nil {
      let seen = word.value
      let outcome = model.withLock { $0.outcome }
      if outcome == .joined { break }
      if case .failed(let error) = outcome { failure = error }
      let left = deadline &- HostClock.monotonic
      if failure == nil, left <= 0 { failure = model.withLock { $0.timeout } }
      if failure == nil { word.wait(while: seen, nanoseconds: left) }
    }
    isOver.store(true, ordering: .sequentiallyConsistent)
    // Ends the wait for connections, and whoever waits to be accepted learns that nobody does any more.
    Socket.shutDown(listener.rawValue)
    if let failure {
      service.breakOff(failure)
      endThreads()
      removeSocket()
      throw failure
    }
    endThreads()
    removeSocket()
    let (owners, instance, offers, agreement) = model.withLock { model in
      (model.vcpuOwners.map { $0 ?? .devices }, model.instance, model.offers, model.agreement)
    }
    service.joined(
      vcpuOwners: owners, instance: instance, offers: offers, agreement: agreement ?? [])
    return service
  }

  func cancel(_ error: ClusterError) { change { $0.failed(error) } }

  var peers: [JoinProgress.Peer] { model.withLock { $0.progress } }

  private func endThreads() {
    while true {
      let all = threads.withLock { threads in
        let all = threads
        threads = []
        return all
      }
      if all.isEmpty { break }
      for thread in all { thread.join() }
    }
    while true {
      let seen = word.value
      if welcomes.load(ordering: .sequentiallyConsistent) == 0 { return }
      halfOpen.withLock { for entry in $0 { entry.socket.shutDown() } }
      word.wait(while: seen, nanoseconds: 50_000_000)
    }
  }

  /// Nobody connects any more.
  private func removeSocket() {
    if case .unix(let path) = configuration.addresses[node.index] { FileDescriptor.remove(path) }
  }

  private func start(_ name: String, _ body: @escaping @Sendable () -> Void) {
    do throws(SystemError) {
      let thread = try HostThread(name: name, body)
      threads.withLock { $0.append(thread) }
    } catch {
      change { $0.failed(ClusterError(.network, "no thread for joining: \(error)")) }
    }
  }

  private func linkEnded(_ node: NodeID, _ end: LinkEnd) {
    let error =
      service.reasonTold(by: node)
      ?? ClusterError(.lost, "\(node) left while joining: \(end.reason)")
    change { $0.failed(error) }
  }

  // MARK: - Connections that come

  private func acceptLoop() {
    let most = 2 * configuration.addresses.count
    while !isOver.load(ordering: .sequentiallyConsistent) {
      var entries = [PollEntry(listener.rawValue, .readable)]
      let ready = (try? PollEntry.wait(&entries, milliseconds: 1000)) ?? 0
      guard ready > 0, !isOver.load(ordering: .sequentiallyConsistent) else { continue }
      guard makeRoom(most), let accepted = try? Socket.accept(listener.rawValue),
        let socket = try? StreamSocket(accepted)
      else {
        HostClock.sleep(nanoseconds: 1_000_000)
        continue
      }
      let entry = HalfOpen(socket)
      halfOpen.withLock { $0.append(entry) }
      // Many may come: nobody keeps what is left of their threads.
      welcomes.add(1, ordering: .sequentiallyConsistent)
      let thread = try? HostThread(name: "join/accepted") { [self] in
        welcome(entry)
        forget(entry)
        welcomes.subtract(1, ordering: .sequentiallyConsistent)
        word.advance()
      }
      if let thread {
        thread.detach()
      } else {
        forget(entry)
        welcomes.subtract(1, ordering: .sequentiallyConsistent)
      }
    }
  }

  /// A connection whose peer is not known yet.
  private final class HalfOpen: Sendable {
    let socket: StreamSocket
    let since = HostClock.monotonic
    init(_ socket: StreamSocket) { self.socket = socket }
  }

  private func forget(_ entry: HalfOpen) {
    halfOpen.withLock { $0.removeAll { $0 === entry } }
  }

  /// How long (nanoseconds) a connection keeps its place while others wait for one.
  private static let patience: Int64 = 100_000_000

  /// Whether there is room for another connection. The oldest one gives way, so that many that say nothing do not keep the others out.
  private func makeRoom(_ most: Int) -> Bool {
    halfOpen.withLock { connections in
      if connections.count < most { return true }
      if HostClock.monotonic &- connections[0].since > Joining.patience {
        connections[0].socket.shutDown()
      }
      return false
    }
  }

  private func welcome(_ entry: HalfOpen) {
    let socket = entry.socket
    socket.tune(timeoutMilliseconds: Int32(clamping: configuration.leaseMilliseconds))
    var handshake = Handshake(socket)
    do throws(Handshake.Failure) {
      if let credentials { try handshake.protect(credentials.server) }
      let hello = try handshake.hello()
      if let credentials,
        let reason = handshake.refusal(
          hello.node, configuration.id, credentials.server.kind, isServer: true)
      {
        handshake.refuse(reason, isFinal: true, node)
        throw .credentials(reason)
      }
      // It is known, and gives way to nobody any more: should this end the joining, it is told why before its connection ends.
      forget(entry)
      switch change({ $0.admit(hello, expected: nil) }) {
      case .welcome: break
      case .refuse(let reason):
        handshake.refuse(reason, isFinal: !reason.contains("already"), node)
        throw .refused(reason, isFinal: false)
      case .fail(let error):
        handshake.refuse(error.message, isFinal: true, node)
        return
      }
      try handshake.send(model.withLock { $0.hello(hello.stream) })
      attach(handshake.finish(), hello)
    } catch {
      socket.shutDown()
      guard !isOver.load(ordering: .sequentiallyConsistent) else { return }
      switch error {
      case .ended: break
      case .refused(let reason, _), .credentials(let reason):
        warn(reason)
      }
    }
  }

  /// Says why a connection was refused: the first few, then seldomer and seldomer, since anybody may come again and again.
  private func warn(_ reason: String) {
    let count = refused.add(1, ordering: .relaxed).newValue
    guard count <= 8 || count & (count &- 1) == 0 else { return }
    let number = count <= 8 ? "a connection was" : "\(count) connections were"
    Log.warning("cluster '\(configuration.id)': \(number) refused: \(reason)")
  }

  private func attach(_ connection: consuming NodeConnection, _ hello: Hello) {
    do throws(SystemError) {
      guard try transport.attach(connection, to: hello.node, hello.stream) else { return }
      change { $0.attached(hello.node, hello.stream) }
    } catch {
      change { $0.failed(ClusterError(.network, "a link cannot be made: \(error)")) }
    }
  }

  // MARK: - Connections that this node makes

  private func connectLoop(_ target: NodeID) {
    for stream in StreamKind.allCases {
      // Nodes that are started together are there within milliseconds.
      var pause: Int64 = 1_000_000
      while !isOver.load(ordering: .sequentiallyConsistent) {
        do throws(Handshake.Failure) {
          try connect(target, stream)
          break
        } catch {
          switch error {
          case .ended(let reason): change { $0.trouble(target, reason) }
          case .refused(let reason, isFinal: false): change { $0.trouble(target, reason) }
          case .refused(let reason, isFinal: true):
            return change {
              $0.failed(ClusterError(.refused, "\(target) refuses this node: \(reason)"))
            }
          case .credentials(let reason):
            return change {
              $0.failed(
                ClusterError(
                  .credentials,
                  "\(target) at \(configuration.addresses[target.index].text): \(reason)"))
            }
          }
        }
        sleep(pause)
        pause = min(pause * 2, 2_000_000_000)
      }
    }
    if target == .devices, !isOver.load(ordering: .sequentiallyConsistent) { settle() }
  }

  /// Sleeps so long, or until joining is over.
  private func sleep(_ nanoseconds: Int64) {
    let end = HostClock.monotonic &+ nanoseconds
    while !isOver.load(ordering: .sequentiallyConsistent), HostClock.monotonic < end {
      HostClock.sleep(nanoseconds: min(20_000_000, max(0, end &- HostClock.monotonic)))
    }
  }

  /// Connects to the first address that a name stands for and that answers within a second.
  private func reach(_ address: SocketAddress) throws(Handshake.Failure) -> StreamSocket {
    var reason = "it has no address"
    do throws(SocketError) {
      for candidate in try Socket.candidates(address).addresses {
        do throws(SystemError) {
          let (number, isPending) = try Socket.startConnecting(candidate)
          let made = FileDescriptor(owning: number)
          if isPending {
            var entries = [PollEntry(number, .writable)]
            guard try PollEntry.wait(&entries, milliseconds: 1000) > 0 else {
              reason = "no answer"
              continue
            }
            let code = Socket.connectResult(number)
            if code != 0 { throw SystemError(call: "connect", code: code) }
          }
          return try StreamSocket(made)
        } catch { reason = error.reason }
      }
    } catch { reason = error.message }
    throw .ended(reason)
  }

  private func connect(_ target: NodeID, _ stream: StreamKind) throws(Handshake.Failure) {
    let socket = try reach(configuration.addresses[target.index])
    socket.tune(timeoutMilliseconds: Int32(clamping: configuration.leaseMilliseconds))
    var handshake = Handshake(socket)
    do throws(Handshake.Failure) {
      if let credentials { try handshake.protect(credentials.client) }
      if let credentials,
        let reason = handshake.refusal(
          target, configuration.id, credentials.client.kind, isServer: false)
      {
        throw .credentials(reason)
      }
      try handshake.send(model.withLock { $0.hello(stream) })
      let answer = try handshake.hello()
      guard answer.stream == stream else {
        throw .refused("\(target) answered for another stream", isFinal: true)
      }
      switch change({ $0.admit(answer, expected: target) }) {
      case .welcome: attach(handshake.finish(), answer)
      case .refuse(let reason): throw .refused(reason, isFinal: true)
      case .fail: break
      }
    } catch {
      socket.shutDown()
      throw error
    }
  }

  // MARK: - Configuration and time

  /// Another node than 0: tells node 0 its configuration, and relates the clocks.
  private func settle() {
    do throws(TransportError) {
      let reply = try transport.request(
        FrameHeader(.config), bytes: ConfigurationOffer(items: items, offer: offer).bytes,
        to: .devices)
      if reply.argument != 0 {
        let text = String(decoding: reply.body, as: UTF8.self)
        return change { $0.failed(ClusterError(.configuration, text)) }
      }
      try service.relateClocks(exchanges: 16)
      change { $0.settled(reply.body) }
    } catch {
      if case .refused(let reason) = error {
        change { $0.failed(ClusterError(.refused, "node 0 refuses this node: \(reason)")) }
      }
      // A lost link is told by itself.
    }
  }

  func received(_ header: FrameHeader, from node: NodeID, _ body: any FrameBody) {
    guard self.node == .devices, header.request != 0,
      !isOver.load(ordering: .sequentiallyConsistent),
      let offer = body.read(body.remaining).flatMap({ ConfigurationOffer($0) })
    else {
      return transport.refuse(header, of: node, "CONFIG makes no sense here")
    }
    // The answer goes before this node gives up.
    let reason = judge(node, offer.offer).map { "\(node): \($0)" }
    if let text = model.withLock({ $0.complaint(node, offer) }) ?? reason {
      answer([(header, node)], .configDiff, Array(text.utf8))
      return change { $0.failed(ClusterError(.configuration, text)) }
    }
    let own = self.offer
    let offers: [[UInt8]]? = model.withLock { model in
      unanswered.withLock { $0.append((header, node)) }
      model.configured(node, offer)
      guard model.hasAllOffers else { return nil }
      return [own] + model.offers.dropFirst()
    }
    guard let offers else { return word.advance() }
    let waiting = unanswered.withLock { $0 }
    do throws(ClusterError) {
      let agreement = try agree(offers)
      answer(waiting, .configOK, agreement)
      change { $0.agreed(agreement) }
    } catch {
      answer(waiting, .configDiff, Array(error.message.utf8))
      change { $0.failed(error) }
    }
  }

  private func answer(
    _ requests: [(FrameHeader, NodeID)], _ type: FrameType, _ bytes: [UInt8]
  ) {
    for (header, node) in requests {
      var header = header
      header.type = type
      transport.reply(
        to: header, of: node, argument: type == .configOK ? 0 : 1,
        bytes: Array(bytes.prefix(60 << 10)))
    }
  }

  func lost(_ node: NodeID) {}
}
