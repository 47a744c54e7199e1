import Host
package import Shm
import Synchronization

/// Whether vCPUs have used the pages that were opened to them (distributed.md, section 5, forward progress).
///
/// The kernel does not tell when an access after a fault is done. It counts the faults that it has mapped a page for (`pf_fixed`): once that
/// has advanced since the page was opened, the vCPU is about to enter the guest, and gets half as long again as this took, so that the span
/// fits slow hosts as well as fast ones.
///
/// An instruction may need several pages at a time: what it reads and writes, the page tables that the processor walks. A vCPU that loses the first before the last
/// has come is told by that it asks again for what it has had: those pages are `contested`, and nodes keep them by turns.
final class PageProgress: Sendable {
  /// The kernel's count of faults of one vCPU that it has mapped pages for.
  final class Counter: Sendable {
    private let file: StatisticsFile
    private let offset: Int

    /// Nil when the kernel does not count.
    init?(of descriptor: Int32) {
      guard let file = StatisticsFile.open(of: descriptor), let offset = file.offset(of: "pf_fixed")
      else { return nil }
      self.file = file
      self.offset = offset
    }

    var value: UInt64 { file.value(at: offset) ?? 0 }
  }

  private struct Slot: Sendable {
    var thread: UInt32
    var counter: Counter?
    /// The page of the last fault.
    var page = UInt64.max
    /// When the fault came, when the page was open, when it was seen mapped; 0: not yet.
    var began: Int64 = 0
    var opened: Int64 = 0
    var mapped: Int64 = 0
    var count: UInt64 = 0
    /// How often in a row the page was taken before it was mapped.
    var failures: Int64 = 0
    var recent = RecentPages()
    /// Pages that were opened while the counter stood at 0.
    var uncounted = 0

    /// The counter now; forgets one that never counts (PVM), for reading it costs every fault.
    mutating func readCounter() -> UInt64? {
      guard let value = counter?.value else { return nil }
      if value == 0 {
        uncounted += 1
        if uncounted > 1000 { counter = nil }
      }
      return value
    }

    mutating func begins(_ address: UInt64, _ now: Int64) {
      recent.note(address)
      if page == address {
        let isMapped = mapped != 0 || counter.map { $0.value != count } ?? false
        failures = opened == 0 || isMapped ? 0 : min(failures + 1, 5)
      } else {
        failures = 0
        page = address
      }
      began = now
      opened = 0
      mapped = 0
    }
  }
  private let slots = Mutex<[Slot]>([])

  /// The calling thread runs the vCPU from now on.
  func adopt(_ thread: Int64, _ counter: Counter?) {
    let id = UInt32(truncatingIfNeeded: thread)
    slots.withLock { slots in
      slots.removeAll { $0.thread == id }
      slots.append(Slot(thread: id, counter: counter))
    }
  }

  /// A thread waits for a page.
  func began(_ page: GuestAddress, _ thread: UInt32) {
    slots.withLock { slots in
      guard let index = slots.firstIndex(where: { $0.thread == thread }) else { return }
      slots[index].begins(page.rawValue, HostClock.monotonic)
    }
  }

  /// The page of a fault is about to be opened.
  func opens(_ page: GuestAddress, _ thread: UInt32) {
    slots.withLock { slots in
      guard let index = slots.firstIndex(where: { $0.thread == thread }) else { return }
      slots[index].count = slots[index].readCounter() ?? 0
      slots[index].opened = HostClock.monotonic
    }
  }

  /// So long after its last fault a vCPU may still be in want of pages.
  private static let contestSpan: Int64 = 50_000_000
  /// A page that is opened to the kernel, or to a vCPU that is paused, is never seen mapped.
  private static let patience: Int64 = 1_000_000
  /// Without a counter that counts.
  private static let blindPatience: Int64 = 25_000

  /// What is known of a page's use, now that somebody wants it.
  func use(of page: GuestAddress) -> PageUse {
    let now = HostClock.monotonic
    return slots.withLock { slots in
      var longest: Int64?
      var isContested = false
      for index in slots.indices {
        if slots[index].page == page.rawValue {
          longest = max(longest ?? 0, PageProgress.wait(&slots[index], now))
        }
        // A vCPU that has long had all it needs, or halts, needs no turn.
        if now &- slots[index].began < PageProgress.contestSpan,
          slots[index].recent.isContested(page.rawValue)
        {
          isContested = true
        }
      }
      guard let longest else { return isContested ? .contested : .unknown }
      return longest > 0 ? .unused(longest) : isContested ? .contested : .used
    }
  }

  private static func wait(_ slot: inout Slot, _ now: Int64) -> Int64 {
    if slot.opened == 0 {
      return min(max(10_000, (now &- slot.began) / 4), 1_000_000)
    }
    let elapsed = now &- slot.opened
    // Some kernels (PVM) have the counter and never count.
    guard let counter = slot.counter, counter.value != 0 else {
      return max(0, blindPatience << slot.failures &- elapsed)
    }
    if slot.mapped == 0 {
      if counter.value == slot.count {
        return elapsed > patience << slot.failures ? 0 : max(5_000, elapsed / 2)
      }
      slot.mapped = now
    }
    let span = min(max((slot.mapped &- slot.opened) / 2, 4_000), 5_000_000)
    return max(0, slot.mapped &+ span &- now)
  }
}
