import Glibc
import Host
import JSON
import Support
import Testing

/// The human monitor's texts about a machine after reset, compared with QEMU's for the same firmware.
@Suite(.serialized) struct HumanMonitorPeerTests {
  /// What does not depend on the two programs' different memory maps and device lists.
  private static let lines: [String] = [
    "info status", "info name", "info uuid", "info kvm", "info mem", "info tlb", "info registers",
    "info registers 1", "info registers -a", "info registers 2", "info lapic 1", "info lapic 7",
    "info qom-tree /nope", "p $pc", "p $cs.base", "p/d $edx", "p $esp - 1", "cpu 2",
    "xp/400i 0xffff0000", "x/100i 0xffff1000", "xp/20i 0xf0000", "xp/100xb 0xffff0000",
    "xp/100xh 0xffff0001", "xp/100xw 0xffff0002", "xp/33xg 0xffff0003", "xp/100dg 0xffff0000",
    "xp/100dh 0xffff0000", "xp/33og 0xffff0001", "xp/33oh 0xffff0001", "xp/100cb 0xffff0000",
    "xp/50uw 0xffff0003", "xp/50ow 0xffff0003", "xp/7dw 0xffffffe8", "xp/9cb 0", "x/4xg 0x7fffff0",
    "xp/4xg 0x7fffff0", "xp/4xg 0x8000000", "xp/4xb 0x100000000", "gpa2hva 0x8000000",
    "gva2gpa 0x12345678", "gva2gpa 0xffff0000", "sum 0x7fffff0 10", "sum 0xffff0000 0xfff0",
    "system_wakeup", "stop", "info status", "info history", "nope", "info nope", "help nope",
  ]

  @Test func textsAboutAMachineAfterResetAreQEMUs() throws {
    guard let qemu = Process.find("qemu-system-x86_64") else {
      print("SKIPPED: comparison of the human monitor: qemu-system-x86_64 is not installed")
      return
    }
    let folder = Goliath.temporaryFolder()
    defer { _ = try? Process.output(["rm", "-rf", folder]) }
    // Firmware of arbitrary bytes: dumps and listings have something to show.
    var seed: UInt64 = 0x9E37_79B9_7F4A_7C15
    let firmware = (0..<65536).map { _ -> UInt8 in
      seed ^= seed << 13
      seed ^= seed >> 7
      seed ^= seed << 17
      return UInt8(truncatingIfNeeded: seed)
    }
    let image = try FileDescriptor.open(folder + "/firmware", O_WRONLY | O_CREAT)
    #expect(try image.write(firmware) == firmware.count)
    let machine = [
      "-machine", "pc", "-m", "128", "-smp", "2", "-accel", "tcg", "-S", "-nodefaults", "-display",
      "none", "-name", "guest", "-uuid", "11111111-2222-3333-4444-555555555555", "-bios",
      folder + "/firmware",
    ]
    let ours = try Goliath(machine)
    let socket = folder + "/qemu"
    let theirs = try Process([qemu] + machine + ["-qmp", "unix:\(socket),server=on,wait=off"])
    defer { theirs.kill(signal: SIGKILL) }
    let own = try ours.connect()
    let peer = try QMPClient(path: socket)
    for line in Self.lines {
      let arguments = "{\"command-line\": \"\(line)\"}"
      let got = try own.run("human-monitor-command", arguments)
      let expected = try peer.run("human-monitor-command", arguments)
      #expect(got == expected, "\(line)")
    }
  }
}
