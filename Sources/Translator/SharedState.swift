import CX86
import Glibc
import Shm
import Synchronization

// What all vCPUs of a machine share, in this process or in the memory that its processes share.

/// A vCPU's mailbox.
@safe struct Mailbox: Sendable {
  // SAFETY: mapped as long as the vCPU, or the shared object that it is part of; all fields are atomic.
  nonisolated(unsafe) let pointer: UnsafeMutablePointer<X86Mailbox>

  init(_ pointer: UnsafeMutablePointer<X86Mailbox>) { unsafe self.pointer = pointer }
}

/// The mailbox of a vCPU that another process runs, in the shared object.
struct RemoteMailbox: Sendable {
  let vcpu: Int
  let mailbox: Mailbox
}

/// A counter for each hash of a page.
@safe final class MarkTable: Sendable {
  private static var size: Int { SharedEngines.markCount }
  private let engines: SharedEngines?
  // SAFETY: `size` atomics, the shared object's, or allocated and initialised in init and freed in deinit; indices are masked.
  nonisolated(unsafe) private let counters: UnsafeMutablePointer<Atomic<Int>>

  init(_ engines: SharedEngines?) {
    self.engines = engines
    if let engines {
      unsafe counters = engines.marks.assumingMemoryBound(to: Atomic<Int>.self)
    } else {
      unsafe counters = UnsafeMutablePointer<Atomic<Int>>.allocate(capacity: MarkTable.size)
      for n in 0..<MarkTable.size { unsafe (counters + n).initialize(to: Atomic(0)) }
    }
  }

  deinit {
    if engines == nil {
      unsafe counters.deinitialize(count: MarkTable.size)
      unsafe counters.deallocate()
    }
  }

  private static func slot(_ page: UInt64) -> Int {
    Int(truncatingIfNeeded: page &>> 12) & (size - 1)
  }
  func isMarked(_ page: UInt64) -> Bool {
    unsafe counters[MarkTable.slot(page)].load(ordering: .sequentiallyConsistent) != 0
  }
  func change(_ page: UInt64, by amount: Int) {
    unsafe counters[MarkTable.slot(page)].add(amount, ordering: .sequentiallyConsistent)
  }
}

/// The lock of locked accesses that are not one instruction of the host (they cross a page, or are a device's). A vCPU that waits for it
/// does not execute.
@safe final class SplitLock: Sendable {
  private let engines: SharedEngines?
  // SAFETY: one word, the shared object's or allocated here; only touched by atomic operations.
  nonisolated(unsafe) private let word: UnsafeMutablePointer<UInt32>

  init(_ engines: SharedEngines?) {
    self.engines = engines
    if let engines {
      unsafe word = engines.splitLock.assumingMemoryBound(to: UInt32.self)
    } else {
      unsafe word = UnsafeMutablePointer<UInt32>.allocate(capacity: 1)
      unsafe word.initialize(to: 0)
    }
  }

  deinit {
    if engines == nil { unsafe word.deallocate() }
  }

  /// Waits for the lock, for the vCPU of that number.
  func take(owner: UInt32) {
    var rounds = 0
    while unsafe x86_split_try(word, owner &+ 1) == 0 {
      rounds &+= 1
      if rounds & 63 != 0 { x86_pause() } else { sched_yield() }
    }
  }

  /// Does nothing unless the vCPU has it.
  func release(owner: UInt32) { unsafe x86_split_free(word, owner &+ 1) }
}
