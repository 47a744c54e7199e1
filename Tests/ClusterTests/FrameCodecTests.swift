import Cluster
import Host
import Testing

@Suite struct FrameCodecTests {
  private func node(_ number: UInt8) -> NodeID { NodeID(rawValue: number) }

  private func sample() -> FrameHeader {
    var header = FrameHeader(.portRead, flags: .errorOK, argument: 0x0123_4567_89AB_CDEF)
    header.source = node(3)
    header.length = 0x1234
    header.request = 0xA1B2_C3D4
    header.epoch = 7
    return header
  }

  private func parse(
    _ bytes: [UInt8], from number: UInt8 = 3, on stream: StreamKind = .ctl,
    isProtected: Bool = false
  ) throws(FrameError) -> ParsedFrame {
    guard let words = FrameHeader.words(bytes) else { throw .magic(0) }
    return try FrameHeader.parse(words, from: node(number), on: stream, isProtected: isProtected)
  }

  /// The sample with one field changed and a right checksum.
  private func changed(_ offset: Int, _ value: [UInt8]) throws -> [UInt8] {
    var bytes = FrameHeader.bytes(sample().encoded())
    bytes.replaceSubrange(offset..<offset + value.count, with: value)
    bytes.replaceSubrange(20..<24, with: [0, 0, 0, 0])
    let checksum = CRC32C.of(try #require(FrameHeader.words(bytes)))
    for index in 0..<4 {
      bytes[20 + index] = UInt8(truncatingIfNeeded: checksum >> UInt32(index * 8))
    }
    return bytes
  }

  @Test func everyFieldLiesWhereTheTableSays() {
    let bytes = FrameHeader.bytes(sample().encoded(isProtected: true))
    #expect(
      bytes == [
        0x4C, 0x47, 1, 64, 0x20, 0, 3, 0, 0x34, 0x12, 0, 0, 0xD4, 0xC3, 0xB2, 0xA1, 7, 0, 0, 0, 0,
        0, 0, 0, 0xEF, 0xCD, 0xAB, 0x89, 0x67, 0x45, 0x23, 0x01,
      ])
  }

  @Test func checksumIsThatOfTheRFC() {
    // RFC 3720, B.4: 32 bytes of zeros, of ones, ascending, descending.
    let ascending = (0..<32).map { UInt8($0) }
    let cases: [([UInt8], UInt32)] = [
      (Array(repeating: 0, count: 32), 0x8A91_36AA),
      (Array(repeating: 0xFF, count: 32), 0x62A8_AB43),
      (ascending, 0x46DD_794E), (ascending.reversed(), 0x113F_DB5C),
    ]
    for (bytes, expected) in cases {
      let words = FrameHeader.words(bytes) ?? SIMD4()
      #expect(CRC32C.of(words) == expected)
      #expect(CRC32C.portable(words) == expected)
    }
  }

  @Test func whatIsEncodedComesBack() throws {
    var random = SystemRandomNumberGenerator()
    for type in FrameType.allCases {
      for flags: FrameFlags in [[], .reply, [.reply, .error], .more, .zeroPage, .errorOK] {
        for isProtected in [false, true] {
          var header = FrameHeader(type, flags: flags, argument: random.next())
          header.source = node(UInt8.random(in: 0..<64))
          header.length = UInt32.random(in: 0...UInt32(FrameHeader.longestBody(type.stream)))
          header.request = UInt32.random(in: 1...UInt32.max)
          header.epoch = UInt32.random(in: 0...UInt32.max)
          let words = header.encoded(isProtected: isProtected)
          let parsed = try FrameHeader.parse(
            words, from: header.source, on: type.stream, isProtected: isProtected)
          #expect(parsed == .frame(header))
          #expect(FrameHeader.words(FrameHeader.bytes(words)) == words)
        }
      }
    }
  }

  @Test func everyWrongFieldIsNamed() throws {
    let cases: [(Int, [UInt8], FrameError)] = [
      (0, [0x4D, 0x47], .magic(0x474D)), (2, [2], .version(2)), (3, [2], .flags(2)),
      (3, [16], .flags(16)), (3, [32], .flags(32)), (3, [128], .flags(128)),
      (6, [4], .source(4, expected: node(3))), (6, [0xFF], .source(0xFF, expected: node(3))),
      (7, [1], .reserved(1)), (8, [1, 0, 1, 0], .length(0x1_0001, limit: 0x1_0000)),
      (8, [0xFF, 0xFF, 0xFF, 0xFF], .length(.max, limit: 0x1_0000)),
      (4, [0x80, 0], .wrongStream(.getS, .ctl)),
    ]
    for (offset, value, expected) in cases {
      let bytes = try changed(offset, value)
      #expect(throws: expected) { try parse(bytes) }
    }
  }

  @Test func bodyOfMemIsAsLongAsARunOfPages() throws {
    var header = FrameHeader(.dataM)
    header.length = (1 << 20) + 4096
    #expect(try FrameHeader.parse(header.encoded(), from: node(0), on: .mem) == .frame(header))
    header.length += 1
    #expect(throws: FrameError.length(header.length, limit: (1 << 20) + 4096)) {
      try FrameHeader.parse(header.encoded(), from: node(0), on: .mem)
    }
  }

  @Test func replyNeedsTheNumberOfItsRequest() throws {
    var header = FrameHeader(.portRead, flags: .reply)
    #expect(throws: FrameError.unexpectedReply(0)) {
      try FrameHeader.parse(header.encoded(), from: node(0), on: .ctl)
    }
    header.request = 1
    #expect(try FrameHeader.parse(header.encoded(), from: node(0), on: .ctl) == .frame(header))
  }

  @Test func unknownTypeIsPassedOverOnlyWhereItMay() throws {
    // The sample may be passed over (64).
    #expect(try parse(changed(4, [0x7F, 0])) == .skipped(type: 0x7F, length: 0x1234))
    #expect(try parse(changed(4, [0x20, 1])) == .skipped(type: 0x120, length: 0x1234))
    var header = sample()
    header.flags = []
    var bytes = FrameHeader.bytes(header.encoded(isProtected: true))
    bytes[4] = 0x7F
    #expect(throws: FrameError.unknownType(0x7F)) { try parse(bytes, isProtected: true) }
  }

  @Test func everyChangedBitOfAHeaderIsNoticed() throws {
    let bytes = FrameHeader.bytes(sample().encoded())
    #expect(try parse(bytes) == .frame(sample()))
    for bit in 0..<256 {
      var broken = bytes
      broken[bit / 8] ^= 1 << UInt8(bit % 8)
      #expect(throws: FrameError.self) { try parse(broken) }
    }
  }

  @Test func underTLSTheChecksumMustBeAbsent() throws {
    let bytes = FrameHeader.bytes(sample().encoded())
    #expect(throws: FrameError.self) { try parse(bytes, isProtected: true) }
    let bare = FrameHeader.bytes(sample().encoded(isProtected: true))
    #expect(throws: FrameError.self) { try parse(bare) }
  }

  @Test func randomBytesAreNeverAFrame() {
    var random = SystemRandomNumberGenerator()
    for _ in 0..<20_000 {
      let words = SIMD4<UInt64>(random.next(), random.next(), random.next(), random.next())
      #expect(throws: FrameError.self) {
        try FrameHeader.parse(words, from: node(0), on: .mem)
      }
    }
  }

  @Test(arguments: [0, 1, 31, 33, 64]) func otherSizesAreNoHeader(_ count: Int) {
    #expect(FrameHeader.words(Array(repeating: 0, count: count)) == nil)
  }

  @Test func everyErrorHasASentence() {
    let errors: [FrameError] = [
      .magic(1), .version(9), .checksum(found: 1, expected: 2), .reserved(1), .flags(2),
      .source(1, expected: node(2)), .length(1, limit: 0), .unknownType(3),
      .wrongStream(.getS, .ctl), .unexpectedReply(4), .unsupported(.doorbell),
      .body(.hello, "too short"),
    ]
    #expect(Set(errors.map(\.description)).count == errors.count)
  }
}
