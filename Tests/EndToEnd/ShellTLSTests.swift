import Glibc
import Host
import Support
import Testing

/// goliath-shell over TLS, with certificates and with shared keys, against Goliath and QEMU.
@Suite(.serialized, .enabled(if: Certificates.shared != nil)) struct ShellTLSTests {
  /// A server whose QMP monitor is on TCP with TLS.
  final class Running {
    let process: Process
    let address: String

    init(_ server: ShellTests.Server, _ object: String) throws {
      // A port that was free a moment ago.
      let probe = try Socket.listen(.inet(InetAddress(host: "127.0.0.1", port: "0")))
      let port = Socket.localAddress(probe.rawValue)?.port ?? 0
      probe.close()
      address = "127.0.0.1:\(port)"
      process = try Process([
        server.program ?? "", "-machine", "none", "-S", "-display", "none", "-nodefaults",
        "-object", "\(object),id=tls0,endpoint=server", "-chardev",
        "socket,id=c,host=127.0.0.1,port=\(port),server=on,wait=off,tls-creds=tls0",
        "-mon", "chardev=c,mode=control",
      ])
    }

    deinit {
      process.kill(signal: SIGKILL)
      _ = process.wait(seconds: 5)
    }
  }

  @Test(arguments: ShellTests.Server.installed)
  func certificatesAreChecked(server: ShellTests.Server) throws {
    let folders = try #require(Certificates.shared)
    let running = try Running(server, "tls-creds-x509,dir=\(folders.path("good")),verify-peer=on")
    let ask = [running.address, "-s", "status", "-c", "query-status"]
    let good = try ShellTests.shell(["--retry", "--tls-creds-dir", folders.path("good")] + ask)
    #expect(good.text == "prelaunch\n")
    #expect(good.status == 0)
    let named = try ShellTests.shell(
      ["--tls-creds-dir", folders.path("good"), "--tls-hostname", "other.example"] + ask)
    #expect(named.status == 3)
    #expect(named.text.contains("does not match the hostname other.example"), "\(named.text)")
    let distrusting = try ShellTests.shell(["--tls-creds-dir", folders.path("otherca")] + ask)
    #expect(distrusting.status == 3)
    #expect(distrusting.text.contains("Certificate verification failed"), "\(distrusting.text)")
    let missing = try ShellTests.shell(["--tls-creds-dir", "/nonexistent"] + ask)
    #expect(missing.status == 2)
    #expect(try ShellTests.shell(["--tls-psk"] + ask).status == 2)
  }

  @Test(arguments: ShellTests.Server.installed)
  func sharedKeysWork(server: ShellTests.Server) throws {
    let folders = try #require(Certificates.shared)
    let running = try Running(server, "tls-creds-psk,dir=\(folders.path("psk"))")
    let ask = [running.address, "-s", "status", "-c", "query-status"]
    let options = ["--tls-psk", "--tls-user", "joe", "--tls-creds-dir"]
    let good = try ShellTests.shell(["--retry"] + options + [folders.path("psk")] + ask)
    #expect(good.text == "prelaunch\n")
    let other = try ShellTests.shell(options + [folders.path("otherpsk")] + ask)
    #expect(other.status == 3)
  }
}
