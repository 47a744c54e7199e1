import JSON
import Options
import QAPI
import Testing

@Suite struct DriveOptionsTests {
  private func drive(_ line: String) throws -> DriveConfiguration {
    try #require(try configuration(line).drives.first)
  }

  private func tree(_ drive: DriveConfiguration) -> JSONValue { .object(drive.options) }

  @Test func shortFormsAreIDEDrivesInTheirPlaces() throws {
    let drives = try configuration("first.img -hdb b -cdrom c -hdd d").drives
    #expect(drives.map(\.id) == ["ide0-hd0", "ide0-hd1", "ide1-cd0", "ide1-hd1"])
    #expect(drives.map(\.filename) == ["first.img", "b", "c", "d"])
    #expect(drives.map(\.interface) == [.ide, .ide, .ide, .ide])
    #expect(drives.map(\.isCDROM) == [false, false, true, false])
    #expect(drives.map(\.isReadOnly) == [false, false, true, false])
    #expect(drives.map(\.index) == [0, 1, 2, 3])
    #expect(drives.map(\.origin.option) == ["first.img", "-hdb", "-cdrom", "-hdd"])
  }

  @Test func thePCHasAnEmptyOpticalDriveUnlessSomebodyWantsNoneOrAnother() throws {
    let drives = try configuration("-hda a").drives
    #expect(drives.map(\.id) == ["ide0-hd0", "ide1-cd0"])
    #expect(drives.map(\.isDefault) == [false, true])
    #expect(drives.last?.isEmpty == true)
    for line in [
      "-nodefaults", "-machine none", "-device ide-cd,id=x", "-device '{\"driver\":\"ide-hd\"}'",
    ] {
      #expect(try configuration(line).drives.isEmpty, "\(line)")
    }
    #expect(try configuration("-hdc a").drives.map(\.id) == ["ide1-hd0"])
  }

  @Test func drivesWithoutAPlaceGetTheNextFreeOne() throws {
    let drives = try configuration(
      "-nodefaults -drive file=a -drive file=b -drive file=c,media=cdrom -drive file=d,if=virtio"
        + " -drive file=e,if=virtio,index=3 -drive if=none"
    ).drives
    #expect(
      drives.map(\.id) == ["ide0-hd0", "ide0-hd1", "ide1-cd0", "virtio0", "virtio3", "none0"])
  }

  @Test func virtioDrivesMakeDevicesAfterThoseOfTheUser() throws {
    let configuration = try configuration(
      "-drive file=a,if=virtio,id=root -device virtio-rng-pci,id=r")
    #expect(configuration.devices.map(\.driver) == ["virtio-rng-pci", "virtio-blk-pci"])
    #expect(
      configuration.devices.last?.properties == [
        DeviceProperty(name: "drive", value: .text("root"))
      ])
  }

  @Test func cacheWordsAreThreeSwitches() throws {
    for (word, writeback, direct, noFlush) in [
      ("writeback", true, "off", "off"), ("writethrough", false, "off", "off"),
      ("none", true, "on", "off"), ("directsync", false, "on", "off"),
      ("unsafe", true, "off", "on"),
    ] {
      let drive = try drive("-drive file=a,cache=\(word)")
      #expect(drive.writesBack == writeback, "\(word)")
      #expect(
        try tree(drive)
          == JSONValue(
            parsing: #"{"cache": {"direct": "\#(direct)", "no-flush": "\#(noFlush)"}}"#), "\(word)"
      )
    }
    // What is said singly counts more.
    let drive = try drive("-drive file=a,cache=none,cache.direct=off,cache.writeback=off")
    #expect(
      try tree(drive) == JSONValue(parsing: #"{"cache": {"direct": "off", "no-flush": "off"}}"#))
    #expect(!drive.writesBack)
  }

  @Test func otherKeysAreOptionsOfTheNode() throws {
    let drive = try drive(
      "-drive file=a,format=qcow2,discard=unmap,node-name=top,file.locking=off,backing.driver=raw")
    #expect(
      try tree(drive)
        == JSONValue(
          parsing: #"{"driver": "qcow2", "discard": "unmap", "node-name": "top", "#
            + #""file": {"locking": "off"}, "backing": {"driver": "raw"}}"#))
  }

  @Test func limitsErrorsAndStatisticsAreTheDrives() throws {
    let drive = try drive(
      "-drive file=a,id=x,bps_rd=100,iops=7,throttling.iops-total-max=9,"
        + "throttling.iops-total-max-length=3,group=g,werror=enospc,rerror=ignore,"
        + "stats-account-failed=off,detect-zeroes=unmap")
    #expect(drive.throttling.bytesRead.average == 100)
    #expect(drive.throttling.operations == .init(average: 7, burst: 9, burstLength: 3))
    #expect(drive.throttling.group == "g")
    #expect(drive.writeErrors == .enospc && drive.readErrors == .ignore)
    #expect(drive.accountsInvalid && !drive.accountsFailed)
    #expect(drive.detectZeroes == .unmap)
    #expect(drive.options.isEmpty)
  }

  @Test func snapshotHoldsForDrivesThatDoNotSayOtherwise() throws {
    let drives = try configuration("-hda a -drive file=b,snapshot=off -snapshot -nodefaults").drives
    #expect(drives.map(\.isSnapshot) == [true, false])
  }

  @Test func nodesAreNestedInBothForms() throws {
    let dotted = try configuration(
      "-blockdev qcow2,node-name=q,file.driver=file,file.filename=a,,b,read-only=on,backing=base")
    let json = try configuration(
      "-blockdev '{\"driver\":\"qcow2\",\"node-name\":\"q\",\"read-only\":true,"
        + "\"file\":{\"driver\":\"file\",\"filename\":\"a,b\"},\"backing\":\"base\"}'")
    #expect(dotted.blockdevs.map(\.options) == json.blockdevs.map(\.options))
    #expect(
      try json.blockdevs.first?.options.encoded
        == JSONValue(
          parsing: #"{"driver": "qcow2", "node-name": "q", "read-only": true, "#
            + #""file": {"driver": "file", "filename": "a,b"}, "backing": "base"}"#))
  }

  @Test func aDriveOfAFileMayBeChangedBySet() throws {
    #expect(
      try configuration("-drive id=d,if=none,file=a -set drive.d.file=b").drives.first?.filename
        == "b")
  }

  @Test func aReadOnlyDriveHasNoCopyOnRead() throws {
    let plan = try CommandLineParser(catalog: HelpCatalog()).parse(
      words("-drive file=a,readonly=on,copy-on-read=on"))
    #expect(
      plan.warnings.contains {
        $0.lines(program: "g").first?.hasSuffix("disabling copy-on-read on read-only drive") == true
      })
  }
}
