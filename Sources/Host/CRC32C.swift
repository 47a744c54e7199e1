import CLinux

/// CRC-32C, the checksum of iSCSI (RFC 3720, appendix B.4), over 32 bytes.
package enum CRC32C {
  /// The checksum of four words as they lie in memory, little endian.
  package static func of(_ words: SIMD4<UInt64>) -> UInt32 {
    goliath_crc32c(words[0], words[1], words[2], words[3], 0)
  }

  /// The same without the processor's instruction, for hosts that lack it.
  package static func portable(_ words: SIMD4<UInt64>) -> UInt32 {
    goliath_crc32c(words[0], words[1], words[2], words[3], 1)
  }
}
