import Glibc
import Host
import JSON
import Support
import Testing

/// One Debian on several processes: all vCPUs are there, and all of them reach memory, disks and the serial port.
@Suite(.serialized, .enabled(if: Guest.folder != nil)) struct ClusterBootTests {
  /// One way to spread a guest.
  struct Layout: Sendable, CustomTestStringConvertible {
    var memory: GoliathCluster.Memory
    var vcpus: [String]
    /// The node of each vCPU.
    var placement: [Int]
    var order: [Int]
    var testDescription: String { "\(memory.rawValue), \(vcpus.count) nodes, started \(order)" }
  }

  static let layouts = [
    Layout(memory: .shm, vcpus: ["0", "1"], placement: [0, 1], order: [1, 0]),
    Layout(memory: .unix, vcpus: ["0", "1"], placement: [0, 1], order: [0, 1]),
    Layout(memory: .tcp, vcpus: ["0", "1"], placement: [0, 1], order: [1, 0]),
    Layout(memory: .tls, vcpus: ["0", "1"], placement: [0, 1], order: [0, 1]),
    Layout(
      memory: .unix, vcpus: ["0-1", "2", "3", "4"], placement: [0, 0, 1, 2, 3],
      order: [2, 0, 3, 1]),
  ]

  @Test(arguments: layouts)
  func debianFindsAllProcessorsAndEachReachesEverything(layout: Layout) throws {
    let cpus = layout.placement.count
    let guest = try ClusterGuest(
      layout.memory, vcpus: layout.vcpus, cpus: cpus, order: layout.order)
    let shell = guest.shell
    #expect(try shell.run("grep -c ^processor /proc/cpuinfo").text == "\(cpus)")
    // The kernel's opinion of each: none came late, or was not to be trusted.
    #expect(try shell.run("cat /sys/devices/system/cpu/online").text == "0-\(cpus - 1)")
    let doubts = try shell.run("dmesg | grep -E 'WARNING:|BUG:|Call Trace|nstable|Firmware Bug'")
    #expect(doubts.text == "", "\(doubts.text)")

    for (node, monitor) in guest.monitors.enumerated() {
      let answer = try monitor.run("query-cpus-fast")
      let entries = try #require(answer["return"]?.arrayValue, "\(answer.text)")
      #expect(entries.map { $0["cpu-index"]?.intValue } == Array(0..<cpus), "node \(node)")
      #expect(entries.map { $0["node"]?.intValue } == layout.placement, "node \(node)")
      let status = try monitor.run("query-cluster")["return"]
      let links = (status?["nodes"]?.arrayValue ?? []).enumerated().filter { $0.offset != node }
      #expect(links.allSatisfy { $0.element["tls"] == .bool(layout.memory == .tls) })
      #expect(links.count == layout.vcpus.count - 1, "\(String(describing: status))")
    }

    func mask(_ cpu: Int) -> String { String(1 << cpu, radix: 16) }

    // All compute at once, each something else.
    let work =
      (0..<cpus).map { cpu in
        "taskset \(mask(cpu)) awk 'BEGIN{s=\(cpu + 1);for(i=0;i<20000;i++)s=(s*16807)%2147483647;"
          + "print \(cpu),s}' > /tmp/work\(cpu) &"
      }.joined(separator: " ") + " wait; cat /tmp/work*"
    let expected = (0..<cpus).map { cpu in
      var value = UInt64(cpu + 1)
      for _ in 0..<20000 { value = value * 16807 % 2_147_483_647 }
      return "\(cpu) \(value)"
    }
    #expect(try shell.run(work, seconds: 400).text == expected.joined(separator: "\n"))

    let sum = try Process.output(["sha256sum", guest.disk]).text.prefix(64)
    for cpu in cpus - layout.vcpus.count + 1..<cpus {
      let pinned = "taskset \(mask(cpu))"
      // A process there prints where it is (field 39), which the serial port takes from there.
      let place = try shell.run("\(pinned) cut -d ' ' -f 39 /proc/self/stat")
      #expect(place.text == "\(cpu)")
      let read = try shell.run(
        "echo 3 > /proc/sys/vm/drop_caches; \(pinned) sha256sum /dev/vda", seconds: 400)
      if cpu == cpus - layout.vcpus.count + 1 { #expect(read.text.hasPrefix(sum)) }
      let written = try shell.run(
        "\(pinned) dd if=/dev/urandom of=/tmp/block bs=64k count=8 2>/dev/null;"
          + " \(pinned) dd if=/tmp/block of=/dev/vda bs=64k seek=\(cpu * 8) conv=fsync 2>/dev/null;"
          + " taskset 1 sha256sum < /tmp/block", seconds: 400)
      let there = try Process.output(
        ["sh", "-c", "dd if=$0 bs=64k skip=\(cpu * 8) count=8 status=none | sha256sum", guest.disk])
      #expect(written.text.prefix(64) == there.text.prefix(64))
    }
    #expect(!guest.shell.goliath.process.text.contains("Call Trace"), "\(guest.outputs)")
    try guest.quit(at: layout.vcpus.count - 1)
  }
}
