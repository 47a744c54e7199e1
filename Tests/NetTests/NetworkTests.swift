import Host
import JSON
import Net
import QAPI
import Support
import Testing

/// Backends by name, hubs, dumps, tunnels.
@Suite(.timeLimit(.minutes(15))) struct NetworkTests {
  init() { MainLoopThread.start() }

  @MainLoop private func netdev(_ text: String) throws -> Netdev {
    try Netdev(decoding: JSONValue(parsing: text), at: .json)
  }

  @MainLoop private func sentence(_ text: String) throws -> String {
    do throws(NetError) { try Network().add(try netdevOrFail(text)) } catch {
      return error.message
    }
    return ""
  }

  @MainLoop private func netdevOrFail(_ text: String) throws(NetError) -> Netdev {
    do { return try netdev(text) } catch { throw NetError("\(error)") }
  }

  @MainLoop
  @Test(arguments: [
    (#""net":"300.1/8""#, "Failed to parse netmask"),
    (#""net":"10.0.2.0/33""#, "Invalid netmask provided (must be in range 4-32)"),
    (#""net":"10.0.2.0/24","host":"10.1.1.1""#, "Host doesn't belong to network"),
    (#""dns":"10.0.2.2""#, "DNS must be different from host"),
    (#""dhcpstart":"10.0.2.3""#, "DHCP must be different from host and DNS"),
    (#""ipv4":false,"ipv6":false"#, "IPv4 and IPv6 disabled"),
    (#""ipv6-prefix":"x""#, "Failed to parse IPv6 prefix"),
    (#""domainname":"""#, "'domainname' parameter cannot be empty"),
    (#""hostfwd":[{"str":"x"}]"#, "Invalid host forwarding rule 'x' (No : separators)"),
    (
      #""hostfwd":[{"str":"tcp::1-:0"}]"#,
      "Invalid host forwarding rule 'tcp::1-:0' (Bad guest port)"
    ),
    (#""guestfwd":[{"str":"udp:1"}]"#, "Invalid guest forwarding rule 'udp:1'"),
    (#""smb":"/tmp""#, "Could not find '/usr/sbin/smbd', please install it"),
  ]) func userNetworksRefuseWhatQEMURefuses(_ options: String, _ reason: String) throws {
    #expect(try sentence(#"{"type":"user","id":"u",\#(options)}"#) == reason)
  }

  @MainLoop @Test func otherBackendsRefuseWithQEMUsSentences() throws {
    #expect(
      try sentence(#"{"type":"socket","id":"s"}"#)
        == "exactly one of listen=, connect=, mcast= or udp= is required")
    #expect(
      try sentence(#"{"type":"socket","id":"s","udp":"127.0.0.1:1"}"#)
        == "localaddr= is mandatory with udp=")
    #expect(
      try sentence(#"{"type":"dgram","id":"s"}"#) == "dgram requires local= parameter")
    #expect(
      try sentence(#"{"type":"none","id":"s"}"#)
        == "network backend 'none' is not compiled into this binary")
    #expect(
      try sentence(#"{"type":"tap","id":"a","fds":"1:2","queues":3}"#)
        == "ifname=, script=, downscript=, vnet_hdr=, helper=, queues=, and vhostfd= are invalid"
        + " with fds=")
  }

  @MainLoop @Test func aHubGivesEachFrameToAllOthers() throws {
    let network = Network()
    let ends = ["a", "b", "c"].map { Listener($0) }
    for end in ends { network.join(end.port, hub: 3) }
    let frame = Sample.udp(payload: [1, 2, 3])
    ends[0].port.send(Frame(frame))
    #expect(ends[0].frames.isEmpty)
    #expect(ends[1].frames == [frame] && ends[2].frames == [frame])
    // One that is slow holds up nobody.
    ends[1].hasRoom = false
    for _ in 0..<5 { ends[0].port.send(Frame(frame)) }
    #expect(ends[2].frames.count == 6)
    ends[1].hasRoom = true
    ends[1].port.becomesReady()
    #expect(ends[1].frames.count == 6)
  }

  @MainLoop @Test func aDumpIsAPcapFile() throws {
    let folder = Goliath.temporaryFolder()
    defer { _ = try? Process.output(["rm", "-rf", folder]) }
    let network = Network()
    try network.add(try netdev(#"{"type":"hubport","id":"h","hubid":0}"#))
    try network.addDump("d", netdev: "h", path: folder + "/f", limit: 50)
    let end = Listener("a")
    let port = try #require(network.entry("h")?.backend.ports.first)
    end.port.connect(to: port)
    let frame = Sample.udp(payload: Sample.payload(100))
    end.port.send(Frame(frame))
    network.shutDown()
    let bytes = try FileDescriptor.contents(of: folder + "/f", limit: 1 << 20)
    #expect(bytes.count == 24 + 16 + 50)
    #expect(Array(bytes[0..<8]) == [0xD4, 0xC3, 0xB2, 0xA1, 2, 0, 4, 0])
    #expect(bytes[16] == 50 && bytes[20] == 1)
    #expect(bytes[32] == 50 && bytes[36] == UInt8(frame.count))
    #expect(Array(bytes[40...]) == Array(frame.prefix(50)))
  }

  @MainLoop @Test func cardsWithoutAddressGetTheSeriesOfQEMU() {
    let network = Network()
    let addresses = (0..<3).map { _ in network.claimAddress(nil).description }
    #expect(addresses == ["52:54:00:12:34:56", "52:54:00:12:34:57", "52:54:00:12:34:58"])
    network.releaseAddress(MACAddress(0x5254_0012_3457))
    #expect(network.claimAddress(nil).description == "52:54:00:12:34:57")
  }

  @MainLoop @Test func addressesAreReadAsTheCLibraryReadsThem() {
    #expect(AddressText.ipv4("10.0.2.2") == 0x0A00_0202)
    #expect(AddressText.ipv4("10.1") == 0x0A00_0001)
    #expect(AddressText.ipv4("0x7f000001") == 0x7F00_0001)
    #expect(AddressText.ipv4("256.1.1.1") == nil && AddressText.ipv4("1.2.3.4.5") == nil)
    #expect(AddressText.ipv6("fec0::2") == [0xFE, 0xC0] + [UInt8](repeating: 0, count: 13) + [2])
    #expect(AddressText.ipv6("1:2:3:4:5:6:7:8")?.count == 16)
    #expect(AddressText.ipv6("::ffff:1.2.3.4")?.suffix(4) == [1, 2, 3, 4])
    #expect(AddressText.ipv6("1::2::3") == nil && AddressText.ipv6(":") == nil)
    #expect(MACAddress("52:54:00:12:34:56")?.value == 0x5254_0012_3456)
    #expect(MACAddress("52:54:00:12:34") == nil && MACAddress("52:54:00:12:34:+5") == nil)
  }

  /// Two tunnels over a Unix socket: events, frames both ways, and one side going away.
  @MainLoop @Test func streamsConnectCarryFramesAndTellOfTheirEnd() async throws {
    let folder = Goliath.temporaryFolder()
    defer { _ = try? Process.output(["rm", "-rf", folder]) }
    let (left, right) = (Network(), Network())
    var events: [String] = []
    left.onEvent = { events.append($0.name) }
    let address = #""addr":{"type":"unix","path":"\#(folder)/s"}"#
    try left.add(try netdev(#"{"type":"stream","id":"l","server":true,\#(address)}"#))
    try right.add(try netdev(#"{"type":"stream","id":"r",\#(address)}"#))
    let (a, b) = (Listener("a"), Listener("b"))
    a.port.connect(to: try #require(left.entry("l")?.backend.ports.first))
    b.port.connect(to: try #require(right.entry("r")?.backend.ports.first))
    let frames = (1...300).map { Sample.udp(payload: Sample.payload($0 * 4)) }
    while events.isEmpty { await MainLoop.nextTurn() }
    for frame in frames { a.port.send(Frame(frame)) }
    b.port.send(Frame(frames[7]))
    while b.frames.count < frames.count || a.frames.isEmpty { await MainLoop.nextTurn() }
    #expect(b.frames == frames)
    #expect(a.frames == [frames[7]])
    right.remove("r")
    while events.count < 2 { await MainLoop.nextTurn() }
    #expect(events == ["NETDEV_STREAM_CONNECTED", "NETDEV_STREAM_DISCONNECTED"])
    left.shutDown()
  }

  @MainLoop @Test func aTunnelEndsAConnectionThatSendsImpossibleLengths() async throws {
    let folder = Goliath.temporaryFolder()
    defer { _ = try? Process.output(["rm", "-rf", folder]) }
    let network = Network()
    var events: [String] = []
    network.onEvent = { events.append($0.name) }
    try network.add(
      try netdev(
        #"{"type":"stream","id":"l","server":true,"addr":{"type":"unix","path":"\#(folder)/s"}}"#))
    let end = Listener("a")
    end.port.connect(to: try #require(network.entry("l")?.backend.ports.first))
    let socket = try Socket.connect(.unix(path: folder + "/s"))
    _ = try socket.write([0, 0, 0, 3, 1, 2, 3, 0xFF, 0xFF, 0xFF, 0xFF, 9])
    while events.count < 2 { await MainLoop.nextTurn() }
    #expect(end.frames == [[1, 2, 3]])
    network.shutDown()
  }

  @MainLoop @Test func datagramsCarryFrames() async throws {
    let folder = Goliath.temporaryFolder()
    defer { _ = try? Process.output(["rm", "-rf", folder]) }
    let network = Network()
    func add(_ id: String, _ here: String, _ there: String) throws {
      try network.add(
        try netdev(
          #"{"type":"dgram","id":"\#(id)","local":{"type":"unix","path":"\#(folder)/\#(here)"},"remote":{"type":"unix","path":"\#(folder)/\#(there)"}}"#
        ))
    }
    try add("l", "1", "2")
    try add("r", "2", "1")
    let (a, b) = (Listener("a"), Listener("b"))
    a.port.connect(to: try #require(network.entry("l")?.backend.ports.first))
    b.port.connect(to: try #require(network.entry("r")?.backend.ports.first))
    let frames = (1...200).map { Sample.udp(payload: Sample.payload($0)) }
    for frame in frames { a.port.send(Frame(frame)) }
    while b.frames.count < frames.count { await MainLoop.nextTurn() }
    #expect(b.frames == frames)
    network.shutDown()
  }

  /// The library itself: an ARP request is answered by the virtual host.
  @MainLoop @Test func aUserNetworkAnswersForItsHost() async throws {
    let network = Network()
    try network.add(try netdev(#"{"type":"user","id":"u"}"#))
    let guest = Listener("a")
    guest.port.connect(to: try #require(network.entry("u")?.backend.ports.first))
    let mac: [UInt8] = [0x52, 0x54, 0, 0x12, 0x34, 0x56]
    let request: [UInt8] =
      [255, 255, 255, 255, 255, 255] + mac + [8, 6, 0, 1, 8, 0, 6, 4, 0, 1] + mac
      + [10, 0, 2, 15] + [0, 0, 0, 0, 0, 0] + [10, 0, 2, 2]
    guest.port.send(Frame(request))
    func answer() -> [UInt8]? { guest.frames.first { $0.count >= 42 && $0[12...13] == [8, 6] } }
    while answer() == nil { await MainLoop.nextTurn() }
    #expect(answer().map { Array($0[28..<32]) } == [10, 0, 2, 2])
    network.shutDown()
  }
}
