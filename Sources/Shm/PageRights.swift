import CX86
import Host
package import Synchronization

/// What a node may do with a page of memory that is shared between nodes.
package enum PageRight: Sendable {
  /// To read it, and to execute what it holds.
  case read
  /// To write it; who has this has the other too.
  case write
}

/// What became of the wish for a right.
package enum PageAccess: Sendable {
  /// This node has had the right; the page's flags say whether it still has.
  case granted
  /// The cluster is frozen: whoever asks does something else (a vCPU parks) and asks again later.
  case frozen
  /// The page's bytes were lost with another node. An access is answered by a machine check, never by zeros.
  case lost
}

/// What an engine that opens pages to its vCPUs knows of the use of one.
package enum PageUse: Equatable, Sendable {
  /// None of its vCPUs has asked for it.
  case unknown
  /// It may not have been used; ask again in so many nanoseconds.
  case unused(Int64)
  case used
  /// It has been used, but belongs to those that a vCPU loses and asks for again and again: with one of them less it would not get on.
  case contested
}

/// Whoever gets rights to pages back from other nodes. Without one, a page once revoked is given back at its first use.
package protocol PageRightsPolicy: AnyObject, Sendable {
  /// Obtains a right for this node, on the thread that needs it: a vCPU's, or one that accesses memory for a device or a monitor.
  ///
  /// May block. Before it returns `.granted` it clears the page's flags; if the right is gone again before the access, it is asked again, so
  /// it is for the policy to leave a fresh right alone for as long as an access takes (distributed.md, section 5). Two threads may ask
  /// for the same page at a time. A vCPU that waits here does not execute and delays no revocation.
  func acquire(page: GuestAddress, _ right: PageRight) -> PageAccess

  /// The access for which `acquire` was called can no longer be overtaken by a revocation: the vCPU executes, and answers one only after the
  /// access; or the access is over.
  func settle(page: GuestAddress)

  /// The page is open to an engine that cannot say when its access is done: it stays as long as `GuestMemory.progress` says, which is asked
  /// when somebody wants it.
  func opened(page: GuestAddress)

  /// Obtains a right to all pages of a range, asking for all at once. When it returns `.granted`, some may be gone again.
  func acquire(_ address: GuestAddress, count: UInt64, _ right: PageRight) -> PageAccess

  /// Pins the pages of a range, if this node has the right to all of them now: until `unpin` they stay this node's. Does not wait. False, with
  /// nothing pinned, when one is missing.
  func tryPin(_ address: GuestAddress, count: UInt64, _ right: PageRight) -> Bool

  /// Lets go of what `tryPin` with the same arguments took.
  func unpin(_ address: GuestAddress, count: UInt64, _ right: PageRight)
}

extension PageRightsPolicy {
  package func settle(page: GuestAddress) {}
  package func opened(page: GuestAddress) {}
  package func acquire(
    _ address: GuestAddress, count: UInt64, _ right: PageRight
  ) -> PageAccess {
    let last = address.rawValue &+ max(count, 1) &- 1
    var page = address.rawValue & ~(GuestAddress.pageSize &- 1)
    while page <= last {
      let access = acquire(page: GuestAddress(page), right)
      if access != .granted { return access }
      page &+= GuestAddress.pageSize
    }
    return .granted
  }
  package func tryPin(_ address: GuestAddress, count: UInt64, _ right: PageRight) -> Bool { true }
  package func unpin(_ address: GuestAddress, count: UInt64, _ right: PageRight) {}
}

/// Accesses under way that are not a vCPU's, counted so that `revoke` can wait for those that began before it.
struct AccessCounts: ~Copyable, Sendable {
  private let even = Atomic<Int>(0)
  private let odd = Atomic<Int>(0)
  private let epoch = Atomic<Int>(0)
  /// Somebody sleeps until a lane is empty.
  private let isAwaited = Atomic<Bool>(false)
  private let word = WaitWord()

  /// Begins an access; the lane is to be given to `end`.
  func begin() -> Int {
    let lane = epoch.load(ordering: .sequentiallyConsistent) & 1
    if lane == 0 {
      even.add(1, ordering: .sequentiallyConsistent)
    } else {
      odd.add(1, ordering: .sequentiallyConsistent)
    }
    return lane
  }

  func end(_ lane: Int) {
    let left =
      lane == 0
      ? even.subtract(1, ordering: .sequentiallyConsistent).newValue
      : odd.subtract(1, ordering: .sequentiallyConsistent).newValue
    if left == 0, isAwaited.load(ordering: .sequentiallyConsistent) { word.advance() }
  }

  /// Returns when all accesses that began before the call have ended. One caller at a time.
  ///
  /// Twice, because an access may have read the epoch and not yet counted itself when the first change comes; later ones cannot
  /// hold it up.
  func wait() {
    for _ in 0..<2 {
      let lane = epoch.wrappingAdd(1, ordering: .sequentiallyConsistent).oldValue & 1
      var rounds = 0
      while isUsed(lane) {
        rounds += 1
        if rounds < AccessCounts.patience { x86_pause() } else { sleep(lane) }
      }
    }
  }

  private func isUsed(_ lane: Int) -> Bool {
    (lane == 0
      ? even.load(ordering: .sequentiallyConsistent) : odd.load(ordering: .sequentiallyConsistent))
      != 0
  }

  /// An access that has not ended by now calls the kernel (it opens a page to a guest on KVM) or its thread has lost its CPU, perhaps to this one:
  /// sched_yield(2) would not give it back soon, for the scheduler holds that this thread has used less of it.
  private func sleep(_ lane: Int) {
    let seen = word.value
    isAwaited.store(true, ordering: .sequentiallyConsistent)
    if isUsed(lane) { word.wait(while: seen) }
    isAwaited.store(false, ordering: .sequentiallyConsistent)
  }

  /// Some microseconds.
  private static let patience = 200
}
