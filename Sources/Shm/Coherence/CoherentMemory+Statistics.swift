package import Cluster
import Host
import Synchronization

/// What monitors and metrics see.
extension CoherentMemory {
  /// What was done since the start, and how the pages are divided now.
  package var statistics: DSMStatistics {
    var sum = DSMStatistics()
    for shard in shards.all {
      shard.withLock { state in
        sum.add(state.statistics)
        sum.waitingRequests &+= UInt64(state.pool.count)
      }
    }
    sum.pagesSent = pagesSent.load(ordering: .relaxed)
    let mine = sum.sharedPages &+ sum.modifiedPages
    sum.invalidPages = pageCount >= mine ? pageCount &- mine : 0
    sum.hotPages = UInt64(hotPages(limit: 1024).count)
    return sum
  }

  /// The pages with the most transfers a second in the last moment, by that, at most `limit`.
  package func hotPages(limit: Int) -> [HotPage] {
    let window = UInt32(truncatingIfNeeded: HostClock.monotonic >> 26)
    var found: [HotPage] = []
    for shard in shards.all {
      shard.withLock { state in
        for index in 0..<HotList.count {
          guard let page = state.hot[index] else { continue }
          let entry = unsafe entry(page)
          // Not of the last second.
          guard unsafe window &- entry.pointee.window <= 15 else { continue }
          let running = unsafe UInt64(entry.pointee.windowCount) * 15
          let rate = unsafe max(UInt64(entry.pointee.rate), running)
          guard rate > UInt64(CoherentMemory.hotRate) else { continue }
          unsafe found.append(
            HotPage(
              address: address(of: page), home: home(of: page), transfersPerSecond: rate,
              upgrades: UInt64(entry.pointee.upgrades), transfers: UInt64(entry.pointee.transfers),
              state: entry.pointee.agent.state))
        }
      }
    }
    found.sort {
      $0.transfersPerSecond != $1.transfersPerSecond
        ? $0.transfersPerSecond > $1.transfersPerSecond : $0.address < $1.address
    }
    return Array(found.prefix(max(limit, 0)))
  }

  /// Pages whose transactions this node orders.
  package var homePageCount: UInt64 {
    (0..<pageCount).reduce(0) { $0 + (home(of: $1) == node ? 1 : 0) }
  }

  /// What this node has of the page at an address; nil outside of RAM.
  package func state(of address: GuestAddress) -> PageAgent.State? {
    guard let page = page(at: address) else { return nil }
    return shard(of: page).withLock { _ in unsafe entry(page).pointee.agent.state }
  }

  /// Whether the page's bytes are lost for good.
  package func isLost(_ address: GuestAddress) -> Bool {
    guard let page = page(at: address) else { return false }
    return shard(of: page).withLock { _ in
      unsafe entry(page).pointee.bits & PageEntry.lost != 0
    }
  }
}
