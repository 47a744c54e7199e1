import Host
import Testing

/// Examples of FIPS 180-4 and of NIST's test vectors.
@Suite struct SHA256Tests {
  @Test(arguments: [
    ("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    ("abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    (
      "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
      "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
    ),
  ])
  func hashesAreThoseOfTheStandard(text: String, hash: String) {
    for isPortable in [false, true] {
      #expect(SHA256.text(SHA256.hash([UInt8](text.utf8), isPortable: isPortable)) == hash)
    }
  }

  @Test(arguments: [false, true]) func aMillionLettersInPiecesOfAnyLength(isPortable: Bool) {
    var hash = SHA256(isPortable: isPortable)
    var left = 1_000_000
    var size = 1
    while left > 0 {
      let count = min(size, left)
      hash.update([UInt8](repeating: UInt8(ascii: "a"), count: count))
      left -= count
      size = size % 301 + 7
    }
    #expect(
      SHA256.text(hash.finish())
        == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0")
  }

  @Test func everyLengthAroundABlockIsPadded() {
    // Of two halves and of the whole the same comes out.
    for length in 0...130 {
      let bytes = (0..<length).map { UInt8(truncatingIfNeeded: $0) }
      var hash = SHA256()
      hash.update([UInt8](bytes[..<(length / 2)]))
      hash.update([UInt8](bytes[(length / 2)...]))
      #expect(hash.finish() == SHA256.hash(bytes))
    }
  }
}
