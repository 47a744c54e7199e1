/// Where things lie in the object that the processes of one machine share: a page that says what it is, the blocks of RAM, a byte of flags
/// for each of their pages, and what the software CPUs tell each other (`SharedEngines`).
///
/// All processes compute it from the same configuration, and find the same in the object or refuse it.
package struct SharedLayout: Equatable, Sendable {
  /// Bytes of each block, multiples of the page size.
  package let blocks: [UInt64]
  /// vCPUs of the whole machine.
  package let vcpuCount: Int

  /// Most blocks of an object.
  package static let blockLimit = 64
  /// Most vCPUs of a machine.
  package static let vcpuLimit = 4096
  private static let page = GuestAddress.pageSize
  /// Blocks begin at multiples of this, so that the host may use its large pages.
  private static let alignment: UInt64 = 2 << 20
  /// Blocks beyond this, one or all of them, are refused: no sum here overflows.
  private static let sizeLimit: UInt64 = 1 << 48

  /// Nil when there is nothing to share, or more than can be.
  package init?(blocks: [UInt64], vcpuCount: Int) {
    guard (1...SharedLayout.blockLimit).contains(blocks.count),
      (1...SharedLayout.vcpuLimit).contains(vcpuCount),
      blocks.allSatisfy({
        $0 > 0 && $0 <= SharedLayout.sizeLimit && $0 % SharedLayout.page == 0
      })
    else { return nil }
    self.blocks = blocks
    self.vcpuCount = vcpuCount
  }

  private static func up(_ value: UInt64, _ unit: UInt64) -> UInt64 {
    (value + unit - 1) / unit * unit
  }

  /// Offset of a block's first byte.
  package func block(_ index: Int) -> UInt64 {
    var at = SharedLayout.alignment
    for size in blocks.prefix(index) { at = SharedLayout.up(at + size, SharedLayout.alignment) }
    return at
  }

  /// Offset of the first flag byte of a block; a multiple of the page size.
  package func flags(_ index: Int) -> UInt64 {
    var at = SharedLayout.up(block(blocks.count), SharedLayout.page)
    for size in blocks.prefix(index) {
      at = SharedLayout.up(at + size / SharedLayout.page, SharedLayout.page)
    }
    return at
  }

  /// Offset of `SharedEngines`.
  package var engines: UInt64 { flags(blocks.count) }

  /// Bytes of the whole object.
  package var size: UInt64 { engines + UInt64(SharedEngines.size(vcpuCount: vcpuCount)) }

  /// What the object's first page says, after the mark that it is complete.
  var words: [UInt64] {
    [UInt64(SharedLayout.version), size, UInt64(vcpuCount), UInt64(blocks.count)] + blocks
  }

  /// Changes whenever processes of two builds could not share an object.
  static let version = 1
}
