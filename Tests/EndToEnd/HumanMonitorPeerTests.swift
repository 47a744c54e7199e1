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
    "chardev-add null", "chardev-add null,id=x", "chardev-add null,id=x", "chardev-add nope,id=y",
    "chardev-add foo=bar", "chardev-add null,id=8q", "chardev-add", "chardev-add null,id=a,foo=bar",
    "chardev-add backend=null,id=b", "chardev-add ringbuf,id=c,size=3",
    "chardev-add ringbuf,id=c,size=xx", "chardev-add file,id=f", "chardev-add file,id=f,path=/no/x",
    "chardev-add null,id=", "chardev-add id=k", "chardev-add socket,id=z,path=/no/x",
    "chardev-add socket,id=z,host=127.0.0.1,port=1", "chardev-add null,id=m,mux=on",
    "chardev-add udp,id=u", "chardev-add stdio,id=x", "chardev-remove nope", "chardev-remove used",
    "chardev-remove x", "chardev-remove x", "chardev-send-break nope", "chardev-send-break used",
    "ringbuf_write ring hello", "ringbuf_read ring 100", "ringbuf_write ring a\\tb",
    "ringbuf_read ring 2", "ringbuf_read ring 200", "ringbuf_read ring 200", "ringbuf_read nope 1",
    "ringbuf_read ring 0", "ringbuf_read ring -1", "ringbuf_write nope x", "getfd x", "getfd 1",
    "closefd x", "boot_set n", "boot_set nn", "boot_set zq", "boot_set", "boot_set acdn",
    "boot_set e", "boot_set A", "mouse_move 1 2", "mouse_move x 2", "mouse_button 99", "mouse_move",
    "gpa2hpa 0x8000000", "gpa2hpa -1", "singlestep on", "info status", "singlestep foo",
    "singlestep off", "info mice", "mouse_set 0", "mouse_set 1", "mouse_set 2",
    "mouse_set 99", "sendkey a", "sendkey ctrl-alt-f1", "sendkey a-", "sendkey", "sendkey nope",
    "sendkey a-zz", "sendkey 0x1e", "sendkey 0xzz", "sendkey 0x", "sendkey a 5", "sendkey -a",
    "sendkey ctrl--", "sendkey <", "sendkey ctrl-<", "sendkey a b", "info numa",
    "info memory-devices", "info memory_size_summary", "info stats vm", "info stats vcpu",
    "info stats nope", "info stats", "info stats vm * kvm", "info stats vm x foo",
    "object_add rng-random,id=r2", "object_add rng-random", "object_add nope,id=q",
    "object_add rng-random,id=r2", "object_add rng-random,id=r3,foo=bar",
    "object_add rng-random,id=r4,filename=/no/x", "object_add id=q",
    "object_add qom-type=rng-random,id=r7", "object_add memory-backend-ram,id=m9",
    "object_add memory-backend-ram,id=m9,size=zz", "object_add memory-backend-ram,id=m9,size=1M",
    "object_add memory-backend-ram,id=ma,size=1M,share=maybe", "object_add rng-random,foo",
    "object_add memory-backend-ram,id=ma,size=1M,policy=foo", "object_add rng-random,id=8q",
    "object_add memory-backend-ram,id=ma,size=1M,prealloc-threads=x", "object_add",
    "object_add rng-random,id=", "object_add rng-random,id=z,1a=b", "object_del nope",
    "object_del r2", "object_del", "object_del m9 x", "qom-list", "qom-list nope", "qom-get",
    "qom-list /objects/r7", "qom-get /objects/r7 filename", "qom-get /objects/r7 nope",
    "qom-get /nope x", "qom-get /objects/r7", "qom-get /machine type", "qom-get r7 filename",
    "qom-get /objects/m9 host-nodes", "qom-get /objects/m9 size", "qom-set /objects/m9 dump off",
    "qom-get /objects/m9 dump", "qom-set /objects/m9 dump maybe", "qom-set -x a b c",
    "qom-set /objects/m9 prealloc-threads x", "qom-set -j /objects/m9 dump \\\"on\\\"",
    "qom-set -j /objects/m9 dump 5", "qom-set -j /objects/m9 dump tru", "qom-set /nope a b",
    "qom-set /objects/m9 type x", "qom-set /objects/m9 dump", "qom-get /objects/r7 type",
    "info qom-tree /objects/r7", "info qom-tree r7", "object_del m9", "info memdev",
    "info iothreads",
    "exit_preconfig", "info cpus x", "balloon 64", "balloon -1", "balloon", "info balloon",
    "watchdog_action nope", "watchdog_action RESET", "watchdog_action pause", "watchdog_action",
    "info mice x", "info pci x",
  ]

  /// Names and arguments in the lines of `help`.
  private static func heads(_ reply: JSONValue) -> Set<String> {
    let lines = (reply["return"]?.stringValue ?? "").split(separator: "\r\n")
    return Set(
      lines.compactMap { line in
        // QEMU's help of drive_add has several lines, of which it is the last that counts here.
        line.hasPrefix("drive_add")
          ? nil : line.firstRange(of: " -- ").map { String(line[..<$0.lowerBound]) }
      })
  }

  /// The parts of `info pci`.
  private static func functions(_ reply: JSONValue) -> Set<String> {
    Set((reply["return"]?.stringValue ?? "").split(separator: "  Bus ").map(String.init))
  }

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
      folder + "/firmware", "-chardev", "ringbuf,id=ring", "-chardev", "null,id=used", "-serial",
      "chardev:used",
    ]
    let ours = try Goliath(machine)
    let socket = folder + "/qemu"
    let theirs = try Process([qemu] + machine + ["-qmp", "unix:\(socket),server=on,wait=off"])
    defer { theirs.kill(signal: SIGKILL) }
    let own = try ours.connect()
    let peer = try QMPClient(path: socket)
    // Every command of ours has QEMU's names and arguments. Clusters are ours alone, and which kinds
    // of network there are is another matter.
    let others = [
      "netdev_add [", "cluster_continue ", "info cluster ", "info dsm ", "info dsm-hot ",
    ]
    for line in ["help", "info"] {
      let arguments = "{\"command-line\": \"\(line)\"}"
      let got = Self.heads(try own.run("human-monitor-command", arguments))
      let expected = Self.heads(try peer.run("human-monitor-command", arguments))
      #expect(got.count > 20)
      #expect(
        got.subtracting(expected).filter { head in !others.contains { head.hasPrefix($0) } } == [])
    }
    // Every PCI function of ours is there as in QEMU, which has more.
    let pci = "{\"command-line\": \"info pci\"}"
    let functions = try Self.functions(own.run("human-monitor-command", pci))
    #expect(functions.count >= 3)
    #expect(
      try functions.subtracting(Self.functions(peer.run("human-monitor-command", pci))) == [])
    for line in Self.lines {
      let arguments = "{\"command-line\": \"\(line)\"}"
      let got = try own.run("human-monitor-command", arguments)
      let expected = try peer.run("human-monitor-command", arguments)
      #expect(got == expected, "\(line)")
    }
  }
}
