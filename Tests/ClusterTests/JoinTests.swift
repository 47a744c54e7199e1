import Cluster
import Host
import Support
import Synchronization
import Testing

/// What came of each node's attempt.
final class JoinResults: Sendable {
  private let all: Mutex<[Int: Result<JoinedCluster, ClusterError>]> = Mutex([:])

  func set(_ node: Int, _ result: Result<JoinedCluster, ClusterError>) {
    all.withLock { $0[node] = result }
  }
  subscript(_ node: Int) -> JoinedCluster? {
    guard case .success(let cluster) = all.withLock({ $0[node] }) else { return nil }
    return cluster
  }
  func error(_ node: Int) -> ClusterError? {
    guard case .failure(let error) = all.withLock({ $0[node] }) else { return nil }
    return error
  }
  var clusters: [JoinedCluster] { all.withLock { $0.values.compactMap { try? $0.get() } } }
  func leave() {
    // All at once: nobody is found missing.
    let threads = clusters.compactMap { cluster in
      try? HostThread(name: "leave") { cluster.leave() }
    }
    for thread in threads { thread.join() }
  }
}

enum JoinFixture {
  /// Addresses of nodes: unix sockets in a folder of their own, or TCP on ports that nobody has.
  static func addresses(_ count: Int, _ host: String? = nil) throws -> [SocketAddress] {
    guard let host else {
      let folder = Goliath.temporaryFolder()
      return (0..<count).map { .unix(path: "\(folder)/node-\($0)") }
    }
    return try (0..<count).map { _ in
      let free = try Socket.listen(.inet(InetAddress(host: host, port: "0")))
      let port = Socket.localAddress(free.rawValue)?.port ?? 0
      return .inet(InetAddress(host: host, port: String(port)))
    }
  }

  /// One node's configuration: vCPU N on node N.
  static func configuration(
    _ node: Int, _ addresses: [SocketAddress], seconds: Int = 20
  ) -> ClusterConfiguration {
    var configuration = ClusterConfiguration(
      id: "test", node: NodeID(rawValue: UInt8(node)), addresses: addresses, vcpus: [UInt32(node)],
      vcpuCount: addresses.count, memory: .dsm)
    configuration.joinTimeoutSeconds = seconds
    return configuration
  }

  static let items = [ConfigurationItem("-m", "4G"), ConfigurationItem("-smp", "4")]

  /// Joins all nodes, each after so many milliseconds.
  static func join(
    _ nodes: [Int], _ addresses: [SocketAddress], delays: [Int] = [], seconds: Int = 20,
    items: @escaping @Sendable (Int) -> [ConfigurationItem] = { _ in JoinFixture.items },
    change: @escaping @Sendable (Int, inout ClusterConfiguration) -> Void = { _, _ in },
    credentials: @escaping @Sendable (Int) -> ClusterCredentials? = { _ in nil },
    judge: @escaping @Sendable (NodeID, [UInt8]) -> String? = { _, _ in nil },
    agree: @escaping @Sendable ([[UInt8]]) throws(ClusterError) -> [UInt8] = { _ in [] },
    progress: @escaping @Sendable (Int) -> JoinProgress? = { _ in nil }
  ) throws -> JoinResults {
    let results = JoinResults()
    let threads = try nodes.enumerated().map { place, node in
      try HostThread(name: "node \(node)") {
        if place < delays.count { HostClock.sleep(nanoseconds: Int64(delays[place]) * 1_000_000) }
        var own = configuration(node, addresses, seconds: seconds)
        change(node, &own)
        do throws(ClusterError) {
          results.set(
            node,
            .success(
              try ClusterMembership.join(
                own, items: items(node), offer: [UInt8(node), 7], credentials: credentials(node),
                judge: judge, agree: agree, progress: progress(node))))
        } catch { results.set(node, .failure(error)) }
      }
    }
    for thread in threads { thread.join() }
    return results
  }
}

@Suite struct JoinTests {
  @Test(arguments: [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]])
  func nodesJoinInAnyOrder(_ order: [Int]) throws {
    let results = try JoinFixture.join(
      order, try JoinFixture.addresses(4), delays: [0, 60, 120, 180])
    defer { results.leave() }
    let instance = results[0]?.instance
    for node in 0..<4 {
      let cluster = try #require(results[node], "\(String(describing: results.error(node)))")
      #expect(cluster.vcpuOwners == (0..<4).map { NodeID(rawValue: UInt8($0)) })
      #expect(cluster.instance == instance && instance != 0)
      #expect(cluster.clock.error < 1_000_000_000)
      #expect(cluster.status.state == .joined)
    }
    #expect(results[0]?.offers == [[], [1, 7], [2, 7], [3, 7]])
    // One host: the clocks are the same.
    for node in 1..<4 {
      guard let clock = results[node]?.clock else { continue }
      #expect(abs(clock.currentOffset) <= clock.error)
    }
  }

  @Test(arguments: ["127.0.0.1", "::1", "localhost"]) func nodesJoinOverTCP(_ host: String) throws {
    guard let addresses = try? JoinFixture.addresses(3, host) else {
      print("SKIPPED: no \(host) here")
      return
    }
    let results = try JoinFixture.join([0, 1, 2], addresses)
    defer { results.leave() }
    for node in 0..<3 {
      #expect(results[node] != nil, "\(String(describing: results.error(node)))")
    }
  }

  @Test func allStartTogetherWithTheFirstNodesPayload() throws {
    let results = try JoinFixture.join([0, 1, 2], try JoinFixture.addresses(3))
    defer { results.leave() }
    let started = CounterTable(count: 3)
    let threads = try (0..<3).map { node in
      let cluster = try #require(results[node])
      return try HostThread(name: "start \(node)") {
        if node == 2 {
          HostClock.sleep(nanoseconds: 100_000_000)
          // Nobody starts before the last is ready.
          if started[0] + started[1] > 0 { return }
        }
        cluster.ready()
        if (try? cluster.waitForStart(payload: [4, 5, UInt8(node)])) == [4, 5, 0] {
          started.add(to: node)
        }
      }
    }
    for thread in threads { thread.join() }
    #expect((0..<3).map { started[$0] } == [1, 1, 1])
    #expect((0..<3).map { results[$0]?.status.state } == [.running, .running, .running])
  }

  @Test func differingItemsAreNamedOnBothSides() throws {
    let results = try JoinFixture.join(
      [0, 1], try JoinFixture.addresses(2),
      items: { node in
        node == 0
          ? [ConfigurationItem("-m", "4G"), ConfigurationItem("-smp", "2")]
          : [
            ConfigurationItem("-smp", "2"), ConfigurationItem("-m", "2G"),
            ConfigurationItem("-x", "y"),
          ]
      })
    let text = "-m differs: node 1 has 2G, node 0 has 4G; -x differs: node 1 has y, node 0 has none"
    for node in 0...1 {
      #expect(results.error(node) == ClusterError(.configuration, text))
    }
  }

  @Test func nodeZerosMachineMayRefuseAnOffer() throws {
    let results = try JoinFixture.join(
      [0, 1], try JoinFixture.addresses(2),
      judge: { node, offer in offer == [1, 7] ? "CPU feature 'avx2' is missing" : nil })
    for node in 0...1 {
      #expect(
        results.error(node)
          == ClusterError(.configuration, "node 1: CPU feature 'avx2' is missing"))
    }
  }

  @Test func allNodesReadWhatNodeZeroMakesOfTheirOffers() throws {
    let results = try JoinFixture.join(
      [2, 0, 1], try JoinFixture.addresses(3), delays: [0, 30, 60],
      agree: { offers in offers.flatMap { $0 } })
    defer { results.leave() }
    for node in 0..<3 { #expect(results[node]?.agreement == [0, 7, 1, 7, 2, 7]) }
  }

  @Test func offersThatDoNotGoTogetherAreRefusedEverywhere() throws {
    let error = ClusterError(.configuration, "CPU features differ: node 2 lacks avx2")
    let results = try JoinFixture.join(
      [0, 1, 2], try JoinFixture.addresses(3), agree: { _ throws(ClusterError) in throw error })
    for node in 0..<3 { #expect(results.error(node) == error) }
  }

  @Test func joiningCanBeCancelled() throws {
    let addresses = try JoinFixture.addresses(2)
    let progress = JoinProgress()
    #expect(progress.peers.isEmpty)
    let canceller = try HostThread(name: "cancel") {
      while progress.peers.last?.trouble == nil, progress.peers.count < 2 {
        HostClock.sleep(nanoseconds: 1_000_000)
      }
      progress.cancel("enough")
    }
    let results = try JoinFixture.join([0], addresses, seconds: 60, progress: { _ in progress })
    canceller.join()
    #expect(results.error(0) == ClusterError(.aborted, "enough"))
    #expect(progress.isCancelled)
    // One that is cancelled before it begins does not begin.
    let again = try JoinFixture.join([0], addresses, seconds: 60, progress: { _ in progress })
    #expect(again.error(0)?.kind == .aborted)
  }

  @Test func missingNodeIsNamedWhenTimeIsUp() throws {
    let addresses = try JoinFixture.addresses(3)
    let results = try JoinFixture.join([0, 1], addresses, seconds: 1)
    for node in 0...1 {
      let error = try #require(results.error(node))
      #expect(error.kind == .timeout || error.kind == .lost)
      #expect(error.message.contains("node 2 (\(addresses[2].text)"), "\(error.message)")
    }
    let alone = try JoinFixture.join([2], addresses, seconds: 1)
    let error = try #require(alone.error(2))
    #expect(error.kind == .timeout)
    #expect(error.message.contains("node 0 (\(addresses[0].text)"), "\(error.message)")
    #expect(error.message.contains("node 1 (\(addresses[1].text)"), "\(error.message)")
  }

  @Test func anotherClusterIsRefused() throws {
    let results = try JoinFixture.join(
      [0, 1], try JoinFixture.addresses(2), seconds: 2,
      change: { node, configuration in if node == 1 { configuration.id = "other" } })
    let error = try #require(results.error(1))
    #expect(error.kind == .refused)
    #expect(error.message.contains("belongs to cluster 'other', not to 'test'"))
    // The stranger does no harm: the right node may still come.
    #expect(results.error(0)?.kind == .timeout)
  }

  @Test func vcpusMustBeSharedOutExactly() throws {
    let twice = try JoinFixture.join(
      [0, 1], try JoinFixture.addresses(2), seconds: 5,
      change: { _, configuration in configuration.vcpus = [0, 1] })
    for node in 0...1 {
      #expect(twice.error(node)?.message.contains("vCPU 0 is on node 0 and on node 1") == true)
    }
    let missing = try JoinFixture.join(
      [0, 1], try JoinFixture.addresses(2), seconds: 5,
      change: { _, configuration in configuration.vcpuCount = 3 })
    for node in 0...1 {
      #expect(missing.error(node)?.message.contains("vCPU 2 is on no node") == true)
    }
    let differing = try JoinFixture.join(
      [0, 1], try JoinFixture.addresses(2), seconds: 5,
      change: { node, configuration in configuration.vcpuCount = node + 2 })
    for node in 0...1 {
      #expect(differing.error(node)?.message.contains("-smp differs") == true)
    }
  }

  @Test func secondNodeOfANumberIsRefused() throws {
    let addresses = try JoinFixture.addresses(3)
    let results = JoinResults()
    let threads = try [0, 1, 11].map { node in
      try HostThread(name: "node \(node)") {
        if node == 11 { HostClock.sleep(nanoseconds: 300_000_000) }
        // The second node 1 cannot listen where the first does.
        var places = addresses
        if node == 11 { places[1] = .unix(path: Goliath.temporaryFolder() + "/second") }
        let configuration = JoinFixture.configuration(node % 10, places, seconds: 2)
        do throws(ClusterError) {
          results.set(
            node, .success(try ClusterMembership.join(configuration, items: JoinFixture.items)))
        } catch { results.set(node, .failure(error)) }
      }
    }
    for thread in threads { thread.join() }
    let error = try #require(results.error(11))
    #expect(error.kind == .timeout || error.kind == .refused)
    #expect(error.message.contains("already"), "\(error.message)")
    #expect(results.error(0)?.message.contains("node 2") == true)
  }

  @Test func strangersAtTheDoorDoNoHarm() throws {
    let addresses = try JoinFixture.addresses(2)
    final class Flag: Sendable { let isSet = Atomic<Bool>(false) }
    let flag = Flag()
    let stranger = try HostThread(name: "stranger") {
      var random = SystemRandomNumberGenerator()
      var kept: [StreamSocket] = []
      while !flag.isSet.load(ordering: .relaxed) {
        HostClock.sleep(nanoseconds: 5_000_000)
        guard let made = try? Socket.connect(addresses[0], patience: 100),
          let socket = try? StreamSocket(made)
        else { continue }
        let count = Int.random(in: 0..<200, using: &random)
        _ = socket.send(
          (0..<count).map { _ in UInt8.random(in: 0...255, using: &random) }, from: 0)
        // A few say nothing more and stay.
        if kept.count < 2 { kept.append(socket) } else { socket.shutDown() }
      }
    }
    let results = try JoinFixture.join([0, 1], addresses, delays: [0, 200])
    flag.isSet.store(true, ordering: .relaxed)
    stranger.join()
    #expect(results[0] != nil && results[1] != nil)
    results.leave()
  }

  // MARK: - Credentials

  /// Folders of credentials of nodes 0 to 2 of cluster `test`, made once; nil without the tools.
  private static let folder: String? = {
    guard let certtool = Process.find("certtool"), let psktool = Process.find("psktool") else {
      print("SKIPPED: TLS between nodes: gnutls-bin is not installed")
      return nil
    }
    let folder = Goliath.temporaryFolder()
    let script = """
      set -e
      cd \(folder)
      key() { \(certtool) --generate-privkey --key-type ecdsa --outfile $1; }
      key ca.key; key ca2.key; key n.key
      ca() { printf '%s\\n' 'cn = "CA"' ca cert_signing_key 'expiration_days = 7000' >t
        \(certtool) --generate-self-signed --load-privkey $1.key --template t --outfile $1.pem; }
      ca ca; ca ca2
      node() { mkdir $1; printf '%s\\n' "cn = \\"$2\\"" "dns_name = \\"$2\\"" signing_key tls_www_server tls_www_client 'expiration_days = 7000' >t
        \(certtool) --generate-certificate --load-ca-privkey $3.key --load-ca-certificate $3.pem --load-privkey n.key \\
          --template t --outfile $1/server-cert.pem
        cp $1/server-cert.pem $1/client-cert.pem; cp n.key $1/server-key.pem; cp n.key $1/client-key.pem; cp ${4:-$3}.pem $1/ca-cert.pem; }
      for n in 0 1 2; do node x$n test-node-$n ca; done
      node wrongname test-node-2 ca
      node otherca test-node-1 ca2
      mkdir keys other
      for n in 0 1 2; do \(psktool) -u test/$n -p keys/keys.psk; \(psktool) -u test/$n -p other/keys.psk; done
      chmod 644 keys/keys.psk other/keys.psk
      """
    guard let result = try? Process.output(["/bin/bash", "-c", script], seconds: 120),
      result.status == 0
    else {
      print("SKIPPED: TLS between nodes: the credentials cannot be made")
      return nil
    }
    return folder
  }()

  private static func x509(_ name: String) -> ClusterCredentials? {
    folder.flatMap { try? ClusterCredentials.x509(folder: "\($0)/\(name)") }
  }
  private static func psk(_ name: String, _ node: Int) -> ClusterCredentials? {
    folder.flatMap {
      try? ClusterCredentials.psk(
        folder: "\($0)/\(name)", cluster: "test", node: NodeID(rawValue: UInt8(node)))
    }
  }

  @Test(arguments: [false, true], [false, true])
  func nodesWithCredentialsJoinAndSpeak(_ isPSK: Bool, _ isTCP: Bool) throws {
    guard JoinTests.folder != nil else { return }
    let results = try JoinFixture.join(
      [2, 1, 0], try JoinFixture.addresses(3, isTCP ? "127.0.0.1" : nil),
      credentials: { isPSK ? JoinTests.psk("keys", $0) : JoinTests.x509("x\($0)") })
    defer { results.leave() }
    let first = try #require(results[0], "\(String(describing: results.error(0)))")
    let second = try #require(results[1], "\(String(describing: results.error(1)))")
    #expect(first.status.nodes[1].isProtected && second.status.nodes[2].isProtected)
    // Frames of every size pass, in both directions, many at a time.
    let recorder = Recorder { header, from, bytes in
      first.transport.reply(to: header, of: from, argument: header.argument, bytes: bytes)
    }
    let pages = Recorder()
    first.transport.setHandler(recorder, for: [.portRead])
    first.transport.setHandler(pages, for: [.dataM])
    for length in [0, 1, 100, 4096, 40_000] {
      let bytes = (0..<length).map { UInt8(truncatingIfNeeded: $0 * 13) }
      let reply = try second.transport.request(
        FrameHeader(.portRead, argument: 9), bytes: bytes, to: NodeID(rawValue: 0))
      #expect(reply == FrameReply(argument: 9, body: bytes))
    }
    let sizes = [0, 4096, 70_000, 16_384, 16_352, (1 << 20) + 4096, 5]
    for (index, size) in sizes.enumerated() {
      second.transport.send(
        FrameHeader(.dataM), bytes: [UInt8](repeating: UInt8(index), count: size),
        to: NodeID(rawValue: 0))
    }
    #expect(pages.wait { $0.frames.count == sizes.count })
    #expect(pages.frames.map(\.body.count) == sizes)
    #expect(
      pages.frames.enumerated().allSatisfy { at, frame in frame.body.allSatisfy { $0 == UInt8(at) }
      })
  }

  @Test func certificateOfAnotherNodeIsRefused() throws {
    guard JoinTests.folder != nil else { return }
    let results = try JoinFixture.join(
      [0, 1], try JoinFixture.addresses(2), seconds: 3,
      credentials: { JoinTests.x509($0 == 1 ? "wrongname" : "x0") })
    let error = try #require(results.error(1))
    #expect(error.kind == .refused)
    #expect(error.message.contains("not for 'test-node-1'"), "\(error.message)")
    #expect(results.error(0)?.kind == .timeout)
  }

  @Test func certificateOfAnotherAuthorityIsRefused() throws {
    guard JoinTests.folder != nil else { return }
    let results = try JoinFixture.join(
      [0, 1], try JoinFixture.addresses(2), seconds: 3,
      credentials: { JoinTests.x509($0 == 1 ? "otherca" : "x0") })
    #expect(results.error(1)?.kind == .credentials)
    #expect(results.error(0)?.kind == .timeout)
  }

  @Test func wrongKeyIsRefused() throws {
    guard JoinTests.folder != nil else { return }
    let results = try JoinFixture.join(
      [0, 1], try JoinFixture.addresses(2), seconds: 3,
      credentials: { JoinTests.psk($0 == 1 ? "other" : "keys", $0) })
    #expect(results[0] == nil && results[1] == nil)
    #expect(results.error(0)?.kind == .timeout)
  }

  @Test func keyOfAnotherNodeIsRefused() throws {
    guard JoinTests.folder != nil else { return }
    let results = try JoinFixture.join(
      [0, 1], try JoinFixture.addresses(2), seconds: 3,
      credentials: { JoinTests.psk("keys", $0 == 1 ? 2 : 0) })
    let error = try #require(results.error(1))
    #expect(error.message.contains("has the key of 'test/2', not of 'test/1'"), "\(error.message)")
  }

  @Test func nodeWithoutCredentialsGetsNowhere() throws {
    guard JoinTests.folder != nil else { return }
    let results = try JoinFixture.join(
      [0, 1], try JoinFixture.addresses(2), seconds: 3,
      credentials: { $0 == 0 ? JoinTests.x509("x0") : nil })
    #expect(results[0] == nil && results[1] == nil)
  }
}
