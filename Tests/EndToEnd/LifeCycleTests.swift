import Support
import Testing

/// A guest's whole life, driven by clients that were not written for Goliath.
@Suite(.serialized) struct LifeCycleTests {
  @Test func qemuQMPAndTelnetDriveALinuxGuest() throws {
    guard let guest = Guest.folder else { return }
    let probe = try Process.output(["python3", "-c", "import qemu.qmp, telnetlib"])
    guard probe.status == 0 else {
      print("SKIPPED: life cycle: PyPI's qemu.qmp or Python 3.11 is not installed")
      return
    }
    let result = try Process.output(
      [
        "python3", "-W", "ignore", Checkout.root + "/Tests/EndToEnd/lifecycle.py", Goliath.path,
        guest, "tcg",
      ], seconds: 1500)
    #expect(result.status == 0, "\(result.text.suffix(6000))")
    #expect(result.text.split(separator: "\n").count { $0.hasPrefix("ok: ") } == 12)
  }

  @Test func monitorCommandsWorkOnKVM() throws {
    if let problem = KVMHost.problem {
      print("SKIPPED: monitor on KVM: \(problem)")
      return
    }
    // No socket client is there: the monitor sits on a pair of FIFOs.
    let result = try KVMHost.run(
      "mkfifo /tmp/m.in /tmp/m.out; (cat /tmp/m.out & "
        + "for c in 'info status' stop 'info status' cont 'info kvm' 'info registers' system_reset quit; "
        + "do sleep 1; echo \"$c\"; done > /tmp/m.in) & "
        + "/goliath -accel kvm -m 128 -smp 2 -display none -serial null -monitor pipe:/tmp/m;"
        + " echo status=$?", seconds: 120)
    #expect(result.text.contains("VM status: running"), "\(result.text)")
    #expect(result.text.contains("VM status: paused"), "\(result.text)")
    #expect(result.text.contains("kvm support: enabled"), "\(result.text)")
    #expect(result.text.contains("CR3=") && result.text.contains("CPU#0"), "\(result.text)")
    #expect(result.text.contains("status=0"), "\(result.text)")
  }
}

/// SeaBIOS as Debian ships it.
@Suite(.serialized) struct FirmwareTests {
  static let prompt = "No bootable device."

  @Test func seaBIOSReachesItsEndOnTheSoftwareCPU() throws {
    let run = try Goliath(["-accel", "tcg", "-m", "64", "-nographic"])
    #expect(run.process.expect(Self.prompt, seconds: 120), "\(run.process.text)")
    #expect(run.process.text.contains("SeaBIOS (version"))
    let client = try run.connect()
    _ = try client.run("quit")
    #expect(run.process.wait(seconds: 20) == 0)
  }

  @Test func seaBIOSReachesItsEndOnThisMachinesKVM() throws {
    let run = try Goliath(["-accel", "kvm,probe=off", "-m", "64", "-nographic"])
    let isDone = run.process.readUntil(seconds: 120) {
      $0.contains(Self.prompt) || $0.contains("Could not access KVM")
    }
    if run.process.text.contains("Could not access KVM") {
      print("SKIPPED: SeaBIOS on this machine's KVM: \(run.process.text)")
      return
    }
    #expect(isDone, "\(run.process.text)")
  }
}
