package import Cluster

/// What the coherent memory has done, for metrics and `query-dsm` (distributed.md, section 13).
package struct DSMStatistics: Equatable, Sendable, BitwiseCopyable {
  /// Accesses that had to wait for another node, by kind.
  package var readFaults: UInt64 = 0
  package var writeFaults: UInt64 = 0
  /// Writes to a page that was readable.
  package var upgradeFaults: UInt64 = 0
  /// Nanoseconds that they waited.
  package var readNanoseconds: UInt64 = 0
  package var writeNanoseconds: UInt64 = 0
  package var upgradeNanoseconds: UInt64 = 0
  /// How many waits took less than 2^n microseconds, by n and kind; the last: all others.
  package var readHistogram = LatencyHistogram()
  package var writeHistogram = LatencyHistogram()
  package var upgradeHistogram = LatencyHistogram()
  /// Copies that this node dropped or gave away because it was told to.
  package var invalidations: UInt64 = 0
  /// Copies that became readable only.
  package var downgrades: UInt64 = 0
  /// Pages that came, by what came with them.
  package var fullTransfers: UInt64 = 0
  package var zeroTransfers: UInt64 = 0
  package var grants: UInt64 = 0
  /// Pages whose bytes this node sent.
  package var pagesSent: UInt64 = 0
  /// Pages asked for before their use; what became of them.
  package var prefetches: UInt64 = 0
  package var prefetchesUsed: UInt64 = 0
  package var prefetchesWasted: UInt64 = 0
  /// Copies sent without a request.
  package var pushes: UInt64 = 0
  /// Revocations that came before their data.
  package var heldRevocations: UInt64 = 0
  /// Revocations that waited: for an access to complete, for a device, because the page is hot.
  package var pinWaits: UInt64 = 0
  package var pinWaitNanoseconds: UInt64 = 0
  /// Of these, those for a device that took more than 2 ms.
  package var longPinWaits: UInt64 = 0
  /// Pages that went before the access that waited for them was done.
  package var unsettledRevocations: UInt64 = 0
  /// Transactions that this node ordered as a home.
  package var transactions: UInt64 = 0
  /// Requests that wait at this node as a home.
  package var waitingRequests: UInt64 = 0
  /// Pages by this node's right; `invalidPages` is what is left of RAM.
  package var sharedPages: UInt64 = 0
  package var modifiedPages: UInt64 = 0
  package var invalidPages: UInt64 = 0
  /// Pages whose bytes are lost for good.
  package var lostPages: UInt64 = 0
  /// Pages that go from node to node more than 200 times a second.
  package var hotPages: UInt64 = 0
  package var protocolErrors: UInt64 = 0

  package init() {}

  mutating func add(_ other: DSMStatistics) {
    readFaults &+= other.readFaults
    writeFaults &+= other.writeFaults
    upgradeFaults &+= other.upgradeFaults
    readNanoseconds &+= other.readNanoseconds
    writeNanoseconds &+= other.writeNanoseconds
    upgradeNanoseconds &+= other.upgradeNanoseconds
    readHistogram.add(other.readHistogram)
    writeHistogram.add(other.writeHistogram)
    upgradeHistogram.add(other.upgradeHistogram)
    invalidations &+= other.invalidations
    downgrades &+= other.downgrades
    fullTransfers &+= other.fullTransfers
    zeroTransfers &+= other.zeroTransfers
    grants &+= other.grants
    pagesSent &+= other.pagesSent
    prefetches &+= other.prefetches
    prefetchesUsed &+= other.prefetchesUsed
    prefetchesWasted &+= other.prefetchesWasted
    pushes &+= other.pushes
    heldRevocations &+= other.heldRevocations
    pinWaits &+= other.pinWaits
    pinWaitNanoseconds &+= other.pinWaitNanoseconds
    longPinWaits &+= other.longPinWaits
    unsettledRevocations &+= other.unsettledRevocations
    transactions &+= other.transactions
    waitingRequests &+= other.waitingRequests
    sharedPages &+= other.sharedPages
    modifiedPages &+= other.modifiedPages
    lostPages &+= other.lostPages
    hotPages &+= other.hotPages
    protocolErrors &+= other.protocolErrors
  }
}

/// Waits by their length: powers of two of a microsecond.
package struct LatencyHistogram: Equatable, Sendable, BitwiseCopyable {
  /// Counters: below 1, 2, 4, … 2^14 µs, and the rest.
  package static let count = 16
  private var low = SIMD8<UInt64>.zero
  private var high = SIMD8<UInt64>.zero

  package init() {}

  package subscript(_ index: Int) -> UInt64 {
    get { index < 8 ? low[index & 7] : high[index & 7] }
    set { if index < 8 { low[index & 7] = newValue } else { high[index & 7] = newValue } }
  }

  /// Microseconds below which counter `index` counts; nil for the last.
  package static func bound(_ index: Int) -> UInt64? {
    index < count - 1 ? 1 << UInt64(index) : nil
  }

  mutating func note(nanoseconds: Int64) {
    let micros = UInt64(max(nanoseconds, 0)) / 1000
    let index = min(UInt64.bitWidth - micros.leadingZeroBitCount, LatencyHistogram.count - 1)
    self[index] &+= 1
  }

  mutating func add(_ other: LatencyHistogram) {
    low &+= other.low
    high &+= other.high
  }
}

/// A page that goes from node to node often, for `query-dsm-hot-pages`.
package struct HotPage: Equatable, Sendable {
  package var address: GuestAddress
  package var home: NodeID
  /// Times a second that this node got or gave it.
  package var transfersPerSecond: UInt64
  /// Of all of them, those by which a reader became the writer.
  package var upgrades: UInt64
  package var transfers: UInt64
  /// How this node uses the page now.
  package var state: PageAgent.State

  package init(
    address: GuestAddress, home: NodeID, transfersPerSecond: UInt64, upgrades: UInt64,
    transfers: UInt64, state: PageAgent.State
  ) {
    self.address = address
    self.home = home
    self.transfersPerSecond = transfersPerSecond
    self.upgrades = upgrades
    self.transfers = transfers
    self.state = state
  }
}
