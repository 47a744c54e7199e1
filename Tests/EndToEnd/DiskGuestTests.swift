import Glibc
import Host
import Support
import Testing

/// Disks and optical drives as a guest sees them: its kernel's drivers, and the firmware that boots from them.
@Suite(.serialized, .timeLimit(.minutes(15)), .enabled(if: Guest.folder != nil))
struct DiskGuestTests {
  /// Writes a file of bytes that look random.
  private func makeImage(_ path: String, size: Int, seed: UInt64) throws -> [UInt8] {
    var random = SeededGenerator(seed: seed)
    var bytes: [UInt8] = []
    bytes.reserveCapacity(size)
    while bytes.count < size {
      let value = random.next()
      for shift in stride(from: UInt64(0), to: 64, by: 8) {
        bytes.append(UInt8(truncatingIfNeeded: value >> shift))
      }
    }
    try write(bytes, to: path)
    return bytes
  }

  private func write(_ bytes: [UInt8], to path: String) throws {
    let file = try #require(fopen(path, "w"))
    defer { fclose(file) }
    #expect(fwrite(bytes, 1, bytes.count, file) == bytes.count)
  }

  private func checksum(_ path: String) throws -> String {
    String(try Process.output(["md5sum", path]).text.prefix(32))
  }

  @Test(arguments: [1, 2])
  func whatIsWrittenIsReadAgainOnEveryKindOfDrive(cpus: Int) throws {
    let folder = Goliath.temporaryFolder()
    defer { _ = try? Process.output(["rm", "-rf", folder]) }
    for (index, name) in ["v", "h", "c"].enumerated() {
      _ = try makeImage(folder + "/" + name, size: 4 << 20, seed: UInt64(index + 1))
    }
    let sums = try ["v", "h", "c"].map { try checksum(folder + "/" + $0) }
    let script = [
      "modprobe virtio_pci", "modprobe virtio_blk", "modprobe ata_piix", "modprobe sd_mod",
      "modprobe sr_mod", "for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15",
      "do [ -e /dev/sda -a -e /dev/sr0 ] || sleep 1", "done",
      "for d in vda sda sr0", "do md5sum /dev/$d", "done",
      // The one disk's contents on the other, at another place, and what the CD has.
      "dd if=/dev/vda of=/dev/sda bs=64k count=16 seek=32 conv=notrunc",
      "dd if=/dev/sr0 of=/dev/vda bs=4096 count=200 seek=700 oflag=direct", "sync",
      "echo all-''written", "poweroff -f",
    ].joined(separator: ";").split(separator: " ").joined(separator: "+")
    let run = try Goliath(
      [
        "-accel", "tcg", "-nodefaults", "-display", "none", "-serial", "stdio", "-drive",
        "file=\(folder)/v,format=raw,if=virtio", "-drive", "file=\(folder)/h,format=raw",
        "-drive", "file=\(folder)/c,format=raw,media=cdrom,index=2",
      ] + Guest.options(cpus: cpus, run: script, devices: true))
    #expect(
      run.process.readUntil(seconds: 120) { $0.contains("all-written") }, "\(run.process.text)")
    for (name, sum) in zip(["vda", "sda", "sr0"], sums) {
      #expect(run.process.text.contains("\(sum)  /dev/\(name)"), "\(name)")
    }
    #expect(run.process.wait(seconds: 60) == 0)
    // The copies on the host.
    #expect(
      try Process.output([
        "cmp", "-n", "\(16 * 65536)", folder + "/v", folder + "/h", "0", "\(32 * 65536)",
      ]).status == 0)
    #expect(
      try Process.output([
        "cmp", "-n", "\(200 * 4096)", folder + "/c", folder + "/v", "0", "\(700 * 4096)",
      ]).status == 0)
  }

  // MARK: Firmware

  /// Code of a boot sector that reads block `block` by int 13h, extended, and sends the text there to the first serial port.
  private func bootSector(block: UInt8) -> [UInt8] {
    let code: [UInt8] = [
      0xFA, 0x31, 0xC0, 0x8E, 0xD8, 0x8E, 0xC0, 0x8E, 0xD0, 0xBC, 0x00, 0x7C, 0xFB,  // stack
      0xBE, 0x30, 0x7C, 0xB4, 0x42, 0xCD, 0x13, 0x72, 0x11,  // read, or fail
      0xBE, 0x00, 0x80,  // the text
      0xAC, 0x84, 0xC0, 0x74, 0x06, 0xBA, 0xF8, 0x03, 0xEE, 0xEB, 0xF5,  // send
      0xF4, 0xEB, 0xFD,  // done
      0xB0, 0x21, 0xBA, 0xF8, 0x03, 0xEE, 0xEB, 0xF5,  // '!' for failure
    ]
    let packet: [UInt8] = [16, 0, 1, 0, 0x00, 0x80, 0, 0, block, 0, 0, 0, 0, 0, 0, 0]
    var sector = code + [UInt8](repeating: 0x90, count: 0x30 - code.count) + packet
    sector += [UInt8](repeating: 0, count: 510 - sector.count) + [0x55, 0xAA]
    return sector
  }

  private func padded(_ bytes: [UInt8], _ count: Int) -> [UInt8] {
    bytes + [UInt8](repeating: 0, count: count - bytes.count)
  }

  private func disk(_ text: String) -> [UInt8] {
    padded(bootSector(block: 1) + padded(Array(text.utf8), 512), 1 << 20)
  }

  /// A disc that boots without emulation (El Torito 1.0).
  private func disc(_ text: String) -> [UInt8] {
    var sectors = [[UInt8]](repeating: [], count: 64)
    sectors[16] = [1] + Array("CD001".utf8) + [1]
    sectors[17] =
      [0] + Array("CD001".utf8) + [1] + padded(Array("EL TORITO SPECIFICATION".utf8), 64)
      + [19, 0, 0, 0]
    sectors[18] = [255] + Array("CD001".utf8) + [1]
    // Validation entry, whose words add up to zero, and the one image of 4 virtual sectors.
    sectors[19] =
      [1, 0] + [UInt8](repeating: 0, count: 26) + [0xAA, 0x55, 0x55, 0xAA]
      + [0x88, 0, 0, 0, 0, 0, 4, 0, 20, 0, 0, 0]
    sectors[20] = bootSector(block: 21)
    sectors[21] = Array(text.utf8)
    return sectors.flatMap { padded($0, 2048) }
  }

  @Test func firmwareBootsFromEachKindOfDriveInTheOrderOfTheirIndices() throws {
    let folder = Goliath.temporaryFolder()
    defer { _ = try? Process.output(["rm", "-rf", folder]) }
    try write(disk("FROM-THE-IDE-DISK"), to: folder + "/h")
    try write(disk("FROM-THE-VIRTIO-DISK"), to: folder + "/v")
    try write(disc("FROM-THE-DISC"), to: folder + "/c")
    let devices = { (ide: String, virtio: String, disc: String) in
      [
        "-drive", "file=\(folder)/h,format=raw,if=none,id=h", "-device",
        "ide-hd,drive=h,bus=ide.0\(ide)", "-drive", "file=\(folder)/v,format=raw,if=none,id=v",
        "-device", "virtio-blk-pci,drive=v\(virtio)", "-drive",
        "file=\(folder)/c,format=raw,if=none,id=c,media=cdrom", "-device",
        "ide-cd,drive=c,bus=ide.1\(disc)",
      ]
    }
    let cases: [([String], String)] = [
      (devices(",bootindex=1", ",bootindex=2", ""), "FROM-THE-IDE-DISK"),
      (devices(",bootindex=2", ",bootindex=1", ""), "FROM-THE-VIRTIO-DISK"),
      (devices(",bootindex=2", ",bootindex=3", ",bootindex=1"), "FROM-THE-DISC"),
      (devices("", "", "") + ["-boot", "d"], "FROM-THE-DISC"),
      (["-hda", folder + "/h", "-cdrom", folder + "/c"], "FROM-THE-IDE-DISK"),
      (["-cdrom", folder + "/c"], "FROM-THE-DISC"),
      (["-drive", "file=\(folder)/v,format=raw,if=virtio"], "FROM-THE-VIRTIO-DISK"),
    ]
    for (options, expected) in cases {
      let run = try Goliath(
        ["-accel", "tcg", "-nodefaults", "-display", "none", "-serial", "stdio"] + options)
      #expect(
        run.process.readUntil(seconds: 60) { $0.contains("FROM-THE") && $0.contains(expected) },
        "\(expected): \(run.process.text)")
    }
  }
}
