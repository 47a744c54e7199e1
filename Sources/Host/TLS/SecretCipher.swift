internal import CGnuTLS

/// The cipher of encrypted secrets: AES-256 in CBC mode with the padding of PKCS 7 (RFC 5652, 6.3).
package enum SecretCipher {
  /// Bytes of a key.
  package static let keySize = 32
  /// Bytes of an initialisation vector, and of a block.
  package static let blockSize = 16

  /// Decrypts and removes the padding. No bytes stay none.
  ///
  /// Throws `TLSError` with QEMU's sentences, also when sizes are wrong.
  package static func decrypt(
    _ bytes: [UInt8], key: [UInt8], iv: [UInt8]
  ) throws(TLSError) -> [UInt8] {
    guard key.count == keySize else { throw TLSError("Key should be \(keySize) bytes in length") }
    guard iv.count == blockSize else {
      throw TLSError("IV should be \(blockSize) bytes in length not \(iv.count)")
    }
    guard bytes.count % blockSize == 0 else {
      throw TLSError("Length \(bytes.count) must be a multiple of block size \(blockSize)")
    }
    var plain = bytes
    // SAFETY: all three arrays live through the call; their sizes were checked above.
    let result = unsafe goliath_aes256_cbc_decrypt(key, iv, &plain, plain.count)
    if result < 0 { throw TLSError("Failed to decrypt", result) }
    guard let padding = plain.last else { return [] }
    guard padding <= blockSize else {
      throw TLSError("Incorrect number of padding bytes (\(padding)) found on decrypted data")
    }
    plain.removeLast(Int(padding))
    return plain
  }
}
