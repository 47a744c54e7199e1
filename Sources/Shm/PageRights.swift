package import Synchronization

/// What a node may do with a page of memory that is shared between nodes.
package enum PageRight: Sendable {
  /// To read it, and to execute what it holds.
  case read
  /// To write it; who has this has the other too.
  case write
}

/// Whoever gets rights to pages back from other nodes. Without one, a page once revoked is given back at its first use.
package protocol PageRightsPolicy: AnyObject, Sendable {
  /// Obtains a right for this node, on the thread that needs it: a vCPU's, or one that accesses memory for a device or a monitor.
  ///
  /// May block. Before it returns it calls `GuestMemory.grant`; if the right is gone again before the access, it is asked again, so it
  /// is for the policy to leave a fresh right alone for as long as an access takes (distributed.md, section 5). Two threads may ask
  /// for the same page at a time. A vCPU that waits here does not execute and delays no `revoke`.
  func acquire(page: GuestAddress, _ right: PageRight)
}

/// Accesses under way that are not a vCPU's, counted so that `revoke` can wait for those that began before it.
struct AccessCounts: ~Copyable, Sendable {
  private let even = Atomic<Int>(0)
  private let odd = Atomic<Int>(0)
  private let epoch = Atomic<Int>(0)

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
    if lane == 0 {
      even.subtract(1, ordering: .sequentiallyConsistent)
    } else {
      odd.subtract(1, ordering: .sequentiallyConsistent)
    }
  }

  /// Returns when all accesses that began before the call have ended. One caller at a time.
  ///
  /// Twice, because an access may have read the epoch and not yet counted itself when the first change comes; later ones cannot
  /// hold it up.
  func wait(_ relax: () -> Void) {
    for _ in 0..<2 {
      let lane = epoch.wrappingAdd(1, ordering: .sequentiallyConsistent).oldValue & 1
      if lane == 0 {
        while even.load(ordering: .sequentiallyConsistent) != 0 { relax() }
      } else {
        while odd.load(ordering: .sequentiallyConsistent) != 0 { relax() }
      }
    }
  }
}
