import Glibc
import Host
import JSON
import Support
import Testing

/// The life of a guest on several nodes, brought about at the monitor of any of them and by the vCPUs of any of them.
@Suite(.serialized, .enabled(if: Guest.folder != nil)) struct ClusterLifeTests {
  @Test func allNodesStopGoOnAndStartAgainTogether() throws {
    guard let program = ClusterGuest.compile("pressure.c") else { return }
    let folder = Goliath.temporaryFolder()
    defer { _ = try? Process.output(["rm", "-rf", folder]) }
    let guest = try ClusterGuest(
      .unix, vcpus: ["0", "1"], cpus: 2, program: program,
      ["-d", "guest_errors", "-D", folder + "/log-%d"])
    try clocksStandWhileStopped(guest)
    try devicesComeAndGo(guest)

    // A reset from the node that has no devices.
    #expect(try guest.monitors[1].run("system_reset")["return"] != nil)
    for event in try guest.events("RESET") {
      #expect(event["data"]?["guest"] == false)
      #expect(event["data"]?["reason"] == "host-qmp-system-reset")
      #expect(event["data"]?["node"] == 0)
    }
    try guest.shell.waitForBoot(2, seconds: 400)

    // A triple fault of the vCPU on node 1.
    guest.shell.goliath.process.send(
      "echo triple > /sys/kernel/reboot/type; echo 1 > /sys/kernel/reboot/cpu; reboot -f\n")
    for event in try guest.events("RESET") {
      #expect(event["data"]?["guest"] == true)
      #expect(event["data"]?["reason"] == "guest-reset")
    }
    try guest.shell.waitForBoot(3, seconds: 400)
    let log = try Process.output(["sh", "-c", "cat \(folder)/log-*"])
    #expect(log.text.contains("CPU 1: triple fault"), "\(log.text)")

    // Power off, written to the port by the vCPU on node 1.
    guest.shell.goliath.process.send("echo 1 > /sys/kernel/reboot/cpu; poweroff -f\n")
    for (number, event) in try guest.events("SHUTDOWN").enumerated() {
      #expect(event["data"]?["guest"] == true)
      #expect(event["data"]?["reason"] == "guest-shutdown")
      #expect(event["data"]?["node"] == JSONValue(number))
    }
    guest.expectEnd()
  }

  /// The guest's clocks on all vCPUs: none goes while the machine stands, and none is behind another.
  private func clocksStandWhileStopped(_ guest: ClusterGuest) throws {
    let clocks = "taskset 1 cut -d ' ' -f 1 /proc/uptime; taskset 2 cut -d ' ' -f 1 /proc/uptime"
    func uptimes() throws -> [Double] {
      let text = try guest.shell.run(clocks, seconds: 400).text
      return text.split(separator: "\n").compactMap { Double($0) }
    }
    let begin = HostClock.monotonic
    let before = try uptimes()
    let standing = HostClock.monotonic
    #expect(try guest.monitors[1].run("stop")["return"] != nil)
    let stopped = HostClock.monotonic
    for (node, event) in try guest.events("STOP").enumerated() {
      #expect(event["data"]?["node"] == 0)
      let status = try guest.monitors[node].run("query-status")["return"]
      #expect(status?["status"] == "paused", "node \(node)")
    }
    // Real time, which the guest must not see.
    usleep(1_500_000)
    let going = HostClock.monotonic
    #expect(try guest.monitors[0].run("cont")["return"] != nil)
    for event in try guest.events("RESUME") { #expect(event["data"]?["node"] == 0) }
    let after = try uptimes()
    let end = HostClock.monotonic
    try #require(before.count == 2 && after.count == 2)
    #expect(before[1] >= before[0] && after[0] >= before[1] && after[1] >= after[0])
    let seen = after[1] - before[0]
    #expect(seen <= Double((end - begin) - (going - stopped)) / 1e9 + 0.05)
    #expect(seen >= 0 && standing >= begin)
    let status = try guest.monitors[1].run("query-status")["return"]
    #expect(status?["status"] == "running")
    let source = try guest.shell.run(
      "cat /sys/devices/system/clocksource/clocksource0/current_clocksource; dmesg | grep -c -i unstable"
    )
    #expect(source.text.hasSuffix("\n0"), "\(source.text)")
    let clock = try guest.shell.run("/tmp/program clock 300 0 1", seconds: 300).text
    // Both nodes are on this host: time stamps are of one counter.
    #expect(clock == "CLOCK OK tsc 0 ns 0" || clock.contains("CLOCK OK"), "\(clock)")
    let words = clock.split(separator: " ").compactMap { Int($0) }
    try #require(words.count == 2)
    #expect(words[0] <= 3000 && words[1] <= 1000, "\(clock)")
  }

  /// Devices are added and taken out at any node; the others see it.
  private func devicesComeAndGo(_ guest: ClusterGuest) throws {
    let shell = guest.shell
    let count = "ls /sys/bus/pci/devices | wc -l"
    let before = try shell.run(count).text
    // It must not slow anybody down, or stop them.
    try shell.run("(taskset 2 sh -c 'while :; do :; done' & echo $! > /tmp/busy)")
    for (node, other) in [(1, 0), (0, 1)] {
      let added = try guest.monitors[node].run(
        "device_add", #"{"driver":"virtio-rng-pci","id":"r"}"#)
      #expect(added["return"] != nil, "\(added.text)")
      let wait =
        "n=0; until [ $(\(count)) != \(before) ] || [ $n = 300 ]; do n=$((n+1)); sleep 0.1; done"
      try shell.run("\(wait)", seconds: 400)
      #expect(try shell.run(count).text != before)
      let removed = try guest.monitors[other].run("device_del", #"{"id":"r"}"#)
      #expect(removed["return"] != nil, "\(removed.text)")
      for monitor in guest.monitors {
        while try monitor.event("DEVICE_DELETED")["data"]?["device"] != "r" {}
      }
      #expect(try shell.run(count).text == before)
    }
    try shell.run("kill $(cat /tmp/busy)")
  }

  @Test func thePowerButtonAndTheEndReachAllNodes() throws {
    let guest = try ClusterGuest(.tcp, vcpus: ["0", "1", "2"], cpus: 3, order: [2, 1, 0])
    try guest.shell.run("insmod /lib/button.ko; insmod /lib/evdev.ko; ls /dev/input")
    guest.shell.goliath.process.send(
      "for e in /dev/input/event*; do (taskset 4 head -c 24 $e > /tmp/key; poweroff -f) & done\n")
    // What is pressed before somebody has opened the button is nobody's.
    let opened = "ls -l /proc/[0-9]*/fd 2>/dev/null | grep -c input/event"
    try guest.shell.run(
      "until [ $(\(opened)) -ge $(ls /dev/input/event* | wc -l) ]; do sleep 0.1; done")
    #expect(try guest.monitors[2].run("system_powerdown")["return"] != nil)
    for event in try guest.events("POWERDOWN") { #expect(event["data"]?["node"] == 0) }
    for event in try guest.events("SHUTDOWN") {
      #expect(event["data"]?["reason"] == "guest-shutdown")
    }
    guest.expectEnd()
  }
}
