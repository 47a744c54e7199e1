// The nearest valid spelling of a mistyped word.

enum Spelling {
  /// The candidate closest to `word`, when it is close enough to be what was meant: at most one edit
  /// in three letters. An edit inserts, drops or replaces one byte, or swaps two neighbours.
  static func nearest(to word: String, among candidates: some Sequence<String>) -> String? {
    let typed = Array(word.utf8)
    guard typed.count >= 2, typed.count <= 64 else { return nil }
    var best: (name: String, distance: Int)?
    for candidate in candidates {
      let limit = min(best.map { $0.distance - 1 } ?? Int.max, max(1, typed.count / 3))
      let other = Array(candidate.utf8)
      guard limit >= 0, abs(other.count - typed.count) <= limit else { continue }
      let distance = distance(typed, other)
      if distance <= limit { best = (candidate, distance) }
    }
    return best?.name
  }

  /// Optimal string alignment distance between two words.
  static func distance(_ left: [UInt8], _ right: [UInt8]) -> Int {
    var beforeLast: [Int] = []
    var last = Array(0...right.count)
    for row in left.indices {
      var current = [row + 1]
      current.reserveCapacity(right.count + 1)
      for column in right.indices {
        var cost = last[column] + (left[row] == right[column] ? 0 : 1)
        cost = min(cost, last[column + 1] + 1, current[column] + 1)
        if row > 0, column > 0, left[row] == right[column - 1], left[row - 1] == right[column] {
          cost = min(cost, beforeLast[column - 1] + 1)
        }
        current.append(cost)
      }
      beforeLast = last
      last = current
    }
    return last[right.count]
  }
}
