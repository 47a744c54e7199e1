import Host
package import Shm
import Synchronization

/// Whether vCPUs have used the pages that were opened to them (distributed.md, section 5, forward progress).
///
/// The kernel does not tell when an access after a fault is done. It counts the faults that it has mapped a page for (`pf_fixed`): once that
/// has advanced since the page was opened, the vCPU is about to enter the guest, and gets half as long again as this took, so that the span
/// fits slow hosts as well as fast ones. An instruction that needs two pages keeps the first while the second comes, when it was seen to lose them by turns.
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
    /// The page of the last fault, and that of the one before.
    var page = UInt64.max
    var previous = UInt64.max
    /// When the fault came, when the page was open, when it was seen mapped; 0: not yet.
    var began: Int64 = 0
    var opened: Int64 = 0
    var mapped: Int64 = 0
    var count: UInt64 = 0
    /// How often in a row the page was taken before it was mapped.
    var failures: Int64 = 0
    /// Faults in a row that went to and fro between two pages.
    var alternations = 0
    /// The other one stays until then.
    var keptUntil: Int64 = 0
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
      if page == address {
        let isMapped = mapped != 0 || counter.map { $0.value != count } ?? false
        failures = opened == 0 || isMapped ? 0 : min(failures + 1, 5)
      } else {
        failures = 0
        alternations = previous == address ? min(alternations + 1, 100) : 0
        // Not as long on all nodes, so that one of them gets both.
        let span = 1_000_000 + (now & 0xFF) << 14
        keptUntil = alternations >= PageProgress.manyAlternations ? now + span : 0
        previous = page
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

  private static let manyAlternations = 6
  /// A page that is opened to the kernel, or to a vCPU that is paused, is never seen mapped.
  private static let patience: Int64 = 1_000_000
  /// Without a counter that counts.
  private static let blindPatience: Int64 = 25_000

  /// In how many nanoseconds to ask again whether the page may go; 0: it may; nil: no vCPU has asked for it last.
  func wait(for page: GuestAddress) -> Int64? {
    let now = HostClock.monotonic
    return slots.withLock { slots in
      var longest: Int64?
      for index in slots.indices {
        if slots[index].page == page.rawValue {
          longest = max(longest ?? 0, PageProgress.wait(&slots[index], now))
        } else if slots[index].previous == page.rawValue, now < slots[index].keptUntil {
          longest = max(longest ?? 0, 50_000)
        }
      }
      return longest
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
    let left = slot.mapped &+ span &- now
    if left > 0 { return left }
    slot.keptUntil = 0
    return 0
  }
}
