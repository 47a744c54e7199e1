import Host
import Testing

@Suite struct Base64Tests {
  /// RFC 4648, section 10.
  @Test(arguments: [
    ("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="),
    ("fooba", "Zm9vYmE="), ("foobar", "Zm9vYmFy"),
  ]) func encodesAndDecodes(plain: String, text: String) {
    #expect(Base64.encode(Array(plain.utf8)) == text)
    #expect(Base64.decode(text) == Array(plain.utf8))
  }

  @Test func otherCharactersAreRefused() {
    #expect(Base64.decode("!!") == nil)
    #expect(Base64.decode("Zg==Zg==") == nil)
    #expect(Base64.decode("AAECA") == [0, 1, 2])
    #expect(Base64.decode("Zg") == Array("f".utf8))
  }
}
