import Block
import Glibc
import Testing

@Suite struct Qcow2HeaderTests {
  private func sample() throws -> [UInt8] {
    var header = Qcow2Header()
    header.size = 1 << 30
    header.l1Size = 2
    header.l1TableOffset = 0x30000
    header.refcountTableOffset = 0x10000
    header.refcountTableClusters = 1
    header.backingFileBytes = Array("base.img".utf8)
    header.extensions.backingFormatBytes = Array("raw".utf8)
    header.extensions.unknown = [.init(type: 0x1234_5678, data: [1, 2, 3])]
    return try header.serialize()
  }

  private func refusal(_ change: (inout [UInt8]) -> Void, _ options: Qcow2Header.ParseOptions = [])
    throws -> String
  {
    var bytes = try sample()
    change(&bytes)
    do {
      _ = try Qcow2Header.parse(bytes, options: options)
      return "accepted"
    } catch { return error.message }
  }

  @Test func whatIsWrittenIsRead() throws {
    let bytes = try sample()
    var header = try Qcow2Header.parse(bytes)
    #expect(header.backingFile == "base.img")
    #expect(header.extensions.backingFormat == "raw")
    #expect(header.extensions.unknown == [.init(type: 0x1234_5678, data: [1, 2, 3])])
    #expect(header.size == 1 << 30)
    #expect(try header.serialize() == bytes)
  }

  @Test func damageIsNamed() throws {
    #expect(try refusal { $0[0] = 0 } == "Image is not in qcow2 format")
    #expect(try refusal { $0[7] = 4 } == "Unsupported qcow2 version 4")
    #expect(try refusal { $0[23] = 8 } == "Unsupported cluster size: 2^8")
    #expect(try refusal { $0[23] = 22 } == "Unsupported cluster size: 2^22")
    #expect(try refusal { $0[103] = 100 } == "qcow2 header too short")
    #expect(try refusal { $0[100] = 1 } == "qcow2 header exceeds cluster size")
    #expect(try refusal { $0[11] = 1 } == "Invalid backing file offset")
    #expect(try refusal { $0[35] = 3 } == "Unsupported encryption method 3")
    #expect(
      try refusal { $0[99] = 7 }
        == "Reference count entry width too large; may not exceed 64 bits")
    #expect(try refusal { $0[59] = 0 } == "Image does not contain a reference count table")
    #expect(try refusal { $0[57] = 1 } == "Reference count table too large")
    #expect(try refusal { $0[55] = 1 } == "Reference count table offset invalid")
    #expect(try refusal { $0[48] = 0xFF } == "Reference count table offset invalid")
    #expect(try refusal { $0[61] = 2 } == "Snapshot table too large")
    #expect(try refusal { $0[37] = 0x80 } == "Active L1 table too large")
    #expect(try refusal { $0[46] = 1 } == "Active L1 table offset invalid")
    #expect(try refusal { $0[39] = 1 } == "L1 table is too small")
    #expect(try refusal { $0[24] = 0xFF } == "Image is too big")
    #expect(try refusal { $0[104] = 9 } == "qcow2: unknown compression type: 9")
    #expect(
      try refusal { $0[104] = 1 }
        == "qcow2: Compression type incompatible feature bit must be set")
    #expect(
      try refusal { $0[79] = 8 }
        == "qcow2: Compression type incompatible feature bit must not be set")
    #expect(try refusal({ $0[79] = 2 }) == "accepted")
    #expect(
      try refusal({ $0[79] = 2 }, .writable)
        == "qcow2: Image is corrupt; cannot be opened read/write")
    #expect(try refusal { $0[116] = 1 } == "Header extension too large")
    #expect(try refusal { $0[18] = 0xFF } == "Backing file name too long")
  }

  @Test func unknownFeaturesAreNamedByTheImagesTable() throws {
    // The extensions: backing format (16 bytes), then the feature names.
    let entry = 112 + 16 + 8
    #expect(
      try refusal {
        $0[76] = 0x80
        $0[entry + 1] = 31
      } == "Unsupported qcow2 feature(s): dirty bit")
    #expect(
      try refusal {
        $0[76] = 0xC0
        $0[entry + 1] = 31
      }
        == "Unsupported qcow2 feature(s): dirty bit, Unknown incompatible feature: 40000000")
  }

  @Test func aHeaderThatDoesNotFitIsRefused() throws {
    var header = Qcow2Header()
    header.clusterBits = 9
    header.backingFileBytes = [UInt8](repeating: 0x61, count: 500)
    #expect(throws: BlockError(ENOSPC, "No space left in the file header")) {
      try header.serialize()
    }
  }

  @Test func anyBytesAreRefusedOrAccepted() throws {
    var random = SystemRandomNumberGenerator()
    let good = try sample()
    for _ in 0..<20_000 {
      var bytes = good
      for _ in 0..<Int.random(in: 1...4, using: &random) {
        bytes[Int.random(in: 4..<bytes.count, using: &random)] = UInt8.random(
          in: 0...255, using: &random)
      }
      if Bool.random(using: &random) { bytes.removeLast(Int.random(in: 0..<bytes.count)) }
      guard var header = try? Qcow2Header.parse(bytes) else { continue }
      #expect(header.l1Size <= 4 << 20)
      _ = try? header.serialize()
    }
  }
}
