import Host
import JSON
import Support
import Testing

/// Distributed QEMU's own command lines, with the software CPU.
@Suite(.serialized, .enabled(if: Guest.folder != nil)) struct ClusterLegacyTests {
  /// How the nodes find each other.
  enum Spelling: String, CaseIterable { case sharedMemory, addresses }

  @Test(arguments: Spelling.allCases)
  func bothNodesStartAsWritten(spelling: Spelling) throws {
    for program in ["qemu-img", "bash"] where Process.find(program) == nil {
      return print("SKIPPED: \(program) is not installed")
    }
    let folder = Goliath.temporaryFolder()
    defer { _ = try? Process.output(["rm", "-rf", folder]) }
    // One partition from the second MiB on, with the entry of a boot record for it.
    let made = try Process.output([
      "bash", "-c",
      """
      dd if=/dev/urandom of=$0/raw bs=1M count=4 status=none &&
      { head -c 446 /dev/zero; printf '\\x00\\x00\\x02\\x00\\x83\\xff\\xff\\xff\\x00\\x08\\x00\\x00\\x00\\x10\\x00\\x00';
        head -c 48 /dev/zero; printf '\\x55\\xaa'; } | dd of=$0/raw conv=notrunc status=none &&
      qemu-img convert -O qcow2 $0/raw $0/ubuntu-server.img && tail -c +1048577 $0/raw | head -c 2097152 | sha256sum
      """, folder,
    ])
    try #require(made.status == 0, "\(made.text)")
    let ports = try GoliathCluster.freePorts(4)
    let name = "legacy-\(folder.split(separator: "-").last ?? "")"

    let guest = Guest.options(memory: 512, cpus: 2, run: GuestShell.loop, devices: true)
    let common =
      ["-nographic"] + guest.map { $0.hasPrefix("console=") ? "root=/dev/sda1 " + $0 : $0 }
      + [
        "-hda", folder + "/ubuntu-server.img", "-cpu", "host", "-machine", "kernel-irqchip=off",
        "-accel", "tcg", "-serial", "mon:stdio", "-cluster", "lease-ms=60000",
      ]
    func start(_ node: Int, _ network: [String]) throws -> Goliath {
      let place: [String] =
        switch spelling {
        case .sharedMemory: ["-shm-path", name, "-local-cpu", "1,start=\(node)"]
        case .addresses:
          [
            "-local-cpu",
            "1,start=\(node),iplist=\"127.0.0.1:\(ports[2]) 127.0.0.1:\(ports[3])\"",
          ]
        }
      return try Goliath(
        common + place + network
          + ["-monitor", "telnet:127.0.0.1:\(ports[node]),server,nowait"])
    }
    let one = try start(1, ["-net", "nic,model=virtio"])
    let zero = try start(0, ["-net", "user", "-net", "nic,model=virtio"])
    let shell = try GuestShell(in: zero, seconds: 400)

    #expect(try shell.run("grep -c ^processor /proc/cpuinfo").text == "2")
    try shell.run("modprobe ata_piix; modprobe sd_mod")
    let sum = try shell.run(
      "n=0; until [ -b /dev/sda1 ] || [ $n = 300 ]; do n=$((n+1)); sleep 0.1; done;"
        + " taskset 2 sha256sum /dev/sda1", seconds: 400)
    #expect(sum.text.prefix(64) == made.text.prefix(64), "\(sum.text)")
    let lease = try shell.run(
      "ip link set eth0 up; taskset 2 udhcpc -i eth0 -n -q -f -t 10 -s /bin/true", seconds: 400)
    #expect(lease.text.contains("lease of 10.0.2.15 obtained"), "\(lease.text)")

    // Either telnet monitor sees both vCPUs, stops all, and is the end of all.
    let talk = """
      exec 3<>/dev/tcp/127.0.0.1/$0; printf 'info cpus\\r' >&3
      while IFS= read -r -t 60 line <&3; do case $line in *"CPU #1"*) printf "$1" >&3; eval "$2"; esac; done; exit 1
      """
    let monitor = try one.connect()
    let first = try Process.output(["bash", "-c", talk, "\(ports[0])", "stop\\r", "exit 0"])
    #expect(first.status == 0, "\(first.text)")
    #expect(try monitor.event("STOP")["data"]?["node"] == 0)
    #expect(try monitor.run("query-status")["return"]?["status"] == "paused")
    let last = try Process.output(["bash", "-c", talk, "\(ports[1])", "quit\\r", "exec cat <&3"])
    #expect(last.status == 0, "\(last.text)")
    for node in [one, zero] {
      _ = node.process.readUntil(seconds: 60) { _ in false }
      #expect(node.process.wait(seconds: 60) == 0, "\(node.process.text.suffix(2000))")
    }
  }
}
