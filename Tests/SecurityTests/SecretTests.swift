import Host
import JSON
import QAPI
import Security
import Support
import Testing

/// Secrets: where they come from, how they are decoded; sentences as QEMU 7.2 says them.
@Suite struct SecretTests {
  private let known = [
    "k": Secret(bytes: Array("0123456789abcdef0123456789abcdef".utf8)),
    "short": Secret(bytes: [1, 2, 3]),
  ]
  private let iv = "YWJjZGVmZ2hpamtsbW5vcA=="

  private func secret(
    _ data: String? = nil, file: String? = nil, format: QCryptoSecretFormat? = nil,
    key: String? = nil, iv: String? = nil
  ) throws(QAPIError) -> Secret {
    try Secret(
      SecretProperties(format: format, keyid: key, iv: iv, data: data, file: file)
    ) { known[$0] }
  }

  private func refusal(_ body: () throws(QAPIError) -> Secret) -> String? {
    do throws(QAPIError) {
      _ = try body()
      return nil
    } catch { return error.description }
  }

  @Test func dataIsTakenAsItIsOrInBase64() throws {
    #expect(try secret("YWJj").bytes == Array("YWJj".utf8))
    #expect(try secret("YWJj", format: .base64).bytes == Array("abc".utf8))
    #expect(try secret("YW\nJj\n", format: .base64).bytes == Array("abc".utf8))
    #expect(try secret("", format: .base64).bytes == [])
    #expect(try secret("/w==", format: .base64).bytes == [255])
    let bad = "Base64 data contains invalid characters"
    #expect(refusal { () throws(QAPIError) in try secret("@@@", format: .base64) } == bad)
    #expect(refusal { () throws(QAPIError) in try secret("YWJj= ", format: .base64) } == bad)
    #expect(
      refusal { () throws(QAPIError) in try secret() } == "Either 'file' or 'data' must be provided"
    )
    #expect(
      refusal { () throws(QAPIError) in try secret("a", file: "b") }
        == "'file' and 'data' are mutually exclusive")
  }

  @Test func filesMayHoldAnyBytes() throws {
    let path = Goliath.temporaryFolder() + "/secret"
    let all = (0...255).map { UInt8($0) }
    try Process.createFile(all, at: path)
    #expect(try secret(file: path).bytes == all)
    #expect(
      refusal { () throws(QAPIError) in try secret(file: "/nonexistent") }
        == "Unable to read /nonexistent: Failed to open file “/nonexistent”: No such file or directory"
    )
    #expect(
      refusal { () throws(QAPIError) in try secret(file: "/tmp") }
        == "Unable to read /tmp: Error reading file “/tmp”: Is a directory")
    #expect(throws: QAPIError("Data from secret x is not valid UTF-8")) {
      try secret(file: path).text(id: "x")
    }
  }

  @Test(.enabled(if: TLSCredentials.isAvailable)) func oneSecretDecryptsAnother() throws {
    let hello = "YQ2rLe6zr8PYh3DCZtmuNg=="
    #expect(
      try secret(hello, format: .base64, key: "k", iv: iv).text(id: "") == "hello")
    func reason(_ data: String, _ format: QCryptoSecretFormat?, _ key: String, _ iv: String?)
      -> String?
    {
      refusal { () throws(QAPIError) in try secret(data, format: format, key: key, iv: iv) }
    }
    #expect(reason(hello, nil, "k", iv) == "Length 24 must be a multiple of block size 16")
    #expect(reason(hello, .base64, "nope", iv) == "No secret with id 'nope'")
    #expect(reason(hello, .base64, "short", iv) == "Key should be 32 bytes in length")
    #expect(reason(hello, .base64, "k", nil) == "IV is required to decrypt secret")
    #expect(reason(hello, .base64, "k", "AAAA") == "IV should be 16 bytes in length not 3")
    #expect(reason(hello, .base64, "k", "@@") == "Base64 data contains invalid characters")
    #expect(
      reason("AAAAAAAAAAAAAAAAAAAAAA==", .base64, "k", iv)
        == "Incorrect number of padding bytes (84) found on decrypted data")
  }

  @Test func aKeyThatIsNotThereIsSaidByItsNumber() {
    #expect(throws: QAPIError.self) {
      try Secret(SecretKeyringProperties(serial: 1)) { _ in nil }
    }
    do {
      _ = try Secret(SecretKeyringProperties(serial: 1)) { _ in nil }
    } catch { #expect(error.description.hasPrefix("Unable to read serial key 00000001: ")) }
  }
}

/// Lists of who may enter.
@Suite struct AuthorizationTests {
  @Test func theFirstRuleThatMatchesDecides() {
    let list = AuthorizationList(
      AuthZListProperties(
        policy: .deny,
        rules: [
          QAuthZListRule(match: "CN=eve", policy: .deny),
          QAuthZListRule(match: "CN=*", policy: .allow, format: .glob),
          QAuthZListRule(match: "*", policy: .allow, format: .exact),
        ]))
    #expect(!list.allows("CN=eve"))
    #expect(list.allows("CN=joe/admin"))
    #expect(!list.allows("O=CN=joe"))
    #expect(list.allows("*"))
    #expect(!list.allows(""))
    #expect(!AuthorizationList(AuthZListProperties()).allows("anyone"))
    #expect(AuthorizationList(AuthZListProperties(policy: .allow)).allows("anyone"))
    #expect(AuthorizationName(AuthZSimpleProperties(identity: "joe")).allows("joe"))
    #expect(!AuthorizationName(AuthZSimpleProperties(identity: "joe")).allows("Joe"))
  }

  @Test func aFileIsReadAgainWhenItChanges() throws {
    let path = Goliath.temporaryFolder() + "/list.json"
    func write(_ text: String) throws {
      try Process.createFile(Array(text.utf8), at: path + ".new")
      #expect(try Process.output(["mv", path + ".new", path]).status == 0)
    }
    #expect(throws: QAPIError.self) {
      try AuthorizationFile(AuthZListFileProperties(filename: path))
    }
    try write(#"{"policy": "deny", "rules": [{"match": "joe", "policy": "allow"}]}"#)
    var list = try AuthorizationFile(AuthZListFileProperties(filename: path))
    var fixed = try AuthorizationFile(AuthZListFileProperties(filename: path, refresh: false))
    #expect(try list.allows("joe"))
    #expect(try !list.allows("eve"))
    try write(#"{"policy": "allow", "rules": [{"match": "joe", "policy": "deny"}]}"#)
    #expect(try !list.allows("joe"))
    #expect(try list.allows("eve"))
    #expect(try fixed.allows("joe"))
    try write(#"{"policy": "allow", "rules": 7}"#)
    #expect(throws: QAPIError.self) { try list.allows("eve") }
    #expect(throws: QAPIError.self) { try list.allows("eve") }
    try write(#"{"policy": "allow"}"#)
    #expect(try list.allows("joe"))
    #expect(try FileDescriptor.remove(path) == ())
    #expect(throws: QAPIError.self) { try list.allows("joe") }
  }
}
