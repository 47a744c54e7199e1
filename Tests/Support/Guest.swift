package import Host
import Synchronization

/// The guest that end-to-end tests boot: Debian's kernel and a busybox initramfs, made once by `scripts/guest`.
package enum Guest {
  /// The folder with `vmlinuz` and `initrd.gz`; nil, with the reason on standard output, when they cannot be made here.
  package static let folder: String? = {
    let folder = Checkout.root + "/.build/guest"
    if Process.isThere(folder + "/vmlinuz"), Process.isThere(folder + "/initrd-devices.gz") {
      return folder
    }
    let made = try? Process.output([Checkout.root + "/scripts/guest", folder])
    if made?.status == 0 { return folder }
    print("SKIPPED: no guest: \(made?.text ?? "scripts/guest does not start")")
    return nil
  }()

  /// Options that boot it: RAM in MiB, vCPUs, words for the kernel command line. Commands for the guest's shell go in
  /// `run`, with + for each space. With `devices` it has drivers of disks, networks and virtio devices for `modprobe`.
  package static func options(
    memory: Int = 256, cpus: Int = 1, append: String = "", run: String? = nil, devices: Bool = false
  ) -> [String] {
    let folder = folder ?? ""
    let command = run.map { " goliath.run=\($0)" } ?? ""
    return [
      "-m", "\(memory)", "-smp", "\(cpus)", "-kernel", folder + "/vmlinuz", "-initrd",
      folder + (devices ? "/initrd-devices.gz" : "/initrd.gz"), "-append",
      "console=ttyS0 panic=-1 \(append)\(command)",
    ]
  }
}

/// The virtual host with hardware-like KVM (`Tests/Support/kvm-host`).
package enum KVMHost {
  /// Why it cannot be used here, or nil.
  package static let problem: String? = {
    for program in ["qemu-system-x86_64", "cpio"] where Process.find(program) == nil {
      return "\(program) is not installed"
    }
    return Guest.folder == nil ? "no kernel or busybox" : nil
  }()

  /// Runs `command` (a shell line) on it with `goliath` at /goliath and the guest at /guest.
  package static func run(
    _ command: String, cpus: Int = 2, seconds: Int = 240
  ) throws(SystemError) -> Process.Result {
    let guest = Guest.folder ?? ""
    return try start(
      [
        "-s", "\(cpus)", "-f", "\(Goliath.path):/goliath", "-f", "\(guest)/vmlinuz:/guest/vmlinuz",
        "-f", "\(guest)/initrd.gz:/guest/initrd.gz", "-f", "/usr/share/seabios", "--", "sh", "-c",
        command,
      ], seconds: seconds)
  }

  /// Runs `kvm-host` with these arguments, at most `seconds`. The emulated host hangs now and then, program under test or not: one that
  /// came to no end is made once more, and the test's output says so.
  package static func start(
    _ arguments: [String], seconds: Int
  ) throws(SystemError) -> Process.Result {
    let line = [Checkout.root + "/Tests/Support/kvm-host", "-t", "\(seconds)"] + arguments
    let result = try Process.output(line, seconds: Double(seconds) + 30)
    guard result.status == 124 || result.status == 125 else { return result }
    print(
      "finding: the virtual host came to no end within \(seconds) s, and is made again:\n\(result.text)"
    )
    return try Process.output(line, seconds: Double(seconds) + 30)
  }
}
