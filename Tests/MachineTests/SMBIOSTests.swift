import Machine
import Shm
import Testing

@Suite struct SMBIOSTests {
  private func tables(_ configuration: FirmwareConfiguration) -> (anchor: [UInt8], tables: [UInt8])
  {
    let files = FirmwareTables(configuration).files
    return (
      files.first { $0.name == "etc/smbios/smbios-anchor" }?.bytes ?? [],
      files.first { $0.name == "etc/smbios/smbios-tables" }?.bytes ?? []
    )
  }

  /// Type, formatted part, strings of each structure.
  private func structures(_ bytes: [UInt8]) -> [(type: UInt8, body: [UInt8], strings: [String])] {
    var found: [(UInt8, [UInt8], [String])] = []
    var at = 0
    while at + 4 <= bytes.count {
      let body = Array(bytes[at..<min(at + Int(bytes[at + 1]), bytes.count)])
      var end = at + body.count
      var strings: [String] = []
      while end + 1 < bytes.count, bytes[end] != 0 {
        let text = bytes[end...].prefix { $0 != 0 }
        strings.append(String(decoding: text, as: UTF8.self))
        end += text.count + 1
      }
      found.append((bytes[at], body, strings))
      at = strings.isEmpty ? end + 2 : end + 1
    }
    return found
  }

  private func configuration(_ size: UInt64) -> FirmwareConfiguration {
    FirmwareConfiguration(
      memory: MemoryLayout(ramSize: size), processors: [.init(uid: 0, apicID: 0)])
  }

  @Test func anchorDescribesTheTables() {
    let (anchor, tables) = tables(configuration(512 << 20))
    #expect(anchor.count == 31)
    #expect(Array(anchor[..<4]) == Array("_SM_".utf8))
    #expect(anchor.reduce(0, &+) == 0)
    #expect(anchor[16...].reduce(0, &+) == 0)
    #expect(Int(anchor[22]) | Int(anchor[23]) << 8 == tables.count)
    #expect(Int(anchor[28]) == structures(tables).count)
    #expect(anchor[6] == 2 && anchor[7] == 8)
  }

  @Test func structuresAreThoseOfTheBoardAndEndWithTheMarker() {
    let types = structures(tables(configuration(512 << 20)).tables).map(\.type)
    #expect(types == [1, 3, 4, 16, 17, 19, 32, 127])
    let large = structures(tables(configuration(40 << 30)).tables).map(\.type)
    #expect(large == [1, 3, 4, 16, 17, 17, 17, 19, 19, 32, 127])
  }

  @Test func uuidHasLittleEndianFields() throws {
    var wanted = configuration(512 << 20)
    wanted.uuid = Array(0..<16)
    let system = try #require(structures(tables(wanted).tables).first)
    #expect(
      Array(system.body[8..<24]) == [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15])
    #expect(system.strings == ["QEMU", "Standard PC (i440FX + PIIX, 1996)", "pc-i440fx-7.2"])
    #expect(system.body.count == 27)
  }

  @Test func formattedPartsHaveTheLengthsOfVersion28() {
    for structure in structures(tables(configuration(512 << 20)).tables) {
      let lengths: [UInt8: Int] = [1: 27, 3: 22, 4: 42, 16: 23, 17: 40, 19: 31, 32: 11, 127: 4]
      #expect(structure.body.count == lengths[structure.type], "type \(structure.type)")
    }
  }
}
