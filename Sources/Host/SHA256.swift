import CLinux

/// The hash function SHA-256 (FIPS 180-4), a piece at a time.
package struct SHA256: Sendable {
  private var state: [UInt32] = [
    0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab,
    0x5be0_cd19,
  ]
  /// Bytes of the block that is not complete.
  private var rest: [UInt8] = []
  private var length: UInt64 = 0
  private let isPortable: Bool

  /// - Parameter isPortable: without the processor's instructions for it, as on hosts that lack them.
  package init(isPortable: Bool = false) { self.isPortable = isPortable }

  /// The hash of some bytes.
  package static func hash(_ bytes: [UInt8], isPortable: Bool = false) -> [UInt8] {
    var hash = SHA256(isPortable: isPortable)
    hash.update(bytes)
    return hash.finish()
  }

  /// The hash of a file's content, 64 digits in lower case. Throws what reading throws.
  package static func text(ofFile path: String) throws(SystemError) -> String {
    let file = try FileDescriptor.open(path, 0)
    var hash = SHA256()
    var chunk = [UInt8](repeating: 0, count: 1 << 16)
    while true {
      let count = try file.read(into: &chunk)
      if count == 0 { return text(hash.finish()) }
      hash.update(count == chunk.count ? chunk : [UInt8](chunk[..<count]))
    }
  }

  /// A hash as digits in lower case.
  package static func text(_ hash: [UInt8]) -> String {
    let digits = Array("0123456789abcdef".utf8)
    var text: [UInt8] = []
    for byte in hash {
      text.append(digits[Int(byte >> 4)])
      text.append(digits[Int(byte & 15)])
    }
    return String(decoding: text, as: UTF8.self)
  }

  /// Adds bytes.
  package mutating func update(_ bytes: [UInt8]) {
    length &+= UInt64(bytes.count)
    var start = 0
    if !rest.isEmpty {
      start = min(64 - rest.count, bytes.count)
      rest.append(contentsOf: bytes[..<start])
      guard rest.count == 64 else { return }
      mix(rest, 0, blocks: 1)
      rest.removeAll(keepingCapacity: true)
    }
    let blocks = (bytes.count - start) / 64
    mix(bytes, start, blocks: blocks)
    start += blocks * 64
    rest.append(contentsOf: bytes[start...])
  }

  /// The hash, 32 bytes, of all that was added.
  package mutating func finish() -> [UInt8] {
    let bits = length &* 8
    let zeros = (119 - rest.count) % 64
    var padding: [UInt8] = [0x80] + [UInt8](repeating: 0, count: zeros)
    for shift in stride(from: UInt64(56), through: 0, by: -8) {
      padding.append(UInt8(truncatingIfNeeded: bits >> shift))
    }
    update(padding)
    return state.flatMap { word in
      [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: word >> UInt32($0)) }
    }
  }

  /// Mixes whole blocks of `bytes` in, from `start` on.
  private mutating func mix(_ bytes: [UInt8], _ start: Int, blocks: Int) {
    guard blocks > 0, start >= 0, start + blocks * 64 <= bytes.count, state.count == 8 else {
      return
    }
    // SAFETY: both arrays live through the call; the bytes that are read and the eight words are there, as was checked.
    unsafe bytes.withUnsafeBufferPointer { source in
      guard let base = source.baseAddress else { return }
      unsafe state.withUnsafeMutableBufferPointer { words in
        unsafe goliath_sha256(words.baseAddress, base + start, blocks, isPortable ? 1 : 0)
      }
    }
  }
}
