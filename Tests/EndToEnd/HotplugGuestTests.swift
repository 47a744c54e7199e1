import Host
import JSON
import Support
import Testing

/// Devices that come and go while Debian's kernel runs.
@Suite(.serialized, .timeLimit(.minutes(15)), .enabled(if: Guest.folder != nil))
struct HotplugGuestTests {
  /// A guest at its shell, with drivers loaded.
  private struct Session {
    let run: Goliath
    let client: QMPClient
    private let counter = Counter()

    private final class Counter { var value = 0 }

    init(_ options: [String], modules: [String]) throws {
      let loading = modules.map { "modprobe+\($0)" }.joined(separator: ";")
      run = try Goliath(
        ["-accel", "tcg", "-nodefaults", "-display", "none", "-serial", "stdio"]
          + Guest.options(run: loading, devices: true) + options)
      #expect(run.process.expect("ends Goliath.", seconds: 90), "\(run.process.text)")
      client = try run.connect()
    }

    /// Runs a line in the guest's shell; answers what it printed.
    func shell(_ line: String, seconds: Double = 40) -> String {
      counter.value += 1
      let (begin, end) = ("begin-\(counter.value)", "end-\(counter.value)")
      // The terminal's echo of the line must not look like its output.
      run.process.send("echo be''\(begin.dropFirst(2)); \(line); echo e''\(end.dropFirst(1)).\n")
      #expect(run.process.expect("\(end).", seconds: seconds), "\(line): \(run.process.text)")
      let text = run.process.text
      guard let start = text.firstRange(of: begin), let stop = text.firstRange(of: "\(end).") else {
        return ""
      }
      return String(text[start.upperBound..<stop.lowerBound])
    }

    /// Waits in the guest until `condition` holds.
    func wait(_ condition: String) {
      let text = shell(
        "n=0; until \(condition) || [ $n = 150 ]; do n=$((n+1)); sleep 0.1; done;"
          + " \(condition) && echo held")
      #expect(text.contains("held"), "\(condition): \(run.process.text)")
    }

    func add(_ members: String) throws {
      let answer = try client.run("device_add", "{\(members)}")
      #expect(answer["return"] != nil, "\(answer.text)")
    }

    /// Takes a device out and waits until it is gone.
    func delete(_ id: String) throws {
      let answer = try client.run("device_del", "{\"id\":\"\(id)\"}")
      #expect(answer["return"] != nil, "\(answer.text)")
      try awaitDeletion(of: id)
    }

    func awaitDeletion(of id: String) throws {
      var device: JSONValue?
      for _ in 0..<20 where device != .string(id) {
        device = try client.event("DEVICE_DELETED", seconds: 40)["data"]?["device"]
      }
      #expect(device == .string(id))
    }
  }

  @Test func functionsComeAndGo() throws {
    let session = try Session(
      ["-device", "virtio-rng-pci,id=cold,addr=5", "-netdev", "user,id=n0"],
      modules: ["virtio_pci", "virtio-rng", "virtio_balloon", "virtio_net"])
    let bus = "/sys/bus/pci/devices/0000:00"
    session.wait("[ -e \(bus):05.0/driver ]")
    // One that was there from the start.
    try session.delete("cold")
    session.wait("[ ! -e \(bus):05.0 ]")
    // Again and again in the same slot.
    for packed in ["on", "off"] {
      try session.add(
        "\"driver\":\"virtio-rng-pci\",\"id\":\"r\",\"addr\":\"5\",\"packed\":\"\(packed)\"")
      session.wait("[ -e \(bus):05.0/driver ]")
      #expect(session.shell("head -c 16 /dev/hwrng | wc -c").contains("16"))
      try session.delete("r")
      session.wait("[ ! -e \(bus):05.0 ]")
    }
    try session.add(#""driver":"virtio-net-pci","netdev":"n0","id":"nic""#)
    session.wait("[ -e /sys/class/net/eth0 ]")
    let ping = session.shell("ifconfig eth0 10.0.2.15; ping -c 1 -W 10 10.0.2.2")
    #expect(ping.contains("1 packets received"), "\(ping)")
    try session.delete("nic")
    session.wait("[ ! -e /sys/class/net/eth0 ]")
    // Several functions of one slot come with function 0 and go together.
    try session.add(#""driver":"virtio-rng-pci","id":"f1","addr":"7.1""#)
    try session.add(
      #""driver":"virtio-balloon-pci","id":"f0","addr":"7.0","multifunction":true"#)
    session.wait("[ -e \(bus):07.0 -a -e \(bus):07.1 ]")
    try session.delete("f0")
    session.wait("[ ! -e \(bus):07.0 -a ! -e \(bus):07.1 ]")
    let left = try session.client.run("qom-list", #"{"path":"/machine/peripheral"}"#)
    #expect(left["return"]?.arrayValue?.count == 1, "\(left.text)")
    #expect(try session.client.run("query-balloon")["error"] != nil)
  }

  @Test func aResetTakesWhatTheGuestKept() throws {
    let session = try Session(
      ["-device", "virtio-rng-pci,id=kept", "-device", "virtio-rng-pci,id=stays"], modules: [])
    // A stopped guest gives nothing up.
    _ = try session.client.run("stop")
    for _ in 0..<3 {
      #expect(try session.client.run("device_del", #"{"id":"kept"}"#)["return"] != nil)
    }
    let before = try session.client.run("qom-list", #"{"path":"/machine/peripheral"}"#)
    #expect(before["return"]?.arrayValue?.count == 3)
    _ = try session.client.run("system_reset")
    try session.awaitDeletion(of: "kept")
    let after = try session.client.run("qom-list", #"{"path":"/machine/peripheral"}"#)
    #expect(after["return"]?.arrayValue?.count == 2)
    // Before the guest runs again nobody need be asked.
    try session.delete("stays")
  }

  @Test func portsCarryBytesBothWaysAndComeAndGo() throws {
    let folder = Goliath.temporaryFolder()
    defer { _ = try? Process.output(["rm", "-rf", folder]) }
    let session = try Session(
      [
        "-chardev", "socket,id=c,path=\(folder)/port,server=on,wait=off", "-chardev",
        "ringbuf,id=ring,size=4096", "-device", "virtio-serial-pci,id=vs", "-device",
        "virtserialport,id=p,chardev=c,name=org.goliath.test",
      ], modules: ["virtio_pci", "virtio_console"])
    session.wait("[ -e /dev/vport0p1 ]")
    #expect(
      session.shell("cat /sys/class/virtio-ports/vport0p1/name").contains("org.goliath.test"))
    let port = try TextClient(path: folder + "/port")
    // The guest answers each line with its length, 200 times, then a block of 300 000 bytes.
    _ = session.shell(
      "(i=0; while [ $i -lt 200 ] && read line; do echo ${#line}; i=$((i+1)); done;"
        + " head -c 300000 /dev/zero | tr '\\0' z; echo) <>/dev/vport0p1 >&0 & true")
    let opened = try session.client.event("VSERPORT_CHANGE")
    #expect(opened["data"]?["id"] == "p" && opened["data"]?["open"] == true)
    for number in 1...200 { try port.send(String(repeating: "x", count: number) + "\n") }
    for number in 1...200 { #expect(try port.read(until: "\n").hasPrefix("\(number)")) }
    let block = try port.read(until: "\n")
    #expect(block.utf8.filter { $0 == UInt8(ascii: "z") }.count == 300_000)
    var isOpen: JSONValue? = true
    for _ in 0..<5 where isOpen != false {
      isOpen = try session.client.event("VSERPORT_CHANGE")["data"]?["open"]
    }
    #expect(isOpen == false)
    // A console comes while the guest runs, and goes.
    try session.add(#""driver":"virtconsole","id":"con","chardev":"ring""#)
    session.wait("grep -q . /sys/class/virtio-ports/vport0p0/dev")
    _ = session.shell("echo to-the-console > /dev/hvc0; sleep 0.3")
    let text = try session.client.run("ringbuf-read", #"{"device":"ring","size":100}"#)
    #expect(text["return"]?.stringValue?.contains("to-the-console") == true, "\(text.text)")
    try session.delete("con")
    try session.delete("vs")
    session.wait("[ ! -e /dev/vport0p1 ]")
  }
}
