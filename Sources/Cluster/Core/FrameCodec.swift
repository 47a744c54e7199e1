import Host

/// What is wrong with a frame. A frame that is wrong ends its connection (distributed.md, section 2, "Rules").
package enum FrameError: Error, Equatable, Sendable {
  /// It does not begin with 0x474C.
  case magic(UInt16)
  /// A version that we do not speak.
  case version(UInt8)
  /// The checksum says that the header was changed on its way.
  case checksum(found: UInt32, expected: UInt32)
  /// The byte that is to be zero is not.
  case reserved(UInt8)
  /// Flags that do not exist, or do not go together.
  case flags(UInt8)
  /// It claims to come from another node than the connection's.
  case source(UInt8, expected: NodeID)
  /// The body is longer than its stream allows.
  case length(UInt32, limit: Int)
  /// A type that does not exist, and may not be passed over.
  case unknownType(UInt16)
  /// A type that belongs on the other stream.
  case wrongStream(FrameType, StreamKind)
  /// An answer to nothing: a reply without a request's number, or to one that nobody waits for.
  case unexpectedReply(UInt32)
  /// A type that nobody here handles.
  case unsupported(FrameType)
  /// The body is not what the type asks for.
  case body(FrameType, String)
}

extension FrameError: CustomStringConvertible {
  package var description: String {
    func hex(_ value: some BinaryInteger) -> String { "0x" + String(value, radix: 16) }
    return switch self {
    case .magic(let value): "begins with \(hex(value)), not \(hex(FrameHeader.magic))"
    case .version(let value): "has version \(value), not \(FrameHeader.version)"
    case .checksum(let found, let expected):
      "has checksum \(hex(found)), its bytes have \(hex(expected))"
    case .reserved(let value): "has \(hex(value)) where zero must be"
    case .flags(let value): "has flags \(hex(value))"
    case .source(let value, let expected): "claims to be of node \(value) on a link of \(expected)"
    case .length(let value, let limit): "has a body of \(value) bytes, more than \(limit)"
    case .unknownType(let value): "has the unknown type \(hex(value))"
    case .wrongStream(let type, let stream): "is a \(type) on stream \(stream)"
    case .unexpectedReply(let request): "answers request \(request), for which nobody waits"
    case .unsupported(let type): "is a \(type), which nobody handles here"
    case .body(let type, let reason): "is a \(type) whose body is wrong: \(reason)"
    }
  }
}

/// A header whose fields have been checked.
package enum ParsedFrame: Equatable, Sendable {
  case frame(FrameHeader)
  /// A type that does not exist here and may be passed over with its body of so many bytes.
  case skipped(type: UInt16, length: Int)
}

extension FrameFlags {
  /// All that this version knows. 16 (differences) and 32 (compressed) are kept for later ones.
  static let known: FrameFlags = [.reply, .error, .more, .zeroPage, .errorOK]
}

extension FrameHeader {
  /// Longest body on a stream.
  package static func longestBody(_ stream: StreamKind) -> Int {
    stream == .ctl ? longestCtlBody : longestMemBody
  }

  /// The header as it goes on the wire: 32 bytes as four little-endian words.
  ///
  /// - Parameter isProtected: TLS guards it, so it needs no checksum.
  package func encoded(isProtected: Bool = false) -> SIMD4<UInt64> {
    var words = SIMD4<UInt64>(
      UInt64(FrameHeader.magic) | UInt64(FrameHeader.version) << 16 | UInt64(flags.rawValue) << 24
        | UInt64(type.rawValue) << 32 | UInt64(source.rawValue) << 48,
      UInt64(length) | UInt64(request) << 32,
      UInt64(epoch),
      argument)
    if !isProtected { words[2] |= UInt64(CRC32C.of(words)) << 32 }
    return words
  }

  /// Checks a header that came from `node` on `stream`, field by field. Throws `FrameError` for the first that is wrong.
  package static func parse(
    _ words: SIMD4<UInt64>, from node: NodeID, on stream: StreamKind, isProtected: Bool = false
  ) throws(FrameError) -> ParsedFrame {
    let first = words[0]
    let magic = UInt16(truncatingIfNeeded: first)
    guard magic == FrameHeader.magic else { throw .magic(magic) }
    let version = UInt8(truncatingIfNeeded: first >> 16)
    guard version == FrameHeader.version else { throw .version(version) }
    let found = UInt32(truncatingIfNeeded: words[2] >> 32)
    var bare = words
    bare[2] &= 0xFFFF_FFFF
    let expected = isProtected ? 0 : CRC32C.of(bare)
    guard found == expected else { throw .checksum(found: found, expected: expected) }
    let reserved = UInt8(truncatingIfNeeded: first >> 56)
    guard reserved == 0 else { throw .reserved(reserved) }
    let flags = FrameFlags(rawValue: UInt8(truncatingIfNeeded: first >> 24))
    guard flags.isSubset(of: .known), !flags.contains(.error) || flags.contains(.reply) else {
      throw .flags(flags.rawValue)
    }
    let source = UInt8(truncatingIfNeeded: first >> 48)
    guard source == node.rawValue else { throw .source(source, expected: node) }
    let length = UInt32(truncatingIfNeeded: words[1])
    let limit = longestBody(stream)
    guard length <= limit else { throw .length(length, limit: limit) }
    let number = UInt16(truncatingIfNeeded: first >> 32)
    guard let type = FrameType(rawValue: number) else {
      if flags.contains(.errorOK) { return .skipped(type: number, length: Int(length)) }
      throw .unknownType(number)
    }
    guard type.stream == stream else { throw .wrongStream(type, stream) }
    let request = UInt32(truncatingIfNeeded: words[1] >> 32)
    if flags.contains(.reply), request == 0 { throw .unexpectedReply(0) }
    var header = FrameHeader(type, flags: flags, argument: words[3])
    header.source = node
    header.length = length
    header.request = request
    header.epoch = UInt32(truncatingIfNeeded: words[2])
    return .frame(header)
  }

  /// The 32 bytes of `words`.
  package static func bytes(_ words: SIMD4<UInt64>) -> [UInt8] {
    (0..<size).map { UInt8(truncatingIfNeeded: words[$0 / 8] >> UInt64($0 % 8 * 8)) }
  }

  /// The words of 32 bytes; nil for any other number of them.
  package static func words(_ bytes: some Collection<UInt8>) -> SIMD4<UInt64>? {
    guard bytes.count == size else { return nil }
    var words = SIMD4<UInt64>()
    for (index, byte) in bytes.enumerated() {
      words[index / 8] |= UInt64(byte) << UInt64(index % 8 * 8)
    }
    return words
  }
}
