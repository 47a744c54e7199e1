/// The pages that a vCPU has asked for lately, and whether it gets on with them.
package struct RecentPages: Sendable {
  /// The latest first, each once.
  private var pages: [UInt64] = []
  /// Of the last 32 faults, the latest in bit 0: whether the page was one of these, and so has been lost since.
  private var losses: UInt32 = 0

  package init() { pages.reserveCapacity(RecentPages.capacity + 1) }

  /// The vCPU has asked for a page, which it did not have.
  package mutating func note(_ page: UInt64) {
    losses <<= 1
    if let index = pages.firstIndex(of: page) {
      losses |= 1
      pages.remove(at: index)
    }
    pages.insert(page, at: 0)
    if pages.count > RecentPages.capacity { pages.removeLast() }
  }

  /// Whether the vCPU asks again and again for pages that it has had, and this is one of them.
  package func isContested(_ page: UInt64) -> Bool {
    losses.nonzeroBitCount >= RecentPages.many && pages.contains(page)
  }

  /// As many as the page tables, stacks and variables of a guest that changes between a few things.
  private static let capacity = 32
  /// Of 32 faults.
  private static let many = 20
}
