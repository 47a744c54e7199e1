package import Shm

/// The guest-physical addresses that a dump holds: a pure model.
package struct DumpRanges: Equatable, Sendable {
  /// Ascending, apart from each other.
  package let ranges: [Range<UInt64>]

  /// The stretches that memory answers, cut to `filter`. Stretches that touch become one.
  package init(_ slots: [(start: UInt64, end: UInt64)], filter: Range<UInt64>? = nil) {
    var ranges: [Range<UInt64>] = []
    for slot in slots.sorted(by: { $0.start < $1.start }) where slot.end > slot.start {
      var range = slot.start..<slot.end
      if let filter { range = range.clamped(to: filter) }
      if range.isEmpty { continue }
      if let last = ranges.last, last.upperBound >= range.lowerBound {
        ranges[ranges.count - 1] =
          last.lowerBound..<max(last.upperBound, range.upperBound)
      } else {
        ranges.append(range)
      }
    }
    self.ranges = ranges
  }

  package init(_ memory: GuestMemory, filter: Range<UInt64>? = nil) {
    // A slot that ends with the address space would have no end.
    self.init(
      memory.slots.map { ($0.guest.rawValue, max($0.end, $0.guest.rawValue)) }, filter: filter)
  }

  /// Bytes in all.
  package var size: UInt64 { ranges.reduce(0) { $0 &+ UInt64($1.count) } }

  /// The first address behind the last range.
  package var end: UInt64 { ranges.last?.upperBound ?? 0 }

  /// The parts of `wanted` that are in the dump, each with its distance from the dump's first byte.
  package func parts(of wanted: Range<UInt64>) -> [(range: Range<UInt64>, offset: UInt64)] {
    var parts: [(Range<UInt64>, UInt64)] = []
    var before: UInt64 = 0
    for range in ranges {
      let common = range.clamped(to: wanted)
      if !common.isEmpty { parts.append((common, before + (common.lowerBound - range.lowerBound))) }
      before += UInt64(range.count)
    }
    return parts
  }

  /// Numbers of the 4 KiB pages that the dump touches, ascending.
  package func forEachPage(_ body: (UInt64) -> Void) {
    var next: UInt64 = 0
    for range in ranges {
      let last = (range.upperBound - 1) / GuestAddress.pageSize
      var page = max(range.lowerBound / GuestAddress.pageSize, next)
      while page <= last {
        body(page)
        page += 1
      }
      next = last + 1
    }
  }
}
