import Glibc
import Support
import Testing

/// One machine on two nodes with hardware-like KVM: the virtual host.
@Suite(.serialized, .timeLimit(.minutes(60)))
struct KVMClusterTests {
  /// This machine's own KVM, which need not be good for an operating system.
  @Test(arguments: ["shm", "unix", "tcp"])
  func firmwareRunsOnTwoNodes(memory: String) throws {
    guard access("/dev/kvm", R_OK | W_OK) == 0 else {
      return print("SKIPPED: firmware on nodes with KVM: no /dev/kvm")
    }
    let folder = Goliath.temporaryFolder()
    defer { _ = try? Process.output(["rm", "-rf", folder]) }
    let result = try Process.output(
      [
        "bash", "\(Checkout.root)/Tests/EndToEnd/kvm-firmware.sh", memory, Goliath.path,
        Goliath.program("goliath-shell"), folder,
      ], seconds: 400)
    if result.text.contains("cannot use userfaultfd") {
      return print("SKIPPED: firmware on nodes with KVM: \(result.text)")
    }
    try #require(result.status == 0, "\(result.text.suffix(6000))")
    for step in ["both vCPUs run", "stop and cont", "reset", "quit"] {
      #expect(result.text.contains(step))
    }
  }

  /// RAM in one object; and by the page, where the virtual host's clocks must go by what it executes: each tick of the guest's timers costs it several
  /// faults, each of them exits, and ticks that came by this machine's clock would leave it no time for anything else. TCP, which differs only in its
  /// sockets, when GOLIATH_LONG is set; so is a second life after a reset.
  @Test(arguments: ["shm", "unix", "tcp"])
  func aStockKernelRunsOnTwoNodes(memory: String) throws {
    if let problem = KVMHost.problem { return print("SKIPPED: nodes on KVM: \(problem)") }
    let isLong = getenv("GOLIATH_LONG") != nil
    guard isLong || memory != "tcp" else {
      return print("SKIPPED: a kernel on nodes with KVM over \(memory): set GOLIATH_LONG")
    }
    let isShared = memory == "shm"
    let result = try KVMHost.run(
      script: "kvm-cluster.sh", [memory] + (isLong ? ["long"] : []),
      options: isShared ? [] : ["-i"],
      seconds: isLong ? 1800 : isShared ? 600 : 1000)
    try #require(result.status == 0, "\(result.text.suffix(6000))")
    for step in [
      "a stock kernel sees 2 vCPUs", "virtio-blk from the vCPU of node 1",
      "the vCPUs wake each other", "stop and cont", "quit",
    ] { #expect(result.text.contains(step)) }
  }
}
