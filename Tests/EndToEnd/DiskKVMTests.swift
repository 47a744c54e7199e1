import Support
import Testing

/// Disks of a guest on hardware-like KVM: the virtual host.
@Suite(.serialized, .timeLimit(.minutes(40)))
struct DiskKVMTests {
  @Test func disksAndANetworkWorkAndADiskComesAndGoes() throws {
    if let problem = KVMHost.problem { return print("SKIPPED: disks on KVM: \(problem)") }
    let result = try KVMHost.run(script: "kvm-disks.sh", seconds: 500)
    try #require(result.status == 0, "\(result.text.suffix(6000))")
    for step in [
      "virtio-blk, ide-hd and ide-cd: what is on them is read",
      "virtio-blk and ide-hd: what is written is there",
      "virtio-net: an address and a file through user networking",
      "a disk was plugged, used and unplugged: 1", "a disk was plugged, used and unplugged: 2",
      "power off",
    ] { #expect(result.text.contains(step)) }
  }

  /// The whole system of DebianTests, in the same kind of image. What its boot loader reads from IDE comes word by word, which an emulated host
  /// does slowly.
  @Test func debianBootsFromAQcow2Image() throws {
    if let problem = KVMHost.problem { return print("SKIPPED: Debian on KVM: \(problem)") }
    for program in ["mmdebstrap", "grub-mkimage"] where Process.find(program) == nil {
      return print("SKIPPED: Debian on KVM: \(program) is not installed")
    }
    let folder = Goliath.temporaryFolder()
    defer { _ = try? Process.output(["rm", "-rf", folder]) }
    let made = try Process.output(
      [
        "bash", "-c",
        """
        set -e
        if [ $EUID != 0 ]; then echo 'SKIPPED: Debian on KVM: only root can give files their owners'; exit 77; fi
        "$1/scripts/debian-image" "$2/raw" "$1/.build/debian"
        "$3" convert -O qcow2 "$2/raw" "$2/qcow2"
        rm "$2/raw"
        # Room for the image to grow, on a disk that does not.
        truncate -s 3G "$2/qcow2"
        """, "bash", Checkout.root, folder, Goliath.program("goliath-img"),
      ], seconds: 600)
    if made.status == 77 { return print(made.text) }
    #expect(made.status == 0, "\(made.text)")
    let result = try KVMHost.run(
      script: "kvm-debian.sh", ["virtio", "ide"], options: ["-m", "1536", "-d", folder + "/qcow2"],
      seconds: 900)
    try #require(result.status == 0, "\(result.text.suffix(6000))")
    for kind in ["virtio", "ide"] {
      for step in [
        "SeaBIOS, GRUB, login on the serial port", "the network, and a file that came over it",
        "power off",
      ] { #expect(result.text.contains("\(kind): \(step)")) }
    }
    let check = try Process.output(
      [Goliath.program("goliath-img"), "check", "-q", folder + "/qcow2"], seconds: 60)
    #expect(check.status == 0, "\(check.text)")
  }
}
