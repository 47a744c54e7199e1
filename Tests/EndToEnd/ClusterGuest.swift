import Glibc
import Host
import JSON
import Support
import Testing

/// Debian on several nodes, at a shell that takes lines, with a monitor to each node.
struct ClusterGuest {
  let cluster: GoliathCluster
  let shell: GuestShell
  let monitors: [QMPClient]
  /// /dev/vda of the guest as the host sees it: 8 MiB that are random in the beginning.
  var disk: String { cluster.folder + "/disk" }

  static let diskSize = 8 << 20

  /// Boots it; the rest is as in `GoliathCluster`. `program` is run in the guest as /tmp/program. Throws `SystemError`.
  init(
    _ memory: GoliathCluster.Memory, vcpus: [String], cpus: Int, megabytes: Int = 256,
    order: [Int]? = nil, program: String? = nil, append: String = "", _ arguments: [String] = [],
    seconds: Double = 400
  ) throws(SystemError) {
    // Where the host gives a node no time for seconds, the kernel thinks that its vCPUs hang.
    let guest = Guest.options(
      memory: megabytes, cpus: cpus,
      append: "quiet nowatchdog rcupdate.rcu_cpu_stall_suppress=1 " + append,
      run: GuestShell.loop,
      devices: true)
    cluster = try GoliathCluster(
      memory, vcpus: vcpus, order: order, ["-cpu", "max"] + guest + arguments
    ) { number, folder throws(SystemError) in
      guard number == 0 else { return [] }
      let line =
        "dd if=/dev/urandom of=\(folder)/disk bs=1M count=\(Self.diskSize >> 20) status=none"
      _ = try Process.output(["sh", "-c", line])
      let drives = ["\(folder)/disk"] + (program.map { [$0] } ?? [])
      return drives.flatMap { ["-drive", "file=\($0),format=raw,if=virtio"] }
    }
    monitors = try cluster.nodes.map { node throws(SystemError) in try node.connect(seconds: 60) }
    shell = try GuestShell(in: cluster.nodes[0], seconds: seconds)
    try begin(program)
  }

  /// What a guest that has booted needs before the rest.
  func begin(_ program: String? = nil) throws(SystemError) {
    try shell.run("modprobe virtio_blk")
    guard program != nil else { return }
    try shell.run("cat /dev/vdb > /tmp/program; chmod +x /tmp/program")
  }

  /// The event at every node's monitors.
  func events(_ name: String, seconds: Double = 60) throws(SystemError) -> [JSONValue] {
    try monitors.map { monitor throws(SystemError) in try monitor.event(name, seconds: seconds) }
  }

  /// `quit` at a node's monitor ends all of them in good order, and all are told why.
  func quit(at node: Int) throws {
    let answer = try monitors[node].run("quit")
    #expect(answer["return"] != nil, "\(answer.text)")
    for (number, event) in try events("SHUTDOWN").enumerated() {
      #expect(event["data"]?["guest"] == false)
      #expect(event["data"]?["reason"] == "host-qmp-quit")
      #expect(event["data"]?["node"] == JSONValue(number))
    }
    expectEnd()
  }

  /// All nodes end with status 0.
  func expectEnd() {
    let statuses = cluster.wait()
    #expect(statuses.allSatisfy { $0 == 0 }, "\(statuses): \(outputs)")
  }

  /// What the processes have written, for a failure.
  var outputs: String {
    cluster.nodes.enumerated().map { "--- node \($0): \($1.process.text.suffix(2000))" }.joined(
      separator: "\n")
  }

  /// A program of this folder in C, made for the guest; nil, with the reason on standard output, when that is not possible here.
  static func compile(_ source: String) -> String? {
    guard let compiler = Process.find("cc") else {
      print("SKIPPED: no C compiler")
      return nil
    }
    let target = Goliath.temporaryFolder() + "/program"
    let result = try? Process.output(
      [
        compiler, "-O2", "-static", "-pthread", "-o", target,
        Checkout.root + "/Tests/EndToEnd/\(source)",
      ], seconds: 120)
    if result?.status == 0 { return target }
    print("SKIPPED: \(source) cannot be made here: \(result?.text ?? "")")
    return nil
  }
}
