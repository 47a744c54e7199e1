import Cluster
import Host

/// What a peer sends before and after it is known: headers, HELLO, CONFIG. What is taken is the same when it is sent again; nothing else happens.
struct FrameFuzzer: Fuzzer {
  private func header(_ input: [UInt8]) {
    guard let words = FrameHeader.words(input.prefix(32)) else { return }
    let node = NodeID(rawValue: input[6])
    for stream in StreamKind.allCases {
      for isProtected in [false, true] {
        // With a right checksum, too, which no input would find by chance.
        var right = words
        right[2] &= 0xFFFF_FFFF
        if !isProtected { right[2] |= UInt64(CRC32CReference.of(right)) << 32 }
        for candidate in [words, right] {
          guard
            case .frame(let header) = try? FrameHeader.parse(
              candidate, from: node, on: stream, isProtected: isProtected)
          else { continue }
          require(
            header.encoded(isProtected: isProtected) == candidate,
            "a header changes when sent again")
          require(
            Int(header.length) <= FrameHeader.longestBody(stream), "a body that is too long")
          require(header.type.stream == stream, "a frame on the other stream")
        }
      }
    }
  }

  func run(_ input: [UInt8]) {
    header(input)
    if let hello = Hello(input, argument: UInt64(input.count % 3)) {
      let again = Hello(hello.bytes, argument: UInt64(hello.stream.rawValue))
      require(again == hello, "a HELLO changes when sent again")
      var model = JoinModel(
        ClusterConfiguration(
          id: hello.id, node: NodeID(rawValue: 0),
          addresses: (0..<max(hello.nodeCount, 1)).map { .unix(path: "\($0)") }, vcpus: [],
          vcpuCount: min(hello.vcpuCount, 4096), memory: .dsm), items: [], instance: 1)
      if hello.vcpuCount <= 4096 { _ = model.admit(hello, expected: nil) }
    }
    if let offer = ConfigurationOffer(input) {
      require(ConfigurationOffer(offer.bytes) == offer, "a CONFIG changes when sent again")
    }
  }
}

/// CRC-32C bit by bit (RFC 3720, B.4).
private enum CRC32CReference {
  static func of(_ words: SIMD4<UInt64>) -> UInt32 {
    var crc = UInt32.max
    for word in 0..<4 {
      for bit in 0..<64 {
        let low = (crc ^ UInt32(truncatingIfNeeded: words[word] >> UInt64(bit))) & 1
        crc = crc >> 1 ^ (low == 1 ? 0x82F6_3B78 : 0)
      }
    }
    return ~crc
  }
}
