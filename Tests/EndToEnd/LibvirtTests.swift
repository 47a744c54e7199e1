import Support
import Testing

/// An unmodified libvirt with Goliath as its emulator: probe, define, start, console, life cycle, daemon restart, destroy.
@Suite(.serialized, .timeLimit(.minutes(15)), .enabled(if: Guest.folder != nil))
struct LibvirtTests {
  @Test(arguments: ["qemu"]) func administersAGuest(type: String) throws {
    let python = try #require(Process.find("python3"))
    let script = Checkout.root + "/Tests/EndToEnd/libvirt.py"
    let guest = try #require(Guest.folder)
    let result = try Process.output(
      [python, script, Goliath.path, guest, "--type", type], seconds: 300)
    if result.status == 77 {
      print(result.text)
      return
    }
    #expect(result.status == 0, "\(result.text)")
    for step in ["console reaches the guest's prompt", "daemon restart", "reboot", "events"] {
      #expect(result.text.contains(step), "\(result.text)")
    }
  }

  /// A disk in a qcow2 image and a network card at the start, more of both while the guest runs, snapshots while it writes.
  @Test func administersDisksAndNetworks() throws {
    let python = try #require(Process.find("python3"))
    let script = Checkout.root + "/Tests/EndToEnd/libvirt.py"
    let guest = try #require(Guest.folder)
    let result = try Process.output(
      [python, script, Goliath.path, guest, "--disks", Goliath.program("goliath-img")],
      seconds: 300)
    if result.status == 77 {
      print(result.text)
      return
    }
    #expect(result.status == 0, "\(result.text)")
    #expect(result.text.contains("snapshot of a domain that is off"), "\(result.text)")
  }

  /// A guest whose vCPUs run in two processes, of which the daemon knows one.
  @Test func administersAGuestOnTwoNodes() throws {
    let python = try #require(Process.find("python3"))
    let script = Checkout.root + "/Tests/EndToEnd/libvirt.py"
    let guest = try #require(Guest.folder)
    let result = try Process.output(
      [python, script, Goliath.path, guest, "--cluster"], seconds: 560)
    if result.status == 77 {
      print(result.text)
      return
    }
    #expect(result.status == 0, "\(result.text)")
    #expect(result.text.contains("destroy ends both nodes"), "\(result.text)")
  }
}
