package import Host
package import QAPI

/// A password or key, decoded and decrypted (QEMU's objects `secret` and `secret_keyring`).
package struct Secret: Equatable, Sendable {
  /// The secret itself.
  package let bytes: [UInt8]

  /// The most bytes of a secret's file.
  package static let sizeLimit = 1 << 24

  /// What looks secrets up by id, for `keyid`. Nil when there is none of that id.
  package typealias Lookup = (String) -> Secret?

  package init(bytes: [UInt8]) { self.bytes = bytes }

  /// A secret of a text or a file. Throws `QAPIError` with QEMU's sentences.
  package init(_ properties: SecretProperties, secrets: Lookup) throws(QAPIError) {
    let raw: [UInt8]
    switch (properties.file, properties.data) {
    case (_?, _?): throw QAPIError("'file' and 'data' are mutually exclusive")
    case (nil, nil): throw QAPIError("Either 'file' or 'data' must be provided")
    case (nil, let data?): raw = Array(data.utf8)
    case (let file?, nil): raw = try Secret.contents(file)
    }
    try self.init(
      raw, properties.format, key: properties.keyid, iv: properties.iv, secrets: secrets)
  }

  /// A secret of the kernel's keyring. Throws `QAPIError` with QEMU's sentences.
  package init(_ properties: SecretKeyringProperties, secrets: Lookup) throws(QAPIError) {
    let raw: [UInt8]
    do throws(SystemError) { raw = try Keyring.read(properties.serial) } catch {
      let digits = String(UInt32(bitPattern: properties.serial), radix: 16)
      let serial = String(repeating: "0", count: 8 - digits.utf8.count) + digits
      throw QAPIError("Unable to read serial key \(serial): \(error.reason)")
    }
    try self.init(
      raw, properties.format, key: properties.keyid, iv: properties.iv, secrets: secrets)
  }

  /// The secret as text, for passwords. Throws `QAPIError` when it is none.
  package func text(id: String) throws(QAPIError) -> String {
    guard let text = String(validating: bytes, as: UTF8.self) else {
      throw QAPIError("Data from secret \(id) is not valid UTF-8")
    }
    return text
  }

  /// The secret of an id. Throws `QAPIError` when there is none.
  package static func named(_ id: String, in secrets: Lookup) throws(QAPIError) -> Secret {
    guard let secret = secrets(id) else { throw QAPIError("No secret with id '\(id)'") }
    return secret
  }

  // MARK: -

  private init(
    _ raw: [UInt8], _ format: QCryptoSecretFormat?, key: String?, iv: String?, secrets: Lookup
  ) throws(QAPIError) {
    guard let key else {
      bytes = format == .base64 ? try Secret.decode(raw) : raw
      return
    }
    let keyBytes = try Secret.named(key, in: secrets).bytes
    guard keyBytes.count == SecretCipher.keySize else {
      throw QAPIError("Key should be \(SecretCipher.keySize) bytes in length")
    }
    guard let iv else { throw QAPIError("IV is required to decrypt secret") }
    let vector = try Secret.decode(Array(iv.utf8))
    guard vector.count == SecretCipher.blockSize else {
      throw QAPIError("IV should be \(SecretCipher.blockSize) bytes in length not \(vector.count)")
    }
    let data = format == .base64 ? try Secret.decode(raw) : raw
    do throws(TLSError) {
      bytes = try SecretCipher.decrypt(data, key: keyBytes, iv: vector)
    } catch { throw QAPIError(error.message) }
  }

  /// Base 64 as QEMU takes it: line feeds anywhere, nothing after the padding counts.
  private static func decode(_ text: [UInt8]) throws(QAPIError) -> [UInt8] {
    let digits = text.filter { $0 != UInt8(ascii: "\n") }
    let body = String(decoding: digits.prefix { $0 != UInt8(ascii: "=") }, as: UTF8.self)
    let rest = digits.drop { $0 != UInt8(ascii: "=") }.filter { $0 != UInt8(ascii: "=") }
    guard let bytes = Base64.decode(body),
      Base64.decode(String(decoding: rest, as: UTF8.self)) != nil
    else { throw QAPIError("Base64 data contains invalid characters") }
    return bytes
  }

  private static func contents(_ file: String) throws(QAPIError) -> [UInt8] {
    do throws(SystemError) {
      return try FileDescriptor.contents(of: file, limit: sizeLimit)
    } catch {
      let what = error.call == "open" ? "Failed to open file" : "Error reading file"
      throw QAPIError("Unable to read \(file): \(what) “\(file)”: \(error.reason)")
    }
  }
}
