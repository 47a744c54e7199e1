import Glibc
import Host

/// Refcount structures made anew, behind everything that is in use: by a repair, or with another width of refcounts.
struct Qcow2RefcountBuilder {
  let file: any BlockNode
  let clusterBits: Int
  let order: Int
  /// Nothing is used from this cluster on.
  let start: Int
  /// The blocks that are needed for what is used.
  var needed: Set<Int>

  private var shift: Int { clusterBits + 3 - order }
  private var clusterSize: Int { 1 << clusterBits }

  /// Writes table and blocks, which count themselves too, with a flush behind them. `count` tells the refcount of a cluster below `start`. Returns the table's
  /// place and where the new structures end. Throws `BlockError`: `EFBIG` when the table would be larger than QEMU accepts.
  mutating func write(_ count: (Int) throws(BlockError) -> UInt64) throws(BlockError)
    -> (table: UInt64, clusters: Int, end: Int)
  {
    var tableClusters = 1
    while true {
      let before = needed.count
      let end = start + before + tableClusters
      for index in start >> shift...(end - 1) >> shift { needed.insert(index) }
      let table = (((needed.max() ?? 0) + 1) * 8 + clusterSize - 1) / clusterSize
      if needed.count == before, table == tableClusters { break }
      tableClusters = table
    }
    guard tableClusters * clusterSize <= Qcow2Header.maximumRefcountTableSize else {
      throw BlockError(EFBIG, "Failed to allocate the new reftable")
    }
    let own = start..<start + needed.count + tableClusters
    var table = [UInt64](repeating: 0, count: tableClusters * clusterSize / 8)
    let block = IOBuffer(count: clusterSize)
    for (position, index) in needed.sorted().enumerated() {
      block.fill(0, 0..<clusterSize)
      let first = index << shift
      for cluster in first..<first + 1 << shift {
        let references = own.contains(cluster) ? 1 : cluster < start ? try count(cluster) : 0
        if references > 0 {
          block.setLane(cluster - first, order, references)
        }
      }
      let place = UInt64(start + tableClusters + position) << UInt64(clusterBits)
      try file.write(place, from: block.vector, [])
      table[index] = place
    }
    let offset = UInt64(start) << UInt64(clusterBits)
    try Qcow2Tables.store(table, file, offset)
    try file.flush()
    return (offset, tableClusters, own.upperBound)
  }
}
