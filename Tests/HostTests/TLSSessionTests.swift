import Glibc
import Host
import Support
import Testing

/// Two sessions that talk to each other in memory.
private final class Pair {
  let client: TLSSession
  let server: TLSSession
  var clientError: TLSError?
  var serverError: TLSError?
  var toClient: [UInt8] = []
  var toServer: [UInt8] = []

  init(
    _ client: TLSCredentials, _ server: TLSCredentials, host: String? = nil,
    authorise: ((String) throws(TLSError) -> Bool)? = nil
  ) throws(TLSError) {
    self.client = try TLSSession(client, hostName: host)
    self.server = try TLSSession(server, authorise: authorise)
  }

  /// Moves bytes both ways, `step` at a time, until nobody has anything to say.
  func run(step: Int = .max) {
    feedClient([])
    while true {
      let up = client.takeOutput()
      let down = server.takeOutput()
      if up.isEmpty, down.isEmpty { return }
      for part in pieces(up, step) { feedServer(part) }
      for part in pieces(down, step) { feedClient(part) }
    }
  }

  private func pieces(_ bytes: [UInt8], _ step: Int) -> [[UInt8]] {
    guard step < bytes.count else { return bytes.isEmpty ? [] : [bytes] }
    return stride(from: 0, to: bytes.count, by: step).map {
      Array(bytes[$0..<min($0 + step, bytes.count)])
    }
  }

  func feedServer(_ bytes: [UInt8]) {
    do throws(TLSError) { toServer += try server.receive(bytes) } catch { serverError = error }
  }

  func feedClient(_ bytes: [UInt8]) {
    do throws(TLSError) { toClient += try client.receive(bytes) } catch { clientError = error }
  }
}

/// TLS in memory: handshakes that succeed and those that must not.
@Suite(.enabled(if: TLSCredentials.isAvailable && Certificates.shared != nil))
struct TLSSessionTests {
  private func folder(_ name: String) throws -> String {
    try #require(Certificates.shared).path(name)
  }

  private func x509(
    _ name: String, _ endpoint: TLSCredentials.Endpoint, verify: Bool = true,
    sanity: Bool = true
  ) throws -> TLSCredentials {
    try TLSCredentials.x509(
      folder: folder(name), endpoint: endpoint, verifiesPeer: verify, checksSanity: sanity)
  }

  @Test(arguments: [Int.max, 1, 7]) func certificatesOfOneAuthorityAgree(step: Int) throws {
    var names: [String] = []
    let pair = try Pair(x509("good", .client), x509("good", .server), host: "localhost") {
      names.append($0)
      return true
    }
    pair.run(step: step)
    #expect(pair.client.phase == .open)
    #expect(pair.server.phase == .open)
    #expect(pair.clientError == nil)
    #expect(
      pair.server.peerName == "O=Goliath,CN=joe" || pair.server.peerName == "CN=joe,O=Goliath")
    #expect(names == [pair.server.peerName])
    #expect(pair.client.peerName == "CN=localhost")
    let long = (0..<100_000).map { UInt8(truncatingIfNeeded: $0) }
    try pair.client.send(long)
    try pair.server.send(Array("hello".utf8))
    pair.run(step: step == 1 ? 997 : step)
    #expect(pair.toServer == long)
    #expect(pair.toClient == Array("hello".utf8))
    pair.client.close()
    pair.run()
    #expect(pair.server.phase == .ended)
    #expect(pair.serverError == nil)
    #expect(try pair.server.receive([1, 2, 3]) == [])
  }

  /// Who meets whom, and who refuses with which words. The other side checks nothing.
  struct Meeting: Sendable {
    var client = "good"
    var server = "good"
    var host: String?
    var byServer: String?
    var byClient: String?
  }

  @Test(arguments: [
    Meeting(client: "otherca", byServer: "The certificate hasn't got a known issuer"),
    Meeting(server: "otherca", byClient: "The certificate hasn't got a known issuer"),
    Meeting(client: "expired", byServer: "The certificate has expired"),
    Meeting(server: "expired", byClient: "The certificate has expired"),
    Meeting(
      server: "otherhost", host: "localhost",
      byClient: "Owner does not match the hostname localhost"),
    Meeting(client: "nocertificate", byServer: "No certificate was found."),
    Meeting(server: "revoked", byServer: "The certificate has been revoked"),
  ])
  func peersThatAreNotGoodAreRefused(_ meeting: Meeting) throws {
    let pair = try Pair(
      x509(meeting.client, .client, verify: meeting.byClient != nil, sanity: false),
      x509(meeting.server, .server, verify: meeting.byServer != nil, sanity: false),
      host: meeting.host)
    pair.run()
    func text(_ reason: String) -> String { "Certificate verification failed: \(reason)" }
    // Whoever refuses tells the other, which ends there, too.
    #expect(pair.server.phase == .ended)
    #expect(pair.client.phase == .ended)
    if let reason = meeting.byServer {
      #expect(pair.serverError?.message == text(reason))
      #expect(pair.clientError?.message.contains("alert has been received") == true)
    }
    if let reason = meeting.byClient {
      #expect(pair.clientError?.message == text(reason))
      #expect(pair.serverError?.message.contains("alert has been received") == true)
    }
  }

  @Test func theListDecidesWhoGetsIn() throws {
    let pair = try Pair(x509("good", .client), x509("good", .server)) { _ in false }
    pair.run()
    let name = try #require(pair.server.peerName)
    #expect(pair.serverError?.message == "TLS x509 authz check for \(name) is denied")
    #expect(pair.clientError?.message.contains("Access was denied") == true)
    let other = try Pair(x509("good", .client), x509("good", .server)) { _ throws(TLSError) in
      throw TLSError("no such list")
    }
    other.run()
    #expect(other.serverError?.message == "no such list")
    #expect(other.server.phase == .ended)
  }

  @Test func withoutVerificationAnyPeerWillDo() throws {
    let pair = try Pair(
      x509("nocertificate", .client, verify: false), x509("good", .server, verify: false))
    pair.run()
    #expect(pair.server.phase == .open)
    #expect(pair.client.phase == .open)
    #expect(pair.server.peerName == nil)
  }

  @Test func sharedKeysAgreeOrDoNot() throws {
    let server = try TLSCredentials.psk(folder: folder("psk"), endpoint: .server)
    let good = try Pair(
      TLSCredentials.psk(folder: folder("psk"), endpoint: .client, user: "joe"), server)
    good.run()
    #expect(good.server.phase == .open)
    #expect(good.server.peerName == "joe")
    let bad = try Pair(
      TLSCredentials.psk(folder: folder("otherpsk"), endpoint: .client, user: "joe"), server)
    bad.run()
    #expect(bad.server.phase == .ended)
    #expect(bad.serverError?.message.hasPrefix("TLS handshake failed: ") == true)
    let denied = try Pair(
      TLSCredentials.psk(folder: folder("psk"), endpoint: .client, user: "joe"), server
    ) { $0 != "joe" }
    denied.run()
    #expect(denied.serverError?.message == "TLS PSK authz check for joe is denied")
  }

  @Test func withoutIdentitiesNothingIsCheckedButAList() throws {
    func pair(_ authorise: ((String) throws(TLSError) -> Bool)?) throws -> Pair {
      let tls12 = "NORMAL:-VERS-TLS1.3"
      let pair = try Pair(
        TLSCredentials.anonymous(endpoint: .client, priority: tls12),
        TLSCredentials.anonymous(endpoint: .server, priority: tls12), authorise: authorise)
      pair.run()
      return pair
    }
    #expect(try pair(nil).server.phase == .open)
    let denied = try pair { $0 == "joe" }
    #expect(denied.serverError?.message == "TLS anonymous authz check for  is denied")
  }

  @Test func randomBytesEndASessionAndNothingElse() throws {
    let server = try x509("good", .server)
    var seed: UInt64 = 0x1234_5678_9ABC_DEF1
    func random() -> UInt64 {
      seed ^= seed << 13
      seed ^= seed >> 7
      seed ^= seed << 17
      return seed
    }
    for round in 0..<60 {
      let session = try TLSSession(server)
      // Half of them begin like a record, so that more than the first byte is looked at.
      var bytes: [UInt8] =
        round % 2 == 0 ? [22, 3, 1, UInt8(random() % 64), 200, 1, 0, 0, 180] : []
      bytes += (0..<20_000).map { _ in UInt8(truncatingIfNeeded: random()) }
      var isRefused = false
      var sent = 0
      for start in stride(from: 0, to: bytes.count, by: 600) where !isRefused {
        do {
          _ = try session.receive(Array(bytes[start..<min(start + 600, bytes.count)]))
        } catch { isRefused = true }
        sent += session.takeOutput().count
      }
      #expect(isRefused || session.phase == .handshaking)
      #expect(sent < 10_000)
    }
  }

  @Test func damagedRecordsAndCutConnectionsAreErrors() throws {
    let pair = try Pair(x509("good", .client), x509("good", .server))
    pair.run()
    try pair.client.send(Array("secret".utf8))
    var record = pair.client.takeOutput()
    record[record.count - 1] ^= 1
    pair.feedServer(record)
    #expect(pair.serverError != nil)
    #expect(pair.toServer.isEmpty)
    #expect(pair.server.phase == .ended)
    let other = try Pair(x509("good", .client), x509("good", .server))
    other.run()
    #expect(throws: TLSError.self) { try other.server.receive([], ended: true) }
    #expect(other.server.phase == .ended)
  }

  @Test func credentialsSayWhatIsWrongWithThem() throws {
    func message(_ body: () throws -> TLSCredentials) -> String {
      do {
        _ = try body()
        return ""
      } catch { return (error as? TLSError)?.message ?? "\(error)" }
    }
    let none = "/nonexistent"
    let missing = ": No such file or directory"
    #expect(
      message { try TLSCredentials.x509(folder: none, endpoint: .server) }
        == "Unable to access credentials /nonexistent/ca-cert.pem" + missing)
    #expect(
      message { try TLSCredentials.x509(folder: nil, endpoint: .server) }
        == "Missing 'dir' property value")
    let expired = try folder("expired")
    #expect(
      message { try TLSCredentials.x509(folder: expired, endpoint: .server) }
        == "The server certificate \(expired)/server-cert.pem has expired")
    let otherCA = try folder("mixed")
    #expect(
      message { try TLSCredentials.x509(folder: otherCA, endpoint: .server) }
        == "Our own certificate \(otherCA)/server-cert.pem failed validation against"
        + " \(otherCA)/ca-cert.pem: The certificate hasn't got a known issuer")
    let encrypted = try folder("encrypted")
    #expect(
      message { try TLSCredentials.x509(folder: encrypted, endpoint: .server) }
        == "Cannot load certificate '\(encrypted)/server-cert.pem' & key"
        + " '\(encrypted)/server-key.pem': Decryption has failed.")
    _ = try TLSCredentials.x509(folder: encrypted, endpoint: .server) { "sesame" }
    #expect(
      message { try TLSCredentials.psk(folder: none, endpoint: .server) }
        == "Unable to access credentials /nonexistent/keys.psk" + missing)
    let keys = try folder("psk")
    #expect(
      message { try TLSCredentials.psk(folder: keys, endpoint: .client) }
        == "Username qemu not found in PSK file \(keys)/keys.psk")
    #expect(
      message { try TLSCredentials.psk(folder: keys, endpoint: .server, user: "joe") }
        == "username should not be set when endpoint=server")
    let odd = try TLSCredentials.x509(folder: folder("good"), endpoint: .server, priority: "ZZZ")
    #expect(throws: TLSError("Unable to set TLS session priority ZZZ: The request is invalid.")) {
      try TLSSession(odd)
    }
  }

  @Test func secretsAreDecrypted() throws {
    let key = Array("0123456789abcdef0123456789abcdef".utf8)
    let iv = Array("abcdefghijklmnop".utf8)
    func plain(_ base64: String) throws -> String {
      String(
        decoding: try SecretCipher.decrypt(#require(Base64.decode(base64)), key: key, iv: iv),
        as: UTF8.self)
    }
    #expect(try plain("YQ2rLe6zr8PYh3DCZtmuNg==") == "hello")
    #expect(try plain("") == "")
    #expect(throws: TLSError("Length 3 must be a multiple of block size 16")) { try plain("YWJj") }
    #expect(throws: TLSError("Incorrect number of padding bytes (84) found on decrypted data")) {
      try plain("AAAAAAAAAAAAAAAAAAAAAA==")
    }
  }
}
