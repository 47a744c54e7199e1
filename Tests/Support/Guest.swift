package import Host
import Glibc
import Synchronization

/// The guest that end-to-end tests boot: Debian's kernel and a busybox initramfs, made once by `scripts/guest`.
package enum Guest {
  /// The folder with `vmlinuz` and `initrd.gz`; nil, with the reason on standard output, when they cannot be made here.
  package static let folder: String? = {
    let folder = Checkout.root + "/.build/guest"
    let script = Checkout.root + "/scripts/guest"
    let isNew = try? Process.output([
      "sh", "-c", "[ $0/vmlinuz -nt /dev/null ] && [ $0/initrd-devices.gz -nt $1 ]", folder, script,
    ])
    if isNew?.status == 0 { return folder }
    let made = try? Process.output([script, folder])
    if made?.status == 0 { return folder }
    print("SKIPPED: no guest: \(made?.text ?? "scripts/guest does not start")")
    return nil
  }()

  /// Options that boot it: RAM in MiB, vCPUs, words for the kernel command line. Commands for the guest's shell go in
  /// `run`, with + for each space. With `devices` it has drivers of disks, networks and virtio devices for `modprobe`.
  /// Where the host gives a vCPU no time for 40 ms, the kernel's test of its timer fails, and with it the boot: it is left out.
  package static func options(
    memory: Int = 256, cpus: Int = 1, append: String = "", run: String? = nil, devices: Bool = false
  ) -> [String] {
    let folder = folder ?? ""
    let command = run.map { " goliath.run=\($0)" } ?? ""
    return [
      "-m", "\(memory)", "-smp", "\(cpus)", "-kernel", folder + "/vmlinuz", "-initrd",
      folder + (devices ? "/initrd-devices.gz" : "/initrd.gz"), "-append",
      "console=ttyS0 panic=-1 no_timer_check \(append)\(command)",
    ]
  }
}

/// A booted guest that waits for commands at its shell, in a network namespace of its own if there is one.
package final class GuestShell: Sendable {
  package let goliath: Goliath
  private let count = Mutex(0)

  /// Boots it with the drivers of virtio's cards. With `setUp`, a shell line, the program runs in namespaces for users, networks and mounts,
  /// where that line runs first. Throws `SystemError`, as when there is no prompt.
  package convenience init(
    _ arguments: [String], cpus: Int = 1, setUp: String? = nil
  ) throws(SystemError) {
    try self.init(
      in: Goliath(
        ["-accel", "tcg", "-nodefaults", "-display", "none", "-serial", "stdio"]
          + Guest.options(cpus: cpus, append: "quiet", run: Self.loop, devices: true) + arguments,
        wrapper: setUp.map { Namespace.wrapper($0) } ?? []))
  }

  /// What `Guest.options` must have as `run` for a guest that waits for commands on its serial port. No interactive shell, which does much
  /// of its own with terminals and jobs; and no lines of the kernel's between those of commands.
  package static let loop =
    "dmesg+-n+1;modprobe+virtio_pci;modprobe+virtio_net;ip+link+set+lo+up;stty+-echo;exec+3<&0;echo+rea''dy;"
    + "while+read+-r+l+<&3;do+eval+\"$l\"+</dev/null;s=$?;done"

  /// Waits until the guest of `goliath`, which runs `loop` on its standard output, has booted. Throws `SystemError`.
  package init(in goliath: Goliath, seconds: Double = 120) throws(SystemError) {
    self.goliath = goliath
    try waitForBoot(1, seconds: seconds)
  }

  /// Waits until the guest has booted so many times. Throws `SystemError`.
  package func waitForBoot(_ times: Int, seconds: Double = 120) throws(SystemError) {
    let isThere = goliath.process.readUntil(seconds: seconds) {
      $0.ranges(of: "ready\r\n").count >= times
    }
    guard isThere else {
      print(goliath.process.text)
      throw SystemError(call: "boot \(times)", code: ETIMEDOUT)
    }
  }

  /// Runs a shell line in the guest: its output and exit status. Throws `SystemError` when it does not end in time.
  @discardableResult
  package func run(_ line: String, seconds: Double = 60) throws(SystemError) -> Process.Result {
    let number = count.withLock { count in
      count += 1
      return count
    }
    goliath.process.send("echo be''gin-\(number)-\n\(line)\necho e''nd-\(number)-$s-\n")
    guard
      goliath.process.readUntil(
        seconds: seconds,
        { text in
          guard let mark = text.firstRange(of: "end-\(number)-") else { return false }
          return text[mark.upperBound...].contains("-")
        })
    else {
      print(goliath.process.text)
      throw SystemError(call: line, code: ETIMEDOUT)
    }
    let text = goliath.process.text
    guard let begin = text.firstRange(of: "begin-\(number)-"),
      let end = text.firstRange(of: "end-\(number)-")
    else { throw SystemError(call: line, code: EPROTO) }
    let status = Int32(text[end.upperBound...].prefix { $0 != "-" }) ?? -1
    let body = text[begin.upperBound..<end.lowerBound].map { $0 == "\r\n" ? "\n" : $0 }
    return Process.Result(status: status, text: String(body).trimmed)
  }

  /// Runs a shell line of the host's in the guest program's namespaces.
  @discardableResult
  package func host(_ line: String, seconds: Double = 60) throws(SystemError) -> Process.Result {
    try Process.output(hostCommand(line), seconds: seconds)
  }

  /// Starts a shell line there.
  package func startOnHost(_ line: String) throws(SystemError) -> Process {
    try Process(hostCommand(line))
  }

  private func hostCommand(_ line: String) -> [String] {
    [
      "nsenter", "-t", "\(goliath.process.id)", "-U", "-n", "-m", "--preserve-credentials", "sh",
      "-c",
      line,
    ]
  }
}

extension String {
  fileprivate var trimmed: String {
    String(drop { $0.isWhitespace }.reversed().drop { $0.isWhitespace }.reversed())
  }
}

/// Namespaces in which a test has a network to itself.
package enum Namespace {
  /// Whether this machine lets us make them, with a tap interface inside; if not, the reason is on standard output.
  package static let isUsable: Bool = {
    let probe = try? Process.output(
      wrapper("ip link set lo up && ip tuntap add dev t0 mode tap && ip link set t0 up") + ["true"])
    if probe?.status == 0 { return true }
    print("SKIPPED: no network namespaces: \(probe?.text ?? "unshare does not start")")
    return false
  }()

  /// What runs a program with a network of its own, after `setUp`.
  package static func wrapper(_ setUp: String) -> [String] {
    ["unshare", "-rnm", "sh", "-c", "{ \(setUp); } || exit 99; exec \"$0\" \"$@\""]
  }
}

/// The virtual host with hardware-like KVM (`Tests/Support/kvm-host`).
///
/// It has one processor unless a test asks for more: guests with several vCPUs run there as fast, and with two of them, which this machine runs at
/// the same time, the emulation of SVM now and then breaks the virtual host's own kernel or leaves a guest standing.
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
    _ command: String, cpus: Int = 1, seconds: Int = 240
  ) throws(SystemError) -> Process.Result {
    let guest = Guest.folder ?? ""
    return try start(
      [
        "-s", "\(cpus)", "-f", "\(Goliath.path):/goliath", "-f", "\(guest)/vmlinuz:/guest/vmlinuz",
        "-f", "\(guest)/initrd.gz:/guest/initrd.gz", "-f", "/usr/share/seabios", "--", "sh", "-c",
        command,
      ], seconds: seconds)
  }

  /// Runs a script of Tests/EndToEnd on it, with `goliath`, `goliath-shell`, the guest with its drivers, and what user networking needs.
  /// `options` are more of `kvm-host`'s.
  package static func run(
    script: String, _ arguments: [String] = [], options: [String] = [], cpus: Int = 1, seconds: Int
  ) throws(SystemError) -> Process.Result {
    let guest = Guest.folder ?? ""
    var bring = [
      "\(Goliath.path):/goliath", "\(Goliath.program("goliath-shell")):/goliath-shell",
      "\(guest)/vmlinuz:/guest/vmlinuz", "\(guest)/initrd-devices.gz:/guest/initrd-devices.gz",
      "/usr/share/seabios", "\(Checkout.root)/Tests/EndToEnd/\(script):/\(script)",
    ]
    // It is loaded by name, so nobody else brings it.
    let libslirp = "/usr/lib/x86_64-linux-gnu/libslirp.so.0"
    if Process.isThere(libslirp) { bring.append("\(libslirp):\(libslirp)") }
    return try start(
      ["-s", "\(cpus)"] + options + bring.flatMap { ["-f", $0] } + ["--", "sh", "/\(script)"]
        + arguments, seconds: seconds)
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
