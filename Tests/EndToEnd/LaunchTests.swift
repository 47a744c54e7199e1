import Glibc
import Host
import JSON
import Support
import Testing

/// What the command line asks of the process itself, seen from outside.
@Suite struct LaunchTests {
  /// A paused machine without a guest program, fast to start.
  private let paused = ["-accel", "tcg", "-S", "-display", "none", "-nodefaults", "-m", "32"]

  private func contents(_ path: String) throws -> String {
    String(decoding: try FileDescriptor.contents(of: path), as: UTF8.self)
  }

  private func threads(_ process: Process) throws -> [String] {
    let listing = try Process.output(["ls", "/proc/\(process.id)/task"])
    return listing.text.split(separator: "\n").map { "/proc/\(process.id)/task/\($0)" }
  }

  @Test func sandboxCoversEveryThread() throws {
    let goliath = try Goliath(
      paused + [
        "-smp", "2", "-sandbox", "on,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
      ])
    let client = try goliath.connect()
    let all = try threads(goliath.process)
    #expect(all.count >= 3)
    for thread in all {
      #expect(try contents(thread + "/status").contains("Seccomp:\t2\n"))
    }
    _ = try client.run("cont")
    #expect(try client.run("query-status")["return"]?["running"] == true)
    _ = try client.run("quit")
    #expect(goliath.process.wait(seconds: 20) == 0)
  }

  @Test func withoutASandboxThereIsNoFilter() throws {
    let goliath = try Goliath(paused)
    _ = try goliath.connect()
    #expect(try contents("/proc/\(goliath.process.id)/status").contains("Seccomp:\t0\n"))
  }

  @Test func debugThreadsNamesThreadsAsManagementToolsExpect() throws {
    let goliath = try Goliath(
      paused + ["-smp", "2", "-name", "guest=g,process=renamed,debug-threads=on"])
    let client = try goliath.connect()
    let names = try threads(goliath.process).map { try contents($0 + "/comm") }
    #expect(names.contains("CPU 0/TCG\n") && names.contains("CPU 1/TCG\n"), "\(names)")
    #expect(try contents("/proc/\(goliath.process.id)/comm") == "renamed\n")
    #expect(try client.run("query-name")["return"]?["name"]?.stringValue == "g")
  }

  @Test func aPidFileInUseIsRefused() throws {
    let folder = Goliath.temporaryFolder()
    defer { _ = try? Process.output(["rm", "-rf", folder]) }
    let first = try Goliath(paused + ["-pidfile", folder + "/pid"])
    _ = try first.connect()
    #expect(try contents(folder + "/pid") == "\(first.process.id)\n")
    let second = try Process.output([Goliath.path] + paused + ["-pidfile", folder + "/pid"])
    #expect(second.status == 1)
    #expect(second.text.contains("cannot create PID file: Cannot lock pid file"))
    #expect(try contents(folder + "/pid") == "\(first.process.id)\n")
  }

  @Test func aDaemonRemovesItsRelativePidFile() throws {
    let folder = Goliath.temporaryFolder()
    defer { _ = try? Process.output(["rm", "-rf", folder]) }
    let started = try Process.output(
      [Goliath.path, "-machine", "none", "-display", "none", "-daemonize", "-pidfile", "pid"]
        + ["-qmp", "unix:\(folder)/qmp,server=on,wait=off"], folder: folder)
    #expect(started.status == 0, "\(started.text)")
    let id = try contents(folder + "/pid").dropLast()
    let client = try QMPClient(path: folder + "/qmp")
    _ = try client.run("quit")
    for _ in 0..<1000 where Process.isThere("/proc/\(id)") { usleep(10_000) }
    #expect(!Process.isThere(folder + "/pid"))
  }

  @Test func aDaemonThatFailsSaysSoThroughItsParent() throws {
    for arguments in [["-device", "nope"], ["-pidfile", "/nowhere/pid"]] {
      let result = try Process.output([Goliath.path] + paused + ["-daemonize"] + arguments)
      #expect(result.status == 1)
      #expect(result.text.contains(arguments[1]), "\(result.text)")
    }
  }

  @Test func aThousandIdleMonitorsCostLittle() throws {
    _ = Descriptors.raiseLimit()
    let goliath = try Goliath(["-machine", "none"])
    func residentKiB() throws -> Int {
      let pages = try contents("/proc/\(goliath.process.id)/statm").split(separator: " ")
      return (pages.count > 1 ? Int(pages[1]) ?? 0 : 0) * 4
    }
    let first = try goliath.connect()
    let before = try residentKiB()
    let others = try (0..<1000).map { _ in try goliath.connect() }
    let cost = try residentKiB() - before
    // About 2 KiB each; a buffer for each would be 64.
    #expect(cost < 16 * others.count, "\(cost) KiB for \(others.count) monitors")
    #expect(try first.run("query-status")["return"]?["running"] == true)
  }

  @Test func messagesBeginAsMsgAsks() throws {
    let result = try Process.output(
      [Goliath.path] + paused + ["-msg", "timestamp=on,guest-name=on", "-name", "web"]
        + ["-device", "nope"])
    let words = result.text.split(separator: " ")
    #expect(words.first?.hasSuffix("Z") == true && words.dropFirst().first == "web")
    #expect(
      result.text.hasSuffix(
        "goliath: -device nope: 'nope' is not a valid device model name\n"))
  }

  @Test func loggedItemsGoToTheLogFile() throws {
    let folder = Goliath.temporaryFolder()
    defer { _ = try? Process.output(["rm", "-rf", folder]) }
    let goliath = try Goliath(paused + ["-d", "cpu_reset", "-D", folder + "/log.%d"])
    _ = try goliath.connect()
    let text = try contents("\(folder)/log.\(goliath.process.id)")
    #expect(text.hasPrefix("CPU Reset (CPU 0)\nEAX="))
  }

  @Test func guestMemoryIsAdvisedAsTheMachineOptionsSay() throws {
    func flags(_ options: String) throws -> [Substring] {
      let goliath = try Goliath(paused + ["-machine", options])
      _ = try goliath.connect()
      let maps = try contents("/proc/\(goliath.process.id)/smaps").split(separator: "\n")
      let start = try #require(
        maps.firstIndex { $0.hasPrefix("Size:") && $0.contains(" 32768 kB") })
      let line = try #require(maps[start...].first { $0.hasPrefix("VmFlags:") })
      return line.split(separator: " ")
    }
    let standard = try flags("pc")
    #expect(standard.contains("mg") && !standard.contains("dd"), "\(standard)")
    let changed = try flags("pc,mem-merge=off,dump-guest-core=off")
    #expect(!changed.contains("mg") && changed.contains("dd"), "\(changed)")
  }

  @Test func globalsOfTheBoardActOrAreReported() throws {
    for (global, sentence) in [
      (
        "mc146818rtc.bar=1",
        "can't apply global mc146818rtc.bar=1: Property 'mc146818rtc.bar' not found"
      ),
      ("hpet.timers=4", "property 'timers' of the board's hpet cannot be changed yet"),
      ("PIIX4_PM.disable_s3=foo", "Parameter 'disable_s3' expects uint64"),
    ] {
      let result = try Process.output([Goliath.path] + paused + ["-global", global])
      #expect(result.status == 1)
      #expect(result.text.contains(sentence), "\(result.text)")
    }
    let goliath = try Goliath(
      paused + ["-global", "kvm-pit.lost_tick_policy=delay", "-global", "PIIX4_PM.disable_s3=1"])
    _ = try goliath.connect()
    goliath.process.kill(signal: 15)
    #expect(goliath.process.expect("terminating on signal 15", seconds: 10))
    #expect(
      goliath.process.text.contains(
        "warning: global kvm-pit.lost_tick_policy has invalid class name"))
  }

  @Test func theNextAcceleratorIsTaken() throws {
    let goliath = try Goliath([
      "-accel", "nonsense", "-accel", "tcg", "-S", "-display", "none", "-nodefaults",
    ])
    let client = try goliath.connect()
    #expect(try client.run("query-kvm")["return"]?["enabled"] == false)
    #expect(goliath.process.expect("invalid accelerator nonsense", seconds: 10))
  }

  @Test func theUUIDIsReported() throws {
    let uuid = "01234567-89ab-cdef-0123-456789abcdef"
    let goliath = try Goliath(paused + ["-uuid", uuid.uppercased()])
    let client = try goliath.connect()
    #expect(try client.run("query-uuid")["return"]?["UUID"]?.stringValue == uuid)
  }

  @Test func onlyMigratableRefusesACPUThatIsNot() throws {
    let result = try Process.output(
      [Goliath.path] + paused + ["-only-migratable", "-cpu", "max,+invtsc"])
    #expect(result.status == 1)
    #expect(result.text.contains("State blocked by non-migratable CPU device (invtsc flag)"))
  }

  @Test(arguments: [
    ("isa-serial,index=foo", "Parameter 'index' expects integer"),
    ("pvpanic,events=300", "Parameter 'events' expects uint8_t"),
    ("isa-debug-exit,iobase=0x100000000", "Parameter 'iobase' expects uint32_t"),
    ("isa-serial,wakeup=on", "'wakeup=on' is not supported yet"),
    ("isa-serial,baudbase=9600", "'baudbase' is 115200 and cannot be changed yet"),
    ("isa-serial,bus=pci.0", "Device 'isa-serial' can't go on PCI bus"),
    ("PIIX4_PM", "Parameter 'driver' expects a pluggable device type"),
  ])
  func aPropertyOfADeviceActsOrIsRefused(device: String, sentence: String) throws {
    let result = try Process.output([Goliath.path] + paused + ["-device", device])
    #expect(result.status == 1)
    #expect(result.text == "goliath: -device \(device): \(sentence)\n")
  }

  @Test func anEmptyMachineHasNoBusForADevice() throws {
    let result = try Process.output([
      Goliath.path, "-machine", "none", "-display", "none", "-device", "isa-serial",
    ])
    #expect(result.status == 1)
    #expect(result.text.contains("No 'ISA' bus found for device 'isa-serial'"))
  }
}
