import JSON
import Support
import Testing

/// Debian's driver on our network card: user networking, tunnels between two programs.
@Suite(.serialized, .timeLimit(.minutes(15)), .enabled(if: Guest.folder != nil))
struct NetworkTests {
  private static let drivers = "modprobe+virtio_pci;modprobe+virtio_net;ip+link+set+eth0+up"

  private func boot(_ command: String, _ network: [String]) throws -> Goliath {
    try Goliath(
      ["-accel", "tcg", "-nodefaults", "-display", "none", "-serial", "stdio"]
        + Guest.options(run: command, devices: true) + network)
  }

  /// The guest of the distributed QEMU's command line gets an address, and a file from a server of the host's.
  @Test func aGuestGetsItsAddressAndAFileFromTheHost() throws {
    let folder = Goliath.temporaryFolder()
    defer { _ = try? Process.output(["rm", "-rf", folder]) }
    let made = try Process.output([
      "sh", "-c", "head -c 2000000 /dev/urandom > $0/file; md5sum < $0/file", folder,
    ])
    let sum = try #require(made.text.split(separator: " ").first)
    let port = 21_000 + Int.random(in: 0..<9000)
    let server = try Process([
      "python3", "-m", "http.server", "\(port)", "--bind", "127.0.0.1", "--directory", folder,
    ])
    defer { withExtendedLifetime(server) {} }
    let script =
      "echo+'#!/bin/sh'>/s;echo+'ifconfig+$interface+$ip+netmask+$subnet;route+add+default+gw+$router;echo+got-$ip'>>/s;chmod+755+/s"
    let fetch = "wget+-q+-O+/f+http://10.0.2.2:\(port)/file;md5sum+/f;echo+all-do''ne"
    let run = try boot(
      "\(Self.drivers);\(script);udhcpc+-q+-n+-i+eth0+-s+/s;\(fetch)",
      ["-net", "user", "-net", "nic,model=virtio"])
    #expect(
      run.process.readUntil(seconds: 120) { $0.contains("all-done") }, "\(run.process.text)")
    #expect(run.process.text.contains("got-10.0.2.15"), "\(run.process.text)")
    #expect(run.process.text.contains(sum), "\(run.process.text)")
    let client = try run.connect()
    let reply = try client.run(
      "human-monitor-command", #"{"command-line":"info network"}"#)
    let text = reply["return"]?.stringValue ?? ""
    #expect(text.contains("hub 0"), "\(text)")
    #expect(
      text.contains(
        "virtio-net-pci.0: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:12:34:56"))
  }

  /// A port of the host leads into the guest; a pulled cable stops it, as the driver sees.
  @Test func aForwardedPortReachesTheGuest() throws {
    let port = 31_000 + Int.random(in: 0..<9000)
    let run = try boot(
      "\(Self.drivers);ip+addr+add+10.0.2.15/24+dev+eth0;echo+rea''dy;echo+hello-from-guest|nc+-l+-p+99;echo+ser''ved",
      [
        "-netdev", "user,id=u,hostfwd=tcp:127.0.0.1:\(port)-:99", "-device",
        "virtio-net-pci,netdev=u,id=card",
      ])
    #expect(run.process.readUntil(seconds: 90) { $0.contains("ready") }, "\(run.process.text)")
    let answer = try Process.output(
      ["sh", "-c", "sleep 1; socat -t 20 - TCP:127.0.0.1:\(port) </dev/null"], seconds: 60)
    #expect(answer.text.contains("hello-from-guest"), "\(answer.text)")
    let client = try run.connect()
    _ = try client.run("set_link", #"{"name":"card","up":false}"#)
    let filters = try client.run("query-rx-filter", #"{"name":"card"}"#)
    #expect(filters["return"]?[0]?["main-mac"] == "52:54:00:12:34:56")
  }

  @Test(arguments: ["socket", "stream", "dgram"])
  func twoGuestsTalkOverATunnel(_ kind: String) throws {
    let folder = Goliath.temporaryFolder()
    defer { _ = try? Process.output(["rm", "-rf", folder]) }
    let port = 41_000 + Int.random(in: 0..<9000)
    func netdev(_ first: Bool) -> String {
      let (here, there) = first ? ("a", "b") : ("b", "a")
      switch kind {
      case "socket": return "socket,id=n,\(first ? "listen" : "connect")=127.0.0.1:\(port)"
      case "stream":
        return "stream,id=n,addr.type=unix,addr.path=\(folder)/s\(first ? ",server=on" : "")"
      default:
        return
          "dgram,id=n,local.type=unix,local.path=\(folder)/\(here),remote.type=unix,remote.path=\(folder)/\(there)"
      }
    }
    let server = try boot(
      "\(Self.drivers);ip+addr+add+10.9.0.1/24+dev+eth0;echo+rea''dy;nc+-l+-p+99+|+md5sum;echo+ser''ved",
      ["-netdev", netdev(true), "-device", "virtio-net-pci,netdev=n,mac=52:54:00:00:00:01"])
    #expect(
      server.process.readUntil(seconds: 90) { $0.contains("ready") }, "\(server.process.text)")
    let client = try boot(
      "\(Self.drivers);ip+addr+add+10.9.0.2/24+dev+eth0;head+-c+3000000+/dev/urandom>/f;md5sum+</f;nc+10.9.0.1+99+</f;echo+se''nt",
      ["-netdev", netdev(false), "-device", "virtio-net-pci,netdev=n,mac=52:54:00:00:00:02"])
    #expect(
      client.process.readUntil(seconds: 120) { $0.contains("sent") }, "\(client.process.text)")
    #expect(
      server.process.readUntil(seconds: 60) { $0.contains("served") }, "\(server.process.text)")
    let sum = client.process.text.split(whereSeparator: \.isWhitespace).first {
      $0.utf8.count == 32
    }
    #expect(sum.map { server.process.text.contains($0) } == true, "\(server.process.text)")
  }
}
