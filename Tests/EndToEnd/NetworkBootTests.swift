import JSON
import Support
import Testing

/// Cards as firmware and the guest's system find them.
@Suite(.serialized, .timeLimit(.minutes(15)))
struct NetworkBootTests {
  /// Reads the words behind it from its own segment and writes them to the serial port.
  private static let program: [UInt8] =
    [
      0x0E, 0x1F, 0xE8, 0x00, 0x00, 0x5E, 0x83, 0xC6, 0x13, 0xBA, 0xF8, 0x03, 0xAC, 0x84, 0xC0,
      0x74, 0x03, 0xEE, 0xEB, 0xF8, 0xFA, 0xF4, 0xEB, 0xFC,
    ] + Array("STARTED-FROM-THE-NETWORK\r\n\0".utf8)

  private static let hasROM: Bool = {
    for folder in ["/usr/lib/ipxe/qemu", "/usr/share/qemu"]
    where Process.isThere(folder + "/efi-virtio.rom") { return true }
    print("SKIPPED: no efi-virtio.rom (package ipxe-qemu)")
    return false
  }()

  /// The card's ROM comes first by its bootindex, gets an address and a program by TFTP, and starts it.
  @Test(.enabled(if: hasROM)) func aMachineStartsFromTheNetwork() throws {
    let folder = Goliath.temporaryFolder()
    defer { _ = try? Process.output(["rm", "-rf", folder]) }
    try Process.createFile(Self.program, at: folder + "/program")
    let run = try Goliath([
      "-accel", "tcg", "-m", "64", "-nodefaults", "-display", "none", "-serial", "stdio",
      "-netdev", "user,id=n,tftp=\(folder),bootfile=/program", "-device",
      "virtio-net-pci,netdev=n,bootindex=0,romfile=efi-virtio.rom",
    ])
    #expect(
      run.process.expect("STARTED-FROM-THE-NETWORK", seconds: 120), "\(run.process.text)")
  }

  /// Kinds of virtio devices by the numbers that a guest sees, and that its drivers run them; names by ACPI.
  @Test(.enabled(if: Guest.folder != nil)) func devicesAreOfTheKindThatTheirTypesSay() throws {
    let guest = try GuestShell([
      "-netdev", "user,id=a", "-device",
      "virtio-net-pci-transitional,netdev=a,addr=4,acpi-index=7,romfile=,rombar=0", "-netdev",
      "user,id=b,net=10.0.3.0/24", "-device",
      "virtio-net-pci-non-transitional,netdev=b,addr=5,id=second", "-device",
      "virtio-rng-pci-non-transitional,addr=6", "-device", "virtio-serial-pci-transitional,addr=7",
      "-device", "virtio-balloon,addr=8", "-blockdev", "null-co,node-name=z,read-zeroes=on",
      "-device", "virtio-blk-pci-non-transitional,drive=z,addr=9",
    ])
    let devices = try guest.run(
      "cd /sys/bus/pci/devices; for d in 4 5 6 7 8 9; do cat 0000:00:0$d.0/device; done | tr '\\n' ' '"
    )
    #expect(devices.text == "0x1000 0x1041 0x1044 0x1003 0x1002 0x1042")
    let index = try guest.run(
      "cat /sys/bus/pci/devices/0000:00:04.0/acpi_index; ls /sys/bus/pci/devices/0000:00:05.0/")
    #expect(index.text.hasPrefix("7\n"), "\(index.text)")
    #expect(!index.text.contains("acpi_index"))
    for (card, net) in [("eth0", "10.0.2"), ("eth1", "10.0.3")] {
      let answer = try guest.run(
        "ip addr add \(net).15/24 dev \(card); ip link set \(card) up; ping -c 1 \(net).2")
      #expect(answer.status == 0, "\(answer.text)")
    }
    let client = try guest.goliath.connect()
    let refused = try client.run(
      "device_add", #"{"driver":"virtio-net-pci-transitional","disable-legacy":"on"}"#)
    #expect(
      refused["error"]?["desc"]
        == "Property 'virtio-net-pci-transitional.disable-legacy' not found")
    let tree = try client.run("human-monitor-command", #"{"command-line":"info qtree"}"#)
    let text = tree["return"]?.stringValue ?? ""
    for part in [
      "dev: virtio-net-pci-non-transitional, id \"second\"",
      "bus: virtio-bus\r\n          type virtio-pci-bus\r\n          dev: virtio-net-device, id \"\"",
      "class Ethernet controller, addr 00:05.0, pci id 1af4:1041 (sub 1af4:1100)",
      "acpi-index = 7 (0x7)",
    ] { #expect(text.contains(part), "\(part) in \(text)") }
    #expect(!text.contains("disable-legacy = \"on\""))
  }
}
