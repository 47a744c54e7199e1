/// `info mtree -f`: which region answers at which addresses, after priorities.
struct FlatView {
  /// A stretch of addresses that one region answers.
  struct Piece: Equatable {
    var start: UInt64
    /// The last address.
    var end: UInt64
    var region: HMPRegion
  }

  private(set) var pieces: [Piece] = []

  init(_ root: HMPRegion) {
    var leaves: [HMPRegion] = []
    FlatView.collect(root, into: &leaves)
    // Where something begins, and right behind where something ends.
    var starts: Set<UInt64> = []
    for leaf in leaves {
      starts.insert(leaf.start)
      if leaf.end < UInt64.max { starts.insert(leaf.end + 1) }
    }
    let points = starts.sorted()
    for (index, start) in points.enumerated() {
      let end = index + 1 < points.count ? points[index + 1] - 1 : UInt64.max
      var best: HMPRegion?
      for leaf in leaves where leaf.start <= start && end <= leaf.end {
        if best.map({ leaf.priority > $0.priority }) ?? true { best = leaf }
      }
      guard let best else { continue }
      if let last = pieces.last, last.region == best, last.end &+ 1 == start {
        pieces[pieces.count - 1].end = end
      } else {
        pieces.append(Piece(start: start, end: end, region: best))
      }
    }
  }

  private static func collect(_ region: HMPRegion, into leaves: inout [HMPRegion]) {
    if region.children.isEmpty { leaves.append(region) }
    for child in region.children { collect(child, into: &leaves) }
  }

  /// All address spaces, lines with `\n`.
  static func text(_ spaces: [HMPAddressSpace]) -> String {
    var text = ""
    for (number, space) in spaces.enumerated() {
      text += "FlatView #\(number)\n AS \"\(space.name)\", root: \(space.root.name)\n"
      text += " Root memory region: \(space.root.name)\n"
      let pieces = FlatView(space.root).pieces
      if pieces.isEmpty { text += "  No rendered FlatView\n" }
      for piece in pieces {
        let region = piece.region
        text += "  \(TextForm.hex(piece.start, 16))-\(TextForm.hex(piece.end, 16))"
        text += " (prio \(region.priority), \(region.kind)): \(region.name)"
        let offset = piece.start &- region.start
        text += offset == 0 ? "\n" : " @\(TextForm.hex(offset, 16))\n"
      }
      text += "\n"
    }
    return text
  }
}
