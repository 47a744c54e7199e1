import Glibc
import Host
import Support
import Testing

/// Completion of arguments: the same keys to QEMU's human monitor and to ours, the same bytes on the screen.
@Suite(.serialized, .timeLimit(.minutes(15))) struct HumanMonitorKeysTests {
  /// Lines that TAB is pressed on; each is erased afterwards.
  private static let lines: [String] = [
    "chardev-add n", "chardev-add nope", "chardev-add null,id=", "chardev-remove ",
    "chardev-remove r", "chardev-remove used r", "chardev-send-break ", "chardev-send-break us",
    "ringbuf_read ", "ringbuf_write ", "ringbuf_write ring ", "chardev-remove \"us",
    "help chardev-s",
    "help help chardev-a", "help chardev-remove ", "? chardev-s", "info hist", "help info hist",
    "info history ", "logfile /et", "logfile $FOLDER", "logfile $FOLDERb", "logfile x ",
    "logfile /nope/", "memsave 0 1 /et", "cpu ", "closefd ", "boot_set ", "mouse_button ",
    "info registers ", "inf", "  chardev-r", "chardev-remov used", "nope ", "chardev-remove\t",
    "object_del ", "object_del r", "object_add rng-r", "object_add rng-random,", "sendkey f1",
    "sendkey ctrl-alt-de", "sendkey ctrl-", "sendkey a b", "mouse_set ", "watchdog_action ",
    "watchdog_action p", "info me", "info mo",
    "a b c d e f g h i j k l m n o p q ",
  ]

  /// Before the machine is made most commands are neither available nor shown.
  @Test func linesBeforeTheMachineAreAnsweredAsQEMUDoes() throws {
    guard let qemu = Process.find("qemu-system-x86_64") else {
      print("SKIPPED: comparison of -preconfig: qemu-system-x86_64 is not installed")
      return
    }
    let folder = Goliath.temporaryFolder()
    defer { _ = try? Process.output(["rm", "-rf", folder]) }
    func arguments(_ name: String) -> [String] {
      [
        "-machine", "pc", "-m", "16", "-accel", "tcg", "-S", "-nodefaults", "-display", "none",
        "-preconfig", "-chardev", "null,id=c", "-monitor",
        "unix:\(folder)/\(name),server=on,wait=off",
      ]
    }
    let ours = try Goliath(arguments("ours"))
    let theirs = try Process(
      [qemu] + arguments("theirs") + ["-qmp", "unix:\(folder)/qmp,server=on,wait=off"])
    defer { theirs.kill(signal: SIGKILL) }
    let own = try TextClient(path: folder + "/ours")
    let peer = try TextClient(path: folder + "/theirs")
    #expect(try own.read(until: "(qemu) ") == peer.read(until: "(qemu) "))
    for line in [
      "info status", "stop", "  cont", "p/x 1", "nope", "info nope", "quit x", "system_reset",
      "info name", "info cpus", "info  cpus x", "cpu 0", "help stop", "x 0", "info kvm",
      "chardev-add null,id=a", "info history", "log none", "getfd x", "closefd x", "info roms",
      "info hotpluggable-cpus", "info uuid", "exit_preconfig", "info status", "exit_preconfig",
      "chardev-remove c", "info kvm",
    ] {
      try peer.send(line + "\r")
      try own.send(line + "\r")
      #expect(try own.read(until: "\n(qemu) ") == peer.read(until: "\n(qemu) "), "\(line)")
    }
    withExtendedLifetime(ours) {}
  }

  @Test func tabShowsWhatQEMUShows() throws {
    guard let qemu = Process.find("qemu-system-x86_64") else {
      print("SKIPPED: comparison of completion: qemu-system-x86_64 is not installed")
      return
    }
    let folder = Goliath.temporaryFolder()
    defer { _ = try? Process.output(["rm", "-rf", folder]) }
    _ = try Process.output(["mkdir", folder + "/b", folder + "/files"])
    for name in [
      "one", "two", "b-file", "a name much longer than the others, so that rows hold few",
    ] {
      try Process.createFile([1], at: "\(folder)/files/\(name)")
    }
    func arguments(_ name: String) -> [String] {
      [
        "-machine", "pc", "-m", "16", "-accel", "tcg", "-S", "-nodefaults", "-display", "none",
        "-object", "rng-random,id=rng0", "-object", "memory-backend-ram,id=mem,size=1M",
        "-chardev", "ringbuf,id=ring", "-chardev", "null,id=used", "-serial", "chardev:used",
        "-monitor", "unix:\(folder)/\(name),server=on,wait=off",
      ]
    }
    let ours = try Goliath(arguments("ours"))
    let theirs = try Process(
      [qemu] + arguments("theirs") + ["-qmp", "unix:\(folder)/qmp,server=on,wait=off"])
    defer { theirs.kill(signal: SIGKILL) }
    let own = try TextClient(path: folder + "/ours")
    let peer = try TextClient(path: folder + "/theirs")
    #expect(try own.read(until: "(qemu) ") == peer.read(until: "(qemu) "))
    for line in Self.lines {
      let keys = line.replacing("$FOLDER", with: folder + "/") + "\t"
      try peer.send(keys)
      try own.send(keys)
      let expected = try peer.readQuiet(milliseconds: 80)
      let got = try own.readQuiet(milliseconds: 30)
      #expect(got == expected, "\(line)")
      let erase = String(repeating: "\u{17}", count: 20) + "\u{5}"
      try peer.send(erase)
      try own.send(erase)
      _ = try peer.readQuiet(milliseconds: 40)
      _ = try own.readQuiet(milliseconds: 20)
    }
    withExtendedLifetime(ours) {}
  }
}
