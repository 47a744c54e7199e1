import CLinux

/// Compresses and decompresses the clusters of disk images, each for itself, with libraries of the host that are loaded at first use.
/// For one thread at a time.
@safe package final class ClusterCodec: @unchecked Sendable {
  /// How: the raw deflate of qcow2 (window of 4 KiB), or a zstd frame.
  package enum Kind: Int32, Sendable, CaseIterable {
    case zlib = 1
    case zstd = 2

    /// Whether the host has the library.
    package var isAvailable: Bool { goliath_codec_libraries() & rawValue != 0 }
  }

  // SAFETY: made in init, freed in deinit; whoever uses the object is alone with it, as the class says.
  @unsafe private let handle: OpaquePointer

  /// Nil when the library is missing.
  package init?(_ kind: Kind) {
    guard let made = unsafe goliath_codec_make(kind.rawValue) else { return nil }
    unsafe handle = made
  }

  deinit { unsafe goliath_codec_free(handle) }

  /// Compresses `source` into the first `room` bytes of `target`. The length; nil when it does not fit, or a sample says that it hardly would.
  package func compress(_ source: IOVector, into target: IOBuffer, room: Int) -> Int? {
    let room = min(room, target.count)
    var length: Int64 = -1
    if source.pieceCount == 1 {
      source.forEachPiece(0, source.count) { start, count in
        target.vector.forEachPiece(0, room) { to, room in
          // SAFETY: both stretches are valid during the call.
          length = unsafe goliath_codec_compress(handle, start, UInt64(count), to, UInt64(room))
        }
      }
    } else {
      let gathered = IOBuffer(count: source.count)
      gathered.vector.copy(from: source)
      if gathered.vector.pieceCount == 1 {
        return compress(gathered.vector, into: target, room: room)
      }
    }
    return length < 0 ? nil : Int(length)
  }

  /// Decompresses exactly `count` bytes into `target` from the beginning of `source`'s first `length` bytes, whose end may be
  /// anything; false when they are damaged.
  package func decompress(_ source: IOBuffer, _ length: Int, into target: IOBuffer, _ count: Int)
    -> Bool
  {
    guard count <= target.count, length <= source.count else { return false }
    var done = false
    source.vector.forEachPiece(0, length) { from, length in
      target.vector.forEachPiece(0, count) { to, count in
        // SAFETY: both stretches are valid during the call.
        done = unsafe goliath_codec_decompress(handle, from, UInt64(length), to, UInt64(count)) == 0
      }
    }
    return done
  }
}
