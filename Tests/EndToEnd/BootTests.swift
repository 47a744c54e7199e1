import JSON
import Support
import Testing

/// A real Debian kernel on our machine.
@Suite(.serialized) struct BootTests {
  @Test(arguments: [1, 2, 4, 8])
  func debianReachesItsInitOnTheSoftwareCPU(cpus: Int) throws {
    guard Guest.folder != nil else { return }
    let run = try Goliath(
      ["-accel", "tcg", "-cpu", "max", "-nographic", "-no-reboot"]
        + Guest.options(cpus: cpus, run: "nproc;poweroff+-f"))
    #expect(run.process.expect("HELLO-FROM-INIT", seconds: 400), "\(run.process.text.suffix(3000))")
    // To the end of the output: the guest powers off.
    _ = run.process.readUntil(seconds: 120) { _ in false }
    #expect(run.process.wait(seconds: 60) == 0)
    #expect(run.process.text.contains("\r\n\(cpus)\r\n"), "all vCPUs are online")
    #expect(!run.process.text.contains("ACPI Error"))
    #expect(!run.process.text.contains("Call Trace"), "\(run.process.text.suffix(6000))")
  }

  @Test(arguments: [1, 2, 4])
  func debianReachesItsInitOnKVM(cpus: Int) throws {
    if let problem = KVMHost.problem {
      print("SKIPPED: KVM end to end: \(problem)")
      return
    }
    let result = try KVMHost.run(
      "/goliath -accel kvm -cpu host -machine kernel-irqchip=off -m 256 -smp \(cpus) -nographic"
        + " -no-reboot -kernel /guest/vmlinuz -initrd /guest/initrd.gz"
        + " -append 'console=ttyS0 panic=-1 goliath.run=nproc;poweroff+-f'; echo status=$?",
      seconds: 240)
    #expect(result.text.contains("HELLO-FROM-INIT"), "\(result.text.suffix(3000))")
    #expect(result.text.contains("\n\(cpus)\n"), "all vCPUs are online")
    #expect(result.text.contains("status=0"), "the guest's power off ends the program")
    #expect(!result.text.contains("ACPI Error"))
  }
}
