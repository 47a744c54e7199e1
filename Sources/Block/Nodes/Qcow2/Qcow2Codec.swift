import Glibc
import Host
import Synchronization

/// What one thread at a time compresses and decompresses clusters with, and the cluster that it last made.
///
/// Whoever has taken it from `Qcow2Node.codecs` is alone with it until it is put back.
final class Qcow2Codec: Sendable {
  private let codec: ClusterCodec
  /// Compressed bytes.
  let packed: IOBuffer
  /// A decompressed cluster.
  let cluster: IOBuffer
  /// Which cluster that is: its L2 entry, and the count of frees when it was read.
  var held: (entry: UInt64, frees: UInt64)? {
    get { contents.withLock { $0 } }
    set { contents.withLock { $0 = newValue } }
  }
  private let contents = Mutex<(entry: UInt64, frees: UInt64)?>(nil)

  init?(_ type: Qcow2Header.CompressionType, clusterSize: Int) {
    guard let codec = ClusterCodec(type == .zlib ? .zlib : .zstd) else { return nil }
    self.codec = codec
    // A compressed cluster is smaller, but whole sectors around it are read.
    packed = IOBuffer(count: clusterSize + 1024)
    cluster = IOBuffer(count: clusterSize)
  }

  /// Compresses a cluster into `packed`; nil when it does not become smaller.
  func compress(_ source: IOVector) -> Int? {
    codec.compress(source, into: packed, room: source.count - 1)
  }

  func decompress(_ length: Int) -> Bool {
    codec.decompress(packed, length, into: cluster, cluster.count)
  }
}

extension Qcow2Node {
  /// Runs `body` with a codec; the one that holds a cluster if there is one. Throws `ENOTSUP` when the library is missing.
  func withCodec<R>(
    holding entry: UInt64? = nil, _ body: (Qcow2Codec) throws(BlockError) -> R
  ) throws(BlockError) -> R {
    let found = codecs.withLock { codecs -> Qcow2Codec? in
      if let index = codecs.lastIndex(where: { $0.held?.entry == entry }) {
        return codecs.remove(at: index)
      }
      return codecs.popLast()
    }
    let type = header.compressionType
    guard let codec = found ?? Qcow2Codec(type, clusterSize: Int(layout.clusterSize)) else {
      throw BlockError(ENOTSUP, "Compression type '\(type.name)' is not available on this host")
    }
    defer {
      codecs.withLock { if $0.count < 16 { $0.append(codec) } }
    }
    return try body(codec)
  }

  /// Reads from a compressed cluster, from `offset` within it.
  func readCompressed(_ entry: UInt64, from offset: Int, into target: IOVector)
    throws(BlockError)
  {
    let frees = state.withLock { $0.frees }
    try withCodec(holding: entry) { (codec) throws(BlockError) in
      if codec.held?.entry != entry || codec.held?.frees != frees {
        codec.held = nil
        let place = Qcow2Entry.compressedRange(entry, clusterBits: layout.clusterBits)
        let length = min(Int(place.length), codec.packed.count)
        try file.read(place.offset, into: codec.packed.vector(0..<length))
        guard codec.decompress(length) else {
          throw BlockError(EIO, "Compressed cluster at \(hex(place.offset)) is damaged")
        }
        codec.held = (entry, frees)
      }
      target.copy(from: codec.cluster.vector(offset..<offset + target.count))
    }
  }

  /// Writes whole clusters (the image's last one may be shorter) compressed; those that do not become smaller as they are.
  func writeCompressed(_ offset: UInt64, from source: IOVector) throws(BlockError) {
    guard layout.inCluster(offset) == 0, !layout.hasDataFile else {
      throw BlockError(
        layout.hasDataFile ? ENOTSUP : EINVAL, "Compressed writes take whole clusters")
    }
    let size = Int(layout.clusterSize)
    var done = 0
    while done < source.count {
      let guest = offset + UInt64(done)
      let part = min(size, source.count - done)
      if part < size, guest + UInt64(part) < length {
        throw BlockError(EINVAL, "Compressed writes take whole clusters")
      }
      try writeCompressedCluster(guest, source.slice(done, part))
      done += part
    }
  }

  private func writeCompressedCluster(_ guest: UInt64, _ source: IOVector) throws(BlockError) {
    let isStored = try withCodec { (codec) throws(BlockError) -> Bool in
      codec.held = nil
      var source = source
      if source.count < Int(layout.clusterSize) {
        // The last cluster is filled up with zeros.
        let rest = codec.cluster
        rest.fill(0, 0..<rest.count)
        rest.vector.copy(from: source)
        source = rest.vector
      }
      guard let length = codec.compress(source) else { return false }
      let place = try model { (state) throws(Qcow2Need) in
        let (entry, offset) = try state.prepareCompressed(guest, UInt64(length))
        return Place(entry: entry, offset: offset)
      }
      do throws(BlockError) {
        try file.write(place.offset, from: codec.packed.vector(0..<length), [])
      } catch {
        wake(state.withLock { $0.abortCompressed(guest, place.entry) })
        throw error
      }
      wake(
        try model { (state) throws(Qcow2Need) in
          try state.finishCompressed(guest, place.entry)
        })
      return true
    }
    if !isStored { try writeMapped(guest, from: source) }
  }

  private struct Place: Sendable {
    var entry: UInt64
    var offset: UInt64
  }
}
