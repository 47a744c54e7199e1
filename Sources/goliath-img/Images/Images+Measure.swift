import Block
import Glibc
import Host

extension Images {
  /// What a new image takes on the host, in bytes.
  struct Measurement {
    var required: UInt64
    var fullyAllocated: UInt64
    /// For persistent bitmaps, where both formats know them.
    var bitmaps: UInt64?
  }

  /// How large an image of `format` becomes when it is made with `options` and gets what `source` holds.
  static func measure(
    _ format: String, _ options: CreateOptions, _ source: (any BlockNode)?
  ) throws(ToolError) -> Measurement {
    let (sum, overflow) = (options.number("size") ?? 0).addingReportingOverflow(511)
    guard !overflow, sum <= UInt64(Int64.max) else { throw ToolError("Image size is too large") }
    let size = sum & ~511
    guard format == "qcow2" else { return Measurement(required: size, fullyAllocated: size) }
    var image = Qcow2CreateOptions(size: size)
    do throws(BlockError) {
      image = try qcow2Options(size, options)
      try image.check()
      return try measure(image, source)
    } catch {
      throw ToolError(error)
    }
  }

  private static func measure(
    _ image: Qcow2CreateOptions, _ source: (any BlockNode)?
  ) throws(BlockError) -> Measurement {
    let cluster = image.clusterSize
    let entry: UInt64 = image.extendedL2 ? 16 : 8
    let data = (image.size + cluster - 1) / cluster
    let tables = (data + cluster / entry - 1) / (cluster / entry)
    guard tables <= UInt64(Qcow2Header.maximumL1Size / 8) else {
      throw BlockError(EFBIG, "The image size is too large (try using a larger cluster size)")
    }
    // Header, level-2 tables, level-1 table.
    var clusters = 1 + tables + (tables * 8 + cluster - 1) / cluster + data
    let own = clusters
    // Refcounts count themselves.
    let perBlock = cluster * 8 / image.refcountBits
    var last: UInt64 = 0
    var (blocks, table): (UInt64, UInt64) = (0, 0)
    while clusters != last {
      last = clusters
      blocks = (own + blocks + table + perBlock - 1) / perBlock
      table = (blocks + cluster / 8 - 1) / (cluster / 8)
      clusters = own + blocks + table
    }
    let all = clusters * cluster
    let isFull = image.preallocation == .full || image.preallocation == .falloc
    let stored =
      isFull
      ? image.size
      : try source.map { (node) throws(BlockError) in try storedBytes(node, cluster) } ?? 0
    let knowsBitmaps =
      image.version >= 3 && source.map { Chain.skippingFilters($0) is Qcow2Node } == true
    return Measurement(
      required: all - image.size + stored, fullyAllocated: all, bitmaps: knowsBitmaps ? 0 : nil)
  }

  /// Bytes of whole clusters that hold anything but zeros.
  private static func storedBytes(
    _ node: any BlockNode, _ cluster: UInt64
  ) throws(BlockError) -> UInt64 {
    let layers = Chain.layers(node)
    let length = node.length
    var offset: UInt64 = 0
    var bytes: UInt64 = 0
    while offset < length {
      let status = try Chain.status(layers, offset, length - offset).status
      var count = max(1, status.length)
      if status.isData, !status.isZero, status.isAllocated {
        count = (offset + count + cluster - 1) / cluster * cluster - offset
        bytes += offset % cluster + count
      }
      offset += count
    }
    return bytes
  }
}
