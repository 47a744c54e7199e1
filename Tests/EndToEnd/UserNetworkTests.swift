import Glibc
import Host
import JSON
import Support
import Testing

/// User networking as a guest and its host see it.
@Suite(
  .serialized, .timeLimit(.minutes(15)), .enabled(if: Guest.folder != nil && Namespace.isUsable))
struct UserNetworkTests {
  /// A name server that knows every name, and one who answers lines over IPv4 and IPv6.
  private static let peers = #"""
    import socket, threading
    def names():
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("127.0.0.1", 53))
        while True:
            q, a = s.recvfrom(2048)
            n = 12
            while q[n]: n += q[n] + 1
            kind = q[n + 1:n + 3]
            answer = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x4d" if kind == b"\0\x01" else b""
            s.sendto(q[:2] + b"\x81\x80\0\x01" + (b"\0\x01" if answer else b"\0\0") + b"\0\0\0\0" + q[12:n + 5] + answer, a)
    def serve(family, host):
        s = socket.socket(family); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind((host, 7001)); s.listen(5)
        while True:
            c, a = s.accept(); c.sendall(b"answer to " + c.recv(100)); c.close()
    threading.Thread(target=names).start()
    threading.Thread(target=serve, args=(socket.AF_INET, "127.0.0.1")).start()
    threading.Thread(target=serve, args=(socket.AF_INET6, "::1")).start()
    print("ready", flush=True)
    """#

  private static let lease =
    "printf '#!/bin/sh\\nset > /lease\\nifconfig $interface $ip netmask $subnet; route add default gw $router\\n' > /s"
    + "; chmod 755 /s; ip link set eth0 up; udhcpc -q -n -i eth0 -O search -O bootfile -O tftp -s /s"

  /// What a server in the guest says, which may be between two clients.
  private func ask(_ guest: GuestShell, port: Int) throws -> String {
    try guest.host(
      "for i in 1 2 3 4 5 6 7 8 9 10; do r=$(socat -t 10 - TCP:127.0.0.1:\(port) < /dev/null) || break; [ -n \"$r\" ] && break; sleep 0.5; done; echo \"$r\""
    ).text
  }

  private func boot(_ folder: String, _ netdev: String, _ more: [String] = []) throws -> (
    GuestShell, Process
  ) {
    let guest = try GuestShell(
      ["-netdev", "user,id=u" + netdev, "-device", "virtio-net-pci,netdev=u,id=card"] + more,
      setUp:
        "ip link set lo up && echo nameserver 127.0.0.1 > \(folder)/resolv && mount --bind \(folder)/resolv /etc/resolv.conf"
    )
    try Process.createFile(Array(Self.peers.utf8), at: folder + "/peers.py")
    let peers = try guest.startOnHost("exec python3 \(folder)/peers.py")
    #expect(peers.expect("ready", seconds: 20), "\(peers.text)")
    return (guest, peers)
  }

  @Test func everythingThatAUserNetworkOffers() throws {
    let folder = Goliath.temporaryFolder()
    defer { _ = try? Process.output(["rm", "-rf", folder]) }
    let command = "#!/bin/sh\ngrep SigBlk /proc/self/status\nread line\necho \"said $line\"\n"
    try Process.createFile(Array(command.utf8), at: folder + "/command")
    _ = try Process.output([
      "sh", "-c", "chmod 755 $0/command; head -c 700000 /dev/urandom > $0/file", folder,
    ])
    let sum = try Process.output(["sh", "-c", "md5sum < $0/file", folder]).text.prefix(32)
    let (guest, peers) = try boot(
      folder,
      ",hostname=named,domainname=example.org,dnssearch=one.example,dnssearch=two.example,tftp=\(folder)"
        + ",bootfile=pxe.0,tftp-server-name=tee,hostfwd=tcp:127.0.0.1:2001-:99"
        + ",hostfwd=udp:127.0.0.1:2002-:98,guestfwd=tcp:10.0.2.100:1000-cmd:\(folder)/command"
        + ",guestfwd=tcp:10.0.2.101:1001-chardev:there"
        + ",guestfwd=tcp:10.0.2.102:1002-unix:\(folder)/short,,server=on,,wait=off",
      ["-chardev", "socket,id=there,path=\(folder)/there,server=on,wait=off"])
    defer { peers.kill(signal: 9) }

    // Addresses by DHCP, with everything that was asked for.
    let lease = try guest.run("\(Self.lease); cat /lease")
    for part in [
      "ip='10.0.2.15'", "router='10.0.2.2'", "dns='10.0.2.3'", "hostname='named'",
      "domain='example.org'", "search='one.example two.example'", "boot_file='pxe.0'", "tftp='tee'",
    ] { #expect(lease.text.contains(part), "\(part) in \(lease.text)") }

    // Files by TFTP, names, and the host by its address of this network.
    let tftp = try guest.run("cd /tmp; tftp -g -r file 10.0.2.2 && md5sum file")
    #expect(tftp.text.contains(sum), "\(tftp.text)")
    let name = try guest.run("nslookup -type=a any.example 10.0.2.3")
    #expect(name.text.contains("192.0.2.77"), "\(name.text)")
    let talk = try guest.run("echo one | nc 10.0.2.2 7001")
    #expect(talk.text == "answer to one")

    // IPv6: a prefix by router advertisement, the host, a connection to it.
    let six = try guest.run(
      "for i in 1 2 3 4 5 6 7 8 9 10; do ip -6 addr show dev eth0 | grep -q 'fec0::.*scope site' && break; sleep 1; done; ip -6 addr show dev eth0; ping -6 -c 1 fec0::2"
    )
    #expect(six.status == 0 && six.text.contains("inet6 fec0::5054:ff:fe12:3456"), "\(six.text)")
    let talk6 = try guest.run("echo six | nc fec0::2 7001")
    #expect(talk6.text == "answer to six", "\(talk6.text)")

    // From outside to a server in the guest; a forwarding that comes and goes at run time.
    try guest.run("(while true; do echo from-guest | nc -l -p 99; done) 2>/dev/null &")
    #expect(try ask(guest, port: 2001) == "from-guest\n")
    // No program of the guest's serves datagrams; its kernel counts those that nobody wants.
    try guest.host("for i in 1 2 3; do echo dgram | socat - UDP:127.0.0.1:2002; sleep 0.3; done")
    let unwanted = try guest.run("awk '/^Udp: [0-9]/{print $3}' /proc/net/snmp")
    #expect(Int(unwanted.text).map { $0 > 0 } == true, "\(unwanted.text)")
    let monitor = try guest.goliath.connect()
    func human(_ line: String) throws -> String {
      try monitor.run("human-monitor-command", #"{"command-line":"\#(line)"}"#)["return"]?
        .stringValue ?? "?"
    }
    #expect(try guest.host("socat -t 5 - TCP:127.0.0.1:2003 < /dev/null").status != 0)
    #expect(try human("hostfwd_add u tcp:127.0.0.1:2003-:99") == "")
    #expect(try human("info usernet").contains("TCP[HOST_FORWARD]"))
    #expect(try ask(guest, port: 2003) == "from-guest\n")
    #expect(
      try human("hostfwd_remove u tcp:127.0.0.1:2003")
        == "host forwarding rule for tcp:127.0.0.1:2003 removed\r\n")
    #expect(try guest.host("socat -t 5 - TCP:127.0.0.1:2003 < /dev/null").status != 0)
    #expect(
      try human("hostfwd_remove u tcp:127.0.0.1:2003")
        == "host forwarding rule for tcp:127.0.0.1:2003 not found\r\n")

    /// Waits until somebody is connected to the socket of a character device; what is written to it before is thrown away.
    func waitForPeer(of path: String) throws {
      let end = HostClock.monotonic + 60_000_000_000
      var names: [String] = []
      repeat {
        names = try (monitor.run("query-chardev")["return"]?.arrayValue ?? [])
          .compactMap { $0["filename"]?.stringValue }
        if names.contains(where: { $0.contains(path) && !$0.hasPrefix("disconnected:") }) { return }
        usleep(20_000)
      } while HostClock.monotonic < end
      Issue.record("nobody is connected to \(path): \(names)")
    }

    // Addresses of this network that lead to a command, and to character devices.
    let said = try guest.run("echo hello | nc 10.0.2.100 1000")
    #expect(said.text.contains("said hello"), "\(said.text)")
    #expect(said.text.contains("SigBlk:\t0000000000000000"), "\(said.text)")
    let far = try guest.startOnHost(
      "socat -t 30 UNIX-CONNECT:\(folder)/there SYSTEM:'head -c 700000 > \(folder)/got; cat \(folder)/file'"
    )
    try waitForPeer(of: folder + "/there")
    let both = try guest.run(
      "(cat /tmp/file; sleep 40) | timeout 50 nc 10.0.2.101 1001 | head -c 700000 | md5sum",
      seconds: 100)
    #expect(both.text.contains(sum), "\(both.text)")
    #expect(try guest.host("md5sum < \(folder)/got").text.contains(sum), "\(far.text)")
    let short = try guest.startOnHost(
      "(echo short; sleep 60) | socat - UNIX-CONNECT:\(folder)/short")
    try waitForPeer(of: folder + "/short")
    #expect(
      try guest.run("(echo back; sleep 3) | timeout 6 nc 10.0.2.102 1002").text.hasPrefix("short"))
    #expect(short.expect("back", seconds: 20), "\(short.text)")
  }

  /// `restrict=on`: nothing of the host or beyond, but what was forwarded by name.
  @Test func aRestrictedGuestReachesOnlyWhatWasForwarded() throws {
    let folder = Goliath.temporaryFolder()
    defer { _ = try? Process.output(["rm", "-rf", folder]) }
    let (guest, peers) = try boot(
      folder,
      ",restrict=on,hostfwd=tcp:127.0.0.1:2001-:99,guestfwd=tcp:10.0.2.100:1000-cmd:echo yes")
    defer { peers.kill(signal: 9) }
    #expect(try guest.run(Self.lease).status == 0)
    #expect(try guest.run("echo one | nc -w 4 10.0.2.2 7001").text != "answer to one")
    #expect(try guest.run("echo six | nc -w 4 fec0::2 7001").text != "answer to six")
    let name = try guest.run("nslookup -type=a any.example 10.0.2.3", seconds: 90)
    #expect(!name.text.contains("192.0.2.77"), "\(name.text)")
    #expect(try guest.run("nc 10.0.2.100 1000 < /dev/null").text == "yes")
    try guest.run("(while true; do echo from-guest | nc -l -p 99; done) 2>/dev/null &")
    #expect(try ask(guest, port: 2001) == "from-guest\n")
  }
}
