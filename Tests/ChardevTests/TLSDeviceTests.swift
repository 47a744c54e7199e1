import Chardev
import Host
import QAPI
import Support
import Testing

/// TLS devices and other programs' clients and servers.
@Suite(
  .timeLimit(.minutes(15)), .enabled(if: TLSCredentials.isAvailable && Certificates.shared != nil))
struct TLSDeviceTests {
  init() { MainLoopThread.start() }

  @MainLoop
  private final class Door {
    let registry = ChardevRegistry()
    let frontend = RecordingFrontend()
    var reports: [String] = []
    var allowed = ""

    init(_ make: @escaping () throws(TLSError) -> TLSCredentials) {
      registry.credentialsNamed = { id throws(ChardevError) in
        guard id == "tls" else {
          throw ChardevError(.notFound, "No TLS credentials with id '\(id)'")
        }
        do throws(TLSError) { return try make() } catch {
          throw ChardevError(.badOption, error.message)
        }
      }
      registry.isAuthorised = { [weak self] id, name throws(TLSError) in
        if id != "list" { throw TLSError("Cannot find QAuthZ object ID \(id)") }
        return self?.allowed == name
      }
      registry.onReport = { [weak self] _, text in
        self?.reports.append(text)
        self?.frontend.chardevBreak()
      }
    }

    func create(
      _ address: SocketAddressLegacy = anyPort, creds: String? = "tls", authz: String? = nil,
      server: Bool = true, websocket: Bool? = nil
    ) throws -> Chardev {
      let device = try registry.create(
        "t",
        .socket(
          ChardevSocket(
            addr: address, tlsCreds: creds, tlsAuthz: authz, server: server,
            wait: server ? false : nil, websocket: websocket)))
      _ = try device.attach(frontend)
      return device
    }
  }

  private func folder(_ name: String) throws -> String {
    try #require(Certificates.shared).path(name)
  }

  private func server() async throws -> Door {
    let path = try folder("good")
    return try await MainLoop.perform {
      Door { () throws(TLSError) in try TLSCredentials.x509(folder: path, endpoint: .server) }
    }
  }

  /// gnutls-cli with a client's certificate; what is typed goes to the server.
  private func client(
    _ port: UInt16, _ name: String = "good", options: [String] = []
  ) throws -> Process {
    let tool = try #require(Process.find("gnutls-cli"))
    let path = try folder(name)
    return try Process(
      [
        tool, "--x509cafile", path + "/ca-cert.pem", "--x509certfile", path + "/client-cert.pem",
        "--x509keyfile", path + "/client-key.pem", "-p", String(port), "localhost",
      ] + options)
  }

  @Test func aClientWithACertificateTalksToADevice() async throws {
    let door = try await server()
    let device = try await MainLoop.perform { try door.create() }
    let number = await device.localPort
    #expect(await device.filename == "disconnected:tcp:127.0.0.1:\(number),server=on")
    let process = try client(number)
    #expect(process.expect("Handshake was completed", seconds: 30))
    process.send("hello\n")
    await door.frontend.wait { door.frontend.text == "hello\n" }
    #expect(await device.filename.hasPrefix("tcp:127.0.0.1:\(number),server=on <-> 127.0.0.1:"))
    try await MainLoop.perform { device.shutDown() }
    #expect(process.expect("Peer has closed the GnuTLS connection", seconds: 30))
  }

  @Test func strangersAreRefusedAndReported() async throws {
    let door = try await server()
    let device = try await MainLoop.perform { try door.create() }
    let number = await device.localPort
    let process = try client(number, "otherca", options: ["--insecure"])
    #expect(process.expect("alert", seconds: 30))
    let why = "Certificate verification failed: The certificate hasn't got a known issuer"
    await door.frontend.wait { door.reports == [why] }
    #expect(await door.frontend.events == ["break"], "it never opened")
    // Noise instead of a handshake.
    let noise = try Client(port: number)
    try noise.send([UInt8](repeating: 0x5A, count: 4000))
    _ = try noise.receive(10_000)
    await door.frontend.wait { door.reports.count == 2 }
    #expect(await door.reports[1].hasPrefix("TLS handshake failed: "))
  }

  @Test func theListIsAskedForEachClient() async throws {
    let door = try await server()
    let device = try await MainLoop.perform { try door.create(authz: "list") }
    let number = await device.localPort
    let process = try client(number)
    #expect(process.expect("Access was denied", seconds: 30))
    await door.frontend.wait { door.reports.count == 1 }
    let text = await door.reports[0]
    #expect(text.hasPrefix("TLS x509 authz check for ") && text.hasSuffix(" is denied"))
    let name = String(text.dropFirst(25).dropLast(10))
    try await MainLoop.perform { door.allowed = name }
    let second = try client(number)
    #expect(second.expect("Handshake was completed", seconds: 30))
    await door.frontend.wait { door.frontend.events.contains("opened") }
  }

  @Test func aDeviceConnectsToAServerThatItTrusts() async throws {
    let tool = try #require(Process.find("gnutls-serv"))
    let path = try folder("good")
    let port = try freePort()
    let process = try Process([
      tool, "--echo", "--x509cafile", path + "/ca-cert.pem", "--x509certfile",
      path + "/server-cert.pem", "--x509keyfile", path + "/server-key.pem", "-p", String(port),
      "--require-client-cert",
    ])
    #expect(process.expect("...done", seconds: 30))
    let door = try await MainLoop.perform {
      Door { () throws(TLSError) in try TLSCredentials.x509(folder: path, endpoint: .client) }
    }
    let address = SocketAddressLegacy.inet(
      InetSocketAddress(host: "localhost", port: String(port), ipv4: true))
    let device = try await MainLoop.perform { try door.create(address, server: false) }
    await door.frontend.wait { door.frontend.events == ["opened"] }
    #expect(await device.filename.hasSuffix(" <-> 127.0.0.1:\(port)"))
    #expect(await door.reports.isEmpty)
  }

  @Test func aServerOfAnotherNameIsNotTrusted() async throws {
    let path = try folder("otherhost")
    let tool = try #require(Process.find("gnutls-serv"))
    let port = try freePort()
    let process = try Process([
      tool, "--echo", "--x509certfile", path + "/server-cert.pem", "--x509keyfile",
      path + "/server-key.pem", "-p", String(port),
    ])
    #expect(process.expect("...done", seconds: 30))
    let door = try await MainLoop.perform {
      Door { () throws(TLSError) in try TLSCredentials.x509(folder: path, endpoint: .client) }
    }
    let address = SocketAddressLegacy.inet(
      InetSocketAddress(host: "localhost", port: String(port), ipv4: true))
    _ = try await MainLoop.perform { try door.create(address, server: false) }
    await door.frontend.wait { !door.reports.isEmpty }
    let why = "Certificate verification failed: Owner does not match the hostname localhost"
    #expect(await door.reports == [why])
  }

  @Test func optionsThatDoNotFitAreRefusedInQEMUsWords() async throws {
    let door = try await server()
    let unix = SocketAddressLegacy.unix(UnixSocketAddress(path: temporaryPath("tls")))
    try await MainLoop.perform {
      func message(_ body: () throws -> Chardev) -> String {
        do {
          _ = try body()
          return ""
        } catch { return (error as? ChardevError)?.message ?? "\(error)" }
      }
      #expect(message { try door.create(creds: "nope") } == "No TLS credentials with id 'nope'")
      #expect(
        message { try door.create(server: false) }
          == "Expected TLS credentials for a client endpoint")
      #expect(
        message { try door.create(unix) }
          == "'tls_creds' option is incompatible with 'unix' address type")
      #expect(
        message { try door.create(creds: nil, authz: "list") }
          == "'tls_authz' option requires 'tls_creds' option")
      #expect(
        message { try door.create(creds: nil, server: false, websocket: true) }
          == "Websocket client is not implemented")
    }
  }

  private func freePort() throws -> UInt16 {
    let socket = try Socket.listen(.inet(InetAddress(host: "127.0.0.1", port: "0")))
    return try #require(Socket.localAddress(socket.rawValue)).port
  }
}
