import JSON
import Support
import Testing

/// Debian's drivers on our virtio devices.
@Suite(.serialized, .timeLimit(.minutes(15)), .enabled(if: Guest.folder != nil))
struct VirtioGuestTests {
  /// In the order in which they need each other.
  private static let modules = [
    "virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci",
    "virtio_balloon", "virtio-rng",
  ]

  /// The guest's initramfs with the drivers behind it; nil, with the reason printed, where they are not installed.
  private func initramfs(in folder: String) throws -> String? {
    let guest = try #require(Guest.folder)
    let result = try Process.output([
      "bash", "-c",
      """
      set -e
      cd "$1"; kernel=$(readlink -f "$2/vmlinuz"); tree=/lib/modules/${kernel##*/vmlinuz-}
      mkdir -p root/lib
      for m in \(Self.modules.joined(separator: " ")); do cp "$(find $tree -name $m.ko | head -n 1)" root/lib/; done
      (cd root && find . | cpio -o -H newc --quiet) | gzip -1 > extra.gz
      cat "$2/initrd.gz" extra.gz > initrd.gz
      """, "bash", folder, guest,
    ])
    if result.status == 0 { return folder + "/initrd.gz" }
    print("SKIPPED: no virtio modules of the guest's kernel: \(result.text)")
    return nil
  }

  @Test func theBalloonFollowsItsTargetAndRandomBytesArrive() throws {
    let folder = Goliath.temporaryFolder()
    defer { _ = try? Process.output(["rm", "-rf", folder]) }
    guard let initrd = try initramfs(in: folder) else { return }
    let guest = try #require(Guest.folder)
    let loading = "for+m+in+\(Self.modules.joined(separator: "+"));do+insmod+/lib/$m.ko;done"
    let random = "head+-c+16+/dev/hwrng|wc+-c|sed+s/^/random-bytes-/"
    let run = try Goliath([
      "-accel", "tcg", "-m", "256", "-smp", "2", "-nodefaults", "-display", "none", "-serial",
      "stdio", "-kernel", guest + "/vmlinuz", "-initrd", initrd, "-append",
      "console=ttyS0 panic=-1 no_timer_check goliath.run=\(loading);\(random);echo+all-lo''aded",
      "-device",
      "virtio-balloon-pci,id=b", "-device", "virtio-rng-pci", "-device", "piix3-usb-uhci",
    ])
    #expect(
      run.process.readUntil(seconds: 90) { $0.contains("all-loaded") }, "\(run.process.text)")
    #expect(run.process.text.contains("random-bytes-16"), "\(run.process.text)")
    let client = try run.connect()
    #expect(try client.run("query-balloon")["return"]?["actual"] == .int(256 << 20))
    _ = try client.run("balloon", "{\"value\":\(128 << 20)}")
    var actual: JSONValue?
    for _ in 0..<60 where actual != .int(128 << 20) {
      actual = try client.event("BALLOON_CHANGE")["data"]?["actual"]
    }
    #expect(actual == .int(128 << 20))
    #expect(try client.run("query-balloon")["return"]?["actual"] == .int(128 << 20))
  }
}
