import Cluster
import Foundation
import Host
import Options
import Testing

@Suite struct ClusterOptionsTests {
  /// The lines of the boot processor's and the application processor's node, as distributed QEMU's users write them.
  static let common =
    "--nographic -kernel bzImage -hda ubuntu-server.img -append 'root=/dev/sda1 console=ttyS0'"
    + " -cpu host -machine kernel-irqchip=off -smp 2 -m 512 --enable-kvm -serial mon:stdio"
    + " -shm-path giant"
  static let boot =
    common + " -local-cpu 1,start=0 -net user -net nic,model=virtio"
    + " -monitor telnet:127.0.0.1:1234,server,nowait"
  static let application =
    common + " -local-cpu 1,start=1 -net nic,model=virtio"
    + " -monitor telnet:127.0.0.1:1235,server,nowait"

  private func cluster(_ line: String) throws -> ClusterConfiguration {
    try #require(try configuration(line).cluster)
  }

  private func inet(_ host: String, _ port: Int) -> SocketAddress {
    .inet(InetAddress(host: host, port: String(port)))
  }

  @Test(arguments: [
    ("-smp 4 -cluster node=0,peers=a+b,insecure=on", 4, 1),
    ("-smp 4,cores=2 -cluster node=0,peers=a+b,insecure=on", 2, 2),
    ("-smp 4,threads=1 -cluster node=0,peers=a+b,insecure=on", 1, 4),
    ("-smp 4 -cluster node=0,peers=a+b,insecure=on,home=node0", 1, 4),
    ("-smp 4 -local-cpu 2,start=0 -shm-path here", 1, 4),
  ])
  func vCPUsOnNodesOfNUMAHaveTheirOwnSockets(line: String, sockets: Int, cores: Int) throws {
    let smp = try configuration(line).smp
    #expect(smp.sockets == sockets && smp.cores == cores && smp.threads == 1)
    #expect(smp.sockets * smp.cores == smp.maxCPUs)
  }

  @Test func bothLinesOfDistributedQEMUAreUnderstood() throws {
    let first = try configuration(Self.boot)
    let second = try configuration(Self.application)
    let (zero, one) = (try #require(first.cluster), try #require(second.cluster))
    #expect((zero.node.rawValue, one.node.rawValue) == (0, 1))
    #expect((zero.vcpus, one.vcpus) == ([0], [1]))
    #expect(zero.vcpuCount == 2 && zero.memory == .shm && zero.sharedMemoryName == "/giant")
    #expect(zero.addresses == one.addresses && zero.addresses.count == 2)
    let folder = "\(PrivateFolder.runtimePath)/giant"
    #expect(zero.addresses[1] == .unix(path: "\(folder)/node-1"))
    #expect(zero.credentials == .insecure)
    // Node 0 has the devices, both have their monitors.
    #expect(first.drives.count == 2 && first.nics.count == 1 && first.serials == ["serial0"])
    #expect(second.drives.isEmpty && second.nics.isEmpty && second.serials.isEmpty)
    #expect(second.netdevs.isEmpty && second.devices.isEmpty && second.parallels.isEmpty)
    #expect(second.chardevs.map(\.label) == ["compat_monitor0", "serial0-base", "serial0"])
    #expect(second.monitors.map(\.chardev) == ["compat_monitor0", "serial0"])
  }

  @Test func whatNodesCompareIsEqualOnBothLines() throws {
    let kernel = FileManager.default.temporaryDirectory.appendingPathComponent(
      "kernel-\(ProcessInfo.processInfo.processIdentifier)"
    ).path
    try Data("a kernel".utf8).write(to: URL(fileURLWithPath: kernel))
    defer { try? FileManager.default.removeItem(atPath: kernel) }
    func items(_ line: String) throws -> [ConfigurationItem] {
      try ClusterItems.of(
        configuration(line.replacingOccurrences(of: "bzImage", with: kernel)), accelerator: "tcg")
    }
    let (zero, one) = (try items(Self.boot), try items(Self.application))
    #expect(zero == one)
    #expect(ClusterItems.digest(zero) == ClusterItems.digest(one))
    let hash = SHA256.text(SHA256.hash([UInt8]("a kernel".utf8)))
    #expect(zero.contains(ConfigurationItem("-kernel", "sha256:\(hash)")))
    #expect(zero.contains(ConfigurationItem("-append", "root=/dev/sda1 console=ttyS0")))
    #expect(zero.contains(ConfigurationItem("-m", "512M")))
    let other = try items(Self.application.replacingOccurrences(of: "-m 512", with: "-m 1G"))
    let differing = zip(zero, other).filter { $0 != $1 }.map(\.0.name)
    #expect(differing == ["-m"])
    #expect(ClusterItems.digest(zero) != ClusterItems.digest(other))
  }

  @Test func aKernelThatCannotBeReadIsNamed() throws {
    let it = try configuration("-smp 2 -local-cpu 1 -kernel /nonexistent/kernel")
    do throws(OptionError) {
      _ = try ClusterItems.of(it)
      Issue.record("nothing was thrown")
    } catch {
      #expect(
        error.lines(program: "goliath") == [
          "goliath: -kernel /nonexistent/kernel: the file cannot be read: No such file or directory"
        ])
    }
  }

  @Test func canonicalTextIsUnambiguous() {
    let one = [ConfigurationItem("a", "b=c\nd=e%")]
    let two = [ConfigurationItem("a", "b=c"), ConfigurationItem("d", "e%")]
    #expect(ClusterItems.canonicalText(one) == "a=b%3Dc%0Ad%3De%25\n")
    #expect(ClusterItems.digest(one) != ClusterItems.digest(two))
  }

  @Test func severalHostsHaveAPortForEachNode() throws {
    let it = try cluster(
      "-smp 4 -local-cpu 2,start=2,iplist='10.0.0.1 10.0.0.2' -cluster insecure=on")
    #expect(it.addresses == [inet("10.0.0.1", 7710), inet("10.0.0.2", 7711)])
    #expect(it.node.rawValue == 1 && it.vcpus == [2, 3] && it.vcpuCount == 4)
    #expect(it.memory == .dsm && it.sharedMemoryName == nil)
    let quoted = try cluster("-smp 2 -local-cpu 1,iplist='\"127.0.0.1 127.0.0.1:9000\"'")
    #expect(quoted.addresses.map(\.text) == ["127.0.0.1:7710", "127.0.0.1:9000"])
    let here = try cluster("-smp 3 -local-cpu 1,start=2,iplist='127.0.0.1 ::1 127.0.0.1:9000'")
    #expect(
      here.addresses == [inet("127.0.0.1", 7710), inet("::1", 7711), inet("127.0.0.1", 9000)])
    let shared = try cluster(
      "-smp 2 -local-cpu 1,iplist='127.0.0.1 127.0.0.1' -shm-path /dev/shm/x")
    #expect(shared.memory == .shm && shared.sharedMemoryName == "/x")
  }

  @Test func nodesOfOneHostWithoutSharedMemoryHaveDSMOverUnixSockets() throws {
    let it = try cluster("-smp 4 -local-cpu 2,start=2 -name guest=g")
    #expect(it.memory == .dsm && it.id == "g")
    #expect(it.addresses.last == .unix(path: "\(PrivateFolder.runtimePath)/g/node-1"))
    // A name that no folder should have.
    let odd = try cluster("-smp 2 -local-cpu 1 -name 'a/../b'")
    guard case .unix(let path) = odd.addresses[0] else {
      Issue.record("no unix socket")
      return
    }
    #expect(!path.contains("..") && path.utf8.count < 108)
  }

  @Test func theLongFormSaysEverything() throws {
    let it = try cluster(
      "-smp 6 -object tls-creds-x509,id=t,dir=/tmp,endpoint=server"
        + " -cluster id=c1,node=1,vcpus=1-3+5,peers=10.0.0.1:7000+[fd00::2]:7710+unix:/run/x/n2"
        + ",memory=dsm,tls-creds=t,home=block,on-node-loss=shutdown,heartbeat-ms=100"
        + ",lease-ms=900,join-timeout=5")
    #expect(it.id == "c1" && it.node.rawValue == 1 && it.vcpus == [1, 2, 3, 5])
    #expect(
      it.addresses == [
        inet("10.0.0.1", 7000), inet("fd00::2", 7710), .unix(path: "/run/x/n2"),
      ])
    #expect(it.memory == .dsm && it.credentials == .x509("t") && it.homePolicy == .block)
    #expect(it.lossPolicy == .shutdown && it.heartbeatMilliseconds == 100)
    #expect(it.leaseMilliseconds == 900 && it.joinTimeoutSeconds == 5)
  }

  @Test func whatIsLeftOutHasTheDefaultsOfTheProtocol() throws {
    let it = try cluster("-smp 4 -cluster node=1,peers=localhost+127.0.0.2")
    #expect(it.id == "goliath" && it.vcpus == [2, 3] && it.memory == .dsm)
    #expect(it.addresses == [inet("localhost", 7710), inet("127.0.0.2", 7711)])
    #expect(it.homePolicy == .numa && it.lossPolicy == .pause && it.joinTimeoutSeconds == 60)
    #expect(it.heartbeatMilliseconds == 200 && it.leaseMilliseconds == 1500)
    let shared = try cluster("-smp 2 -cluster c,node=0,peers=127.0.0.1+127.0.0.2,memory=shm")
    #expect(shared.sharedMemoryName == "/c")
    let named = try cluster(
      "-smp 2 -cluster c,node=0,peers=127.0.0.1+127.0.0.2,shm-path=/n,transport=tcp")
    #expect(named.sharedMemoryName == "/n" && named.memory == .shm)
  }

  @Test func credentialsAndPoliciesJoinTheOriginalSpelling() throws {
    let it = try cluster(
      "-object tls-creds-psk,id=k,dir=/tmp,endpoint=server -smp 2"
        + " -local-cpu 1,iplist='10.0.0.1 10.0.0.2' -cluster psk=k,on-node-loss=shutdown")
    #expect(it.credentials == .psk("k") && it.lossPolicy == .shutdown)
  }

  @Test func restoringNeedsSnapshotsThatThereAreNot() {
    #expect(throws: OptionError.self) {
      try cluster("-smp 2 -local-cpu 1 -cluster on-node-loss=restore")
    }
  }

  @Test func nodesMayOnlyBeCompared() throws {
    let line = "-smp 2 -local-cpu 1"
    #expect(try configuration(line).clusterCheck == nil)
    #expect(try configuration("\(line) -cluster check=off").clusterCheck == nil)
    #expect(try configuration("\(line) -cluster check=on").clusterCheck == .on)
    #expect(try configuration("\(line) -cluster check=json").clusterCheck == .json)
    #expect(
      errorLines("\(line) -cluster check=maybe") == [
        "goliath: -cluster check=maybe: Parameter 'check' does not accept value 'maybe'; it is on, off"
          + " or json"
      ])
    #expect(
      errorLines("-smp 2 -local-cpu 2 -cluster check=on") == [
        "goliath: -cluster check=on: the machine runs on one node; there is nothing to compare"
      ])
  }

  @Test func aMachineOnOneNodeIsNoCluster() throws {
    #expect(try configuration("-smp 2 -local-cpu 2").cluster == nil)
    #expect(try configuration("-smp 2 -cluster node=0,peers=127.0.0.1").cluster == nil)
    #expect(try configuration("-smp 2").cluster == nil)
  }

  @Test func aSocketInAFolderOfOursNeedsNoCredentials() throws {
    let folder = "/tmp/goliath-test-\(ProcessInfo.processInfo.processIdentifier)"
    try PrivateFolder.make(folder)
    defer { try? FileManager.default.removeItem(atPath: folder) }
    #expect(PrivateFolder.isOurs(folder))
    let line = "-smp 2 -cluster node=0,peers=unix:\(folder)/0+unix:\(folder)/1,transport=unix"
    #expect(try cluster(line).credentials == .insecure)
    try FileManager.default.setAttributes([.posixPermissions: 0o755], ofItemAtPath: folder)
    #expect(!PrivateFolder.isOurs(folder))
    #expect(throws: SocketError.self) { try PrivateFolder.make(folder) }
    #expect(
      errorLines(line) == [
        "goliath: -cluster node=0,peers=unix:\(folder)/0+unix:\(folder)/1,transport=unix: node 0 listens"
          + " at '\(folder)/0', whose folder others can enter",
        "Make \(folder) a folder of your own with mode 0700. Give credentials (-cluster tls-creds=ID or"
          + " -cluster psk=ID, with the object), or say",
        "-cluster insecure=on to let everybody who reaches it control the guest.",
      ])
    #expect(try cluster("\(line) -cluster insecure=on").addresses.count == 2)
  }

  static let two = "peers=127.0.0.1+127.0.0.2"

  static let refusals: [(line: String, reason: String)] = [
    ("-smp 2 -local-cpu 1,start=2", "'start' is the first vCPU of this node: one of 0 or 1"),
    ("-smp 6 -local-cpu 2,start=3", "'start' is the first vCPU of this node: one of 0, 2 or 4"),
    (
      "-smp 3 -local-cpu 2",
      "3 vCPUs cannot be split into nodes of 2; uneven splits are written with -cluster"
        + " node=,vcpus=,peers="
    ),
    (
      "-smp 2 -local-cpu 3",
      "3 vCPUs on this node, and the machine has 2; give 1 to 2, or raise -smp"
    ),
    ("-smp 2 -local-cpu 0", "the number of this node's vCPUs is missing; give 1 to 2"),
    ("-smp 2 -local-cpu start=1", "the number of this node's vCPUs is missing; give 1 to 2"),
    ("-smp 2 -local-cpu x", "Parameter 'cpus' expects a number"),
    ("-smp 2 -local-cpu 1,stat=1", "Invalid parameter 'stat'; did you mean 'start'?"),
    (
      "-smp 2 -local-cpu 1,iplist=127.0.0.1",
      "'iplist' has 1 addresses for 2 nodes (2 vCPUs, 1 each); name every node, this one too, in the"
        + " order of 'start'"
    ),
    (
      "-smp 2 -local-cpu 1,iplist='10.0.0.1 10.0.0.2'",
      "node 0 is at 10.0.0.1:7710, and nothing says who may join"
    ),
    (
      "-smp 2 -local-cpu 1,iplist='127.0.0.1:9 127.0.0.1:9'",
      "nodes 0 and 1 have the same address 127.0.0.1:9"
    ),
    ("-smp 130 -local-cpu 1", "130 nodes are too many; a cluster has up to 64"),
    (
      "-smp 2 -shm-path x",
      "there is one node only; -local-cpu or -cluster says which ones share it"
    ),
    (
      "-smp 2 -local-cpu 1 -shm-path a/b",
      "'a/b' is no name of a shared-memory object; give one without slashes inside, such as /goliath"
    ),
    (
      "-smp 2 -local-cpu 1 -cluster node=1",
      "'node' and -local-cpu exclude each other; leave one out"
    ),
    (
      "-machine none -local-cpu 1", "machine 'none' has no vCPUs for several nodes; use a PC"
    ),
    (
      "-smp 2 -cluster c,node=0",
      "Parameter 'peers' is missing: where each node listens, this one too, as in"
        + " peers=10.0.0.1+10.0.0.2"
    ),
    (
      "-smp 2 -cluster \(two)",
      "Parameter 'node' is missing: which of the peers this is, 0 to 1; node 0 has the devices"
    ),
    (
      "-smp 2 -cluster node=2,\(two)", "there is no node 2; 'peers' names 2, numbered from 0"
    ),
    ("-smp 2 -cluster node=x,\(two)", "Parameter 'node' expects a number"),
    (
      "-smp 3 -cluster node=0,\(two)",
      "3 vCPUs cannot be split evenly over 2 nodes; say which ones are here: vcpus=FIRST-LAST"
    ),
    (
      "-smp 3 -cluster node=0,vcpus=2-3,\(two)",
      "there is no vCPU 3; -smp makes 3, numbered from 0"
    ),
    (
      "-smp 3 -cluster node=0,vcpus=1-0,\(two)",
      "'1-0' is no range of vCPUs; write FIRST-LAST or a number, several with '+'"
    ),
    (
      "-smp 3 -cluster node=0,vcpus=0-1+1,\(two)", "vCPU 1 is there twice"
    ),
    (
      "-smp 2 -cluster node=0,peers=+127.0.0.1",
      "'' is no address; write HOST:PORT, [IPV6]:PORT or unix:PATH"
    ),
    (
      "-smp 2 -cluster node=0,peers=127.0.0.1+[::1",
      "'[::1' is no address; write HOST:PORT, [IPV6]:PORT or unix:PATH"
    ),
    (
      "-smp 2 -cluster node=0,peers=127.0.0.1+127.0.0.2:0",
      "'0' in '127.0.0.2:0' is no port; give a number from 1 to 65535"
    ),
    (
      "-smp 2 -cluster node=0,peers=127.0.0.1+unix:",
      "a unix socket needs a path, as in unix:/run/user/1000/node-1"
    ),
    (
      "-smp 2 -cluster node=0,\(two),memory=dms",
      "Parameter 'memory' does not accept value 'dms'; it is shm or dsm; did you mean 'dsm'?"
    ),
    (
      "-smp 2 -shm-path x -cluster node=0,\(two),memory=dsm",
      "-shm-path names memory that all nodes share; leave it out, or say memory=shm"
    ),
    (
      "-smp 2 -cluster node=0,\(two),transport=ucx",
      "transport 'ucx' is not supported yet; use tcp or unix"
    ),
    (
      "-smp 2 -cluster node=0,\(two),transport=unix",
      "a peer is no unix socket; give unix:PATH, or transport=tcp"
    ),
    (
      "-smp 2 -cluster node=0,\(two),home=moon",
      "Parameter 'home' does not accept value 'moon'; it is numa, block or node0"
    ),
    (
      "-smp 2 -cluster node=0,\(two),heartbeat-ms=0",
      "Parameter 'heartbeat-ms' takes a number from 10 to 10000"
    ),
    (
      "-smp 2 -cluster node=0,\(two),lease-ms=500",
      "a lease of 500 ms ends before three heartbeats of 200 ms can be missed; give lease-ms=600 or"
        + " more"
    ),
    (
      "-smp 2 -cluster node=0,\(two),psk=k",
      "there is no object 'k'; make it with -object tls-creds-psk,id=k,dir="
    ),
    (
      "-smp 2 -object rng-builtin,id=k -cluster node=0,\(two),psk=k",
      "object 'k' is a rng-builtin; 'psk' takes a tls-creds-psk"
    ),
    (
      "-smp 2 -cluster node=0,\(two),psk=k,insecure=on",
      "'psk' and 'insecure' exclude each other; leave one out"
    ),
    (
      "-smp 2 -cluster 1c,node=0,\(two)",
      "'1c' is no name of a cluster: letters, digits, '-', '.', '_', beginning with a letter, up to"
        + " 63"
    ),
  ]

  @Test(arguments: refusals)
  func whatCannotBeIsRefusedWithASentence(line: String, reason: String) {
    let lines = errorLines(line)
    #expect(lines.first?.hasSuffix(": \(reason)") == true, "\(lines)")
  }

  @Test func theRefusalOfAnOpenClusterSaysHow() {
    let line = "-smp 2 -local-cpu 1,iplist='10.0.0.1 10.0.0.2'"
    #expect(
      errorLines(line) == [
        "goliath: -local-cpu 1,iplist=10.0.0.1 10.0.0.2: node 0 is at 10.0.0.1:7710, and nothing says"
          + " who may join",
        "Give credentials (-cluster tls-creds=ID or -cluster psk=ID, with the object), or say",
        "-cluster insecure=on to let everybody who reaches it control the guest.",
      ])
  }
}
