import CLinux

/// Compresses pages one at a time, each for itself, with a library of the host that is loaded at first use. For one thread.
@safe package final class PageCompressor {
  /// The compressed formats of kdump; the raw value is the flag that marks a page in such a file.
  package enum Kind: Int32, Sendable, CaseIterable {
    case zlib = 1
    case lzo = 2
    case snappy = 4

    /// Whether the host has the library.
    package var isAvailable: Bool { goliath_compression_libraries() & rawValue != 0 }
  }

  /// Room that the result of `count` bytes may need beside them.
  package static func room(for count: Int) -> Int { count + count / 6 + 128 }

  private let handle: OpaquePointer

  /// Nil when the library is missing.
  package init?(_ kind: Kind) {
    guard let made = unsafe goliath_compressor_make(kind.rawValue) else { return nil }
    unsafe handle = made
  }

  // SAFETY: made in init, used by this object only.
  deinit { unsafe goliath_compressor_free(handle) }

  /// Compresses `source` into `target`, which has `room(for:)` bytes; the length, nil when it does not fit.
  @unsafe package func compress(
    _ source: UnsafeRawBufferPointer, into target: UnsafeMutableRawBufferPointer
  ) -> Int? {
    // SAFETY: both buffers live through the call, with their sizes.
    let length = unsafe goliath_compress(
      handle, source.baseAddress, UInt64(source.count), target.baseAddress, UInt64(target.count))
    return length < 0 ? nil : Int(length)
  }
}
