import Host

/// How often each cluster is referenced, and what the active tables' entries for it say: sparse, two bytes for a cluster.
struct Qcow2Counts {
  /// An entry of the active tables has the copied flag; one has it not.
  static let copied: UInt16 = 1 << 15
  static let uncopied: UInt16 = 1 << 14
  static let countMask: UInt16 = uncopied - 1
  private static let pieceBits = 8
  static let pieceSize = 1 << pieceBits
  private static let pieceMask = pieceSize - 1

  /// Clusters that can be counted.
  let capacity: Int
  /// Where the piece of 256 clusters is in `words`; -1: nothing in it is referenced.
  private var directory: [Int32]
  private var words: [UInt16] = []
  /// Counts that do not fit into a word.
  private var large: [Int: UInt64] = [:]

  init(capacity: Int) {
    self.capacity = capacity
    directory = Array(repeating: -1, count: (capacity >> Self.pieceBits) + 1)
  }

  /// Counts `times` more references, with flags. The caller has checked that `cluster` is below the capacity.
  @inline(__always)
  mutating func add(_ times: Int, _ cluster: Int, flags: UInt16 = 0) {
    var piece = directory[cluster >> Self.pieceBits]
    if piece < 0 { piece = addPiece(cluster >> Self.pieceBits) }
    let at = Int(piece) &+ (cluster & Self.pieceMask)
    let word = words[at]
    let sum = Int(word & Self.countMask) &+ times
    if sum >= Int(Self.countMask) {
      addLarge(times, cluster, word, at)
      words[at] |= flags
    } else {
      words[at] = word & ~Self.countMask | UInt16(truncatingIfNeeded: sum) | flags
    }
  }

  /// The same for clusters in a row.
  mutating func add(_ times: Int, clusters: Range<Int>, flags: UInt16) {
    var cluster = clusters.lowerBound
    while cluster < clusters.upperBound {
      var piece = Int(directory[cluster >> Self.pieceBits])
      if piece < 0 { piece = Int(addPiece(cluster >> Self.pieceBits)) }
      let from = piece + (cluster & Self.pieceMask)
      let count = min(clusters.upperBound - cluster, Self.pieceSize - cluster & Self.pieceMask)
      for at in from..<from + count {
        let word = words[at]
        let sum = Int(word & Self.countMask) &+ times
        if sum >= Int(Self.countMask) {
          addLarge(times, cluster + at - from, word, at)
          words[at] |= flags
        } else {
          words[at] = word & ~Self.countMask | UInt16(truncatingIfNeeded: sum) | flags
        }
      }
      cluster += count
    }
  }

  private mutating func addPiece(_ index: Int) -> Int32 {
    let place = Int32(words.count)
    words += repeatElement(0, count: Self.pieceSize)
    directory[index] = place
    return place
  }

  private mutating func addLarge(_ times: Int, _ cluster: Int, _ word: UInt16, _ at: Int) {
    large[cluster, default: UInt64(word & Self.countMask)] += UInt64(times)
    words[at] = word | Self.countMask
  }

  /// The word of a cluster: count (all ones: look into `count`) and flags.
  @inline(__always)
  func word(_ cluster: Int) -> UInt16 {
    guard cluster < capacity else { return 0 }
    let piece = directory[cluster >> Self.pieceBits]
    return piece < 0 ? 0 : words[Int(piece) &+ (cluster & Self.pieceMask)]
  }

  func count(_ cluster: Int) -> UInt64 {
    let low = word(cluster) & Self.countMask
    return low == Self.countMask ? large[cluster] ?? UInt64(low) : UInt64(low)
  }

  /// Whether a whole piece's counts, from cluster `start` (a multiple of `pieceSize`, below the capacity) on, are the refcounts of 16 bits in `block` from
  /// `index` on, and no flag contradicts them; the highest cluster in use, if any. False also when it takes a closer look.
  func hasPiece(_ start: Int, in block: IOBuffer, at index: Int) -> (same: Bool, highest: Int?) {
    let piece = Int(directory[start >> Self.pieceBits])
    guard piece >= 0 else {
      return (block.zeroWords(at: index * 2, limit: Self.pieceSize / 4) == Self.pieceSize / 4, nil)
    }
    guard
      block.hasLanes(index, Self.pieceSize, equalTo: words, from: piece, mask: Self.countMask)
    else { return (false, nil) }
    var wrong: UInt16 = 0
    for at in piece..<piece + Self.pieceSize {
      let word = words[at]
      let count = word & Self.countMask
      wrong |= word & (count == 1 ? Self.uncopied : Self.copied)
      wrong |= count == Self.countMask ? 1 : 0
    }
    if wrong != 0 { return (false, nil) }
    var at = piece + Self.pieceSize - 1
    while at >= piece, words[at] == 0 { at -= 1 }
    return (true, at < piece ? nil : start + at - piece)
  }

  /// The first cluster from `start` on, below `end`, that may be referenced.
  func next(from start: Int, below end: Int) -> Int? {
    var cluster = start
    while cluster < min(end, capacity) {
      let piece = directory[cluster >> Self.pieceBits]
      if piece < 0 {
        cluster = ((cluster >> Self.pieceBits) + 1) << Self.pieceBits
        continue
      }
      if words[Int(piece) + (cluster & Self.pieceMask)] & Self.countMask != 0 { return cluster }
      cluster += 1
    }
    return nil
  }
}
