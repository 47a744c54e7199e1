import JSON
import Support
import Testing

/// Cards on interfaces of the host's kernel, in network namespaces of the tests' own; what monitors see of them.
@Suite(
  .serialized, .timeLimit(.minutes(15)), .enabled(if: Guest.folder != nil && Namespace.isUsable))
struct TapTests {
  private static let address = "ip addr add 10.7.0.2/24 dev eth0; ip link set eth0 up"
  private static let card = ["-device", "virtio-net-pci,netdev=n,id=card"]

  /// Sends a file each way and compares.
  private func exchangeFiles(_ guest: GuestShell, _ folder: String) throws {
    let made = try guest.host(
      "head -c 4000000 /dev/urandom > \(folder)/file; md5sum < \(folder)/file")
    let sum = made.text.prefix(32)
    let server = try guest.startOnHost(
      "socat -u OPEN:\(folder)/file TCP-LISTEN:7000,reuseaddr; exec socat -u TCP-LISTEN:7001,reuseaddr CREATE:\(folder)/back"
    )
    defer { withExtendedLifetime(server) {} }
    let got = try guest.run(
      "for i in 1 2 3 4 5 6 7 8 9; do nc 10.7.0.1 7000 > /f; [ -s /f ] && break; sleep 0.5; done; md5sum < /f",
      seconds: 90)
    #expect(got.text.contains(sum), "\(got.text)")
    try guest.run(
      "for i in 1 2 3 4 5 6 7 8 9; do nc 10.7.0.1 7001 < /f && break; sleep 0.5; done", seconds: 90)
    #expect(server.wait(seconds: 30) == 0, "\(server.text)")
    #expect(try guest.host("md5sum < \(folder)/back").text.contains(sum))
  }

  /// Lengths of the longest frame from the guest and of the longest to it, in a dump: several segments in one only with offloads.
  private func longestFrames(_ dump: String) throws -> [Int] {
    let read = try Process.output(["python3", "-c", Self.pcap, dump])
    #expect(read.status == 0, "\(read.text)")
    let words = read.text.split { $0.isWhitespace }
    return words.firstIndex(of: "longest").map {
      words[($0 + 1)...].prefix(2).compactMap { Int($0) }
    } ?? []
  }

  /// By name with scripts; with and without headers for offloads, which show in how long frames are.
  @Test(arguments: [true, false]) func anInterfaceByItsName(_ hasHeader: Bool) throws {
    let folder = Goliath.temporaryFolder()
    defer { _ = try? Process.output(["rm", "-rf", folder]) }
    for (name, line) in [("up", "ip addr add 10.7.0.1/24 dev $1; ip link set $1 up"), ("down", "")]
    {
      try Process.createFile(
        Array("#!/bin/sh\necho \(name) $1 >> \(folder)/log\n\(line)\n".utf8),
        at: "\(folder)/\(name)")
    }
    _ = try Process.output(["chmod", "755", "\(folder)/up", "\(folder)/down"])
    let guest = try GuestShell(
      [
        "-netdev",
        "tap,id=n,ifname=tap0,script=\(folder)/up,downscript=\(folder)/down,vnet_hdr=\(hasHeader ? "on" : "off")",
        "-object", "filter-dump,id=f,netdev=n,file=\(folder)/dump",
      ] + Self.card,
      setUp: "mount -t sysfs sysfs /sys")
    try guest.run(Self.address)
    try exchangeFiles(guest, folder)
    let client = try guest.goliath.connect()
    let network = try client.run("human-monitor-command", #"{"command-line":"info network"}"#)
    #expect(
      network["return"]?.stringValue?.contains(
        " \\ n: index=0,type=tap,ifname=tap0,script=\(folder)/up,downscript=\(folder)/down")
        == true,
      "\(network)")
    _ = try client.run("quit")
    #expect(guest.goliath.process.wait(seconds: 20) == 0)
    let log = try Process.output(["cat", "\(folder)/log"]).text
    #expect(log == "up tap0\ndown tap0\n")
    let longest = try longestFrames("\(folder)/dump")
    #expect(longest.count == 2)
    // What the guest sends is cut behind the dump, when the interface takes no headers.
    #expect(
      hasHeader ? longest.allSatisfy { $0 > 2900 } : longest.last == 1514, "\(longest)")
  }

  /// Both pairs of queues carry packets, each with interrupts of its own.
  @Test func anInterfaceWithTwoQueues() throws {
    let folder = Goliath.temporaryFolder()
    defer { _ = try? Process.output(["rm", "-rf", folder]) }
    let guest = try GuestShell(
      [
        "-netdev", "tap,id=n,ifname=tap0,script=no,downscript=no,queues=2", "-device",
        "virtio-net-pci,netdev=n,mq=on,vectors=6",
      ], cpus: 2,
      setUp:
        "mount -t sysfs sysfs /sys; ip tuntap add dev tap0 mode tap multi_queue; ip addr add 10.7.0.1/24 dev tap0; ip link set tap0 up"
    )
    try guest.run(Self.address)
    #expect(
      try guest.run("ls /sys/class/net/eth0/queues | tr '\\n' ' '").text
        == "rx-0 rx-1 tx-0 tx-1")
    try exchangeFiles(guest, folder)
    // A flow comes back where it went out, and it goes out where its program runs.
    try guest.run("for c in 0 1; do taskset -c $c ping -c 3 -i 0.2 10.7.0.1; done")
    let counts = try guest.run(
      "grep 'virtio.-output' /proc/interrupts; grep 'virtio.-input' /proc/interrupts")
    for queue in 0..<2 {
      let line = counts.text.split(separator: "\n").first { $0.contains("input.\(queue)") } ?? ""
      let total = line.split(separator: " ").dropFirst().prefix(2).compactMap { Int($0) }
        .reduce(0, +)
      #expect(total > 0, "\(counts.text)")
    }
  }

  /// A descriptor that somebody else opened.
  @Test func anInterfaceByItsDescriptor() throws {
    let folder = Goliath.temporaryFolder()
    defer { _ = try? Process.output(["rm", "-rf", folder]) }
    // Opens the interface (IFF_TAP, IFF_NO_PI, IFF_VNET_HDR), becomes the program.
    let opener =
      "import fcntl,os,struct,sys;f=os.open('/dev/net/tun',os.O_RDWR);fcntl.ioctl(f,0x400454ca,struct.pack('16sH22x',b'tap0',0x5002));"
      + "os.system('ip addr add 10.7.0.1/24 dev tap0; ip link set tap0 up');os.dup2(f,33);os.execvp(sys.argv[1],sys.argv[1:])"
    let guest = try GuestShell(
      [
        "-netdev", "tap,id=n,fd=33", "-object", "filter-dump,id=f,netdev=n,file=\(folder)/dump",
      ] + Self.card,
      setUp:
        "mount -t sysfs sysfs /sys; set -- python3 -c \"\(opener)\" \"$0\" \"$@\"; set -- \"$@\"; exec \"$@\""
    )
    try guest.run(Self.address)
    try exchangeFiles(guest, folder)
    _ = try guest.goliath.connect().run("object-del", #"{"id":"f"}"#)
    let longest = try longestFrames("\(folder)/dump")
    #expect(longest.count == 2 && longest.allSatisfy { $0 > 2900 }, "\(longest)")
  }

  /// What the guest's system sets in its card, as the monitor tells it; the cable; what a dump has.
  @Test func theFilterTheCableAndTheDump() throws {
    let folder = Goliath.temporaryFolder()
    defer { _ = try? Process.output(["rm", "-rf", folder]) }
    let guest = try GuestShell(
      [
        "-netdev", "tap,id=n,ifname=tap0,script=no,downscript=no", "-object",
        "filter-dump,id=f,netdev=n,file=\(folder)/dump",
      ] + Self.card,
      setUp:
        "ip tuntap add dev tap0 mode tap; ip addr add 10.7.0.1/24 dev tap0; ip link set tap0 up")
    try guest.run(Self.address)
    let client = try guest.goliath.connect()
    func filter() throws -> JSONValue {
      try client.run("query-rx-filter", #"{"name":"card"}"#)["return"]?[0] ?? .null
    }
    var state = try filter()
    #expect(state["promiscuous"] == false && state["vlan"] == "none")
    #expect(state["main-mac"] == "52:54:00:12:34:56")
    #expect(state["unicast"] == "normal" && state["multicast"] == "normal")
    #expect(state["multicast-table"]?.arrayValue?.contains("33:33:00:00:00:01") == true, "\(state)")

    // VLANs of the guest's are in the table; frames with their tags come in, and with others not.
    try guest.run(
      "modprobe 8021q; ip link add link eth0 name eth0.5 type vlan id 5; ip addr add 10.8.0.2/24 dev eth0.5; ip link set eth0.5 up"
    )
    var event = try client.event("NIC_RX_FILTER_CHANGED")
    #expect(event["data"]?["name"] == "card")
    #expect(event["data"]?["path"] == "/machine/peripheral/card/virtio-backend")
    state = try filter()
    #expect(state["vlan-table"] == [5, 0], "\(state)")
    try guest.run("ip link set eth0 promisc on")
    event = try client.event("NIC_RX_FILTER_CHANGED")
    #expect(try filter()["promiscuous"] == true)
    try guest.run("ip link set eth0 promisc off; ip link set eth0 address 52:54:00:aa:bb:cc")
    _ = try client.event("NIC_RX_FILTER_CHANGED")
    state = try filter()
    #expect(state["main-mac"] == "52:54:00:aa:bb:cc" && state["promiscuous"] == false, "\(state)")
    #expect(try guest.run("ping -c 1 10.7.0.1").status == 0)

    // A pulled cable.
    _ = try client.run("set_link", #"{"name":"card","up":false}"#)
    #expect(try guest.run("sleep 0.3; cat /sys/class/net/eth0/carrier").text == "0")
    #expect(try guest.run("ping -c 1 -W 1 10.7.0.1").status != 0)
    _ = try client.run("set_link", #"{"name":"card","up":true}"#)
    #expect(try guest.run("sleep 0.3; cat /sys/class/net/eth0/carrier").text == "1")
    #expect(try guest.run("sleep 1; ping -c 1 10.7.0.1").status == 0)

    // The dump is a file that analysers read: both directions, whole records, times that do not go back.
    try guest.run("ping -c 3 -s 1000 10.7.0.1")
    _ = try client.run("object-del", #"{"id":"f"}"#)
    let read = try Process.output(["python3", "-c", Self.pcap, "\(folder)/dump"])
    #expect(read.status == 0, "\(read.text)")
    #expect(read.text.contains("out 1042 in 1042"), "\(read.text)")
  }

  /// Checks a capture file, and prints the longest frame from the card and to it, the largest echo request and reply.
  private static let pcap = """
    import struct,sys
    b=open(sys.argv[1],'rb').read()
    magic,major,minor,zone,sigfigs,snap,link=struct.unpack('<IHHiIII',b[:24])
    assert (magic,major,minor,link)==(0xa1b2c3d4,2,4,1),b[:24]
    at=24;last=0;largest={8:0,0:0};out=back=0
    while at<len(b):
        s,u,kept,size=struct.unpack('<IIII',b[at:at+16])
        assert u<1000000 and kept==min(size,snap) and s*1000000+u>=last,(s,u,kept,size)
        last=s*1000000+u
        f=b[at+16:at+16+kept];assert len(f)==kept
        if f[12:14]==b'\\x08\\0' and f[23]==1: largest[f[34]]=max(largest.get(f[34],0),size)
        if f[6:12]==b'\\x52\\x54\\0\\x12\\x34\\x56': out=max(out,size)
        else: back=max(back,size)
        at+=16+kept
    assert at==len(b)
    print('longest',out,back)
    print('out',largest[8],'in',largest[0])
    """
}
