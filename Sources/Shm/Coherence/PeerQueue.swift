import Cluster
import Host
import Synchronization

/// Messages for one peer, in the order in which they were decided. Whoever has put some in sends them when it holds no lock; if somebody is
/// at it already, that one sends these too.
///
/// What is queued is not yet bytes: a page's bytes are read when its message is sent. That is sound, because nobody changes them until the
/// receiver, or the home that waits for it, has answered what stands in this very queue.
@safe final class PeerQueue: @unchecked Sendable {
  private struct State {
    /// A ring; its size is a power of two.
    var ring = [PageMessage](repeating: PageMessage(.getS, page: 0), count: 128)
    var head = 0
    var count = 0
    var isDraining = false
  }
  private let state = Mutex(State())

  // Only for the one that drains. SAFETY (all): allocated in init, freed in deinit.
  @unsafe let description: UnsafeMutableRawPointer
  /// Empty: the room for a frame's memory.
  let pieces = IOPieces(capacity: 1 + Int(PageFrame.groupPages))
  /// By bit of the frame's pages.
  @unsafe private let byBit: UnsafeMutablePointer<PageMessage>

  init() {
    unsafe description = .allocate(byteCount: PageFrame.descriptionSize, alignment: 64)
    unsafe description.initializeMemory(
      as: UInt8.self, repeating: 0, count: PageFrame.descriptionSize)
    unsafe byBit = .allocate(capacity: 64)
    unsafe byBit.initialize(repeating: PageMessage(.getS, page: 0), count: 64)
  }

  deinit {
    unsafe description.deallocate()
    unsafe byBit.deallocate()
    pieces.free()
  }

  func post(_ message: PageMessage) {
    state.withLock { state in
      if state.count == state.ring.count {
        let old = state.ring
        state.ring = (0..<old.count * 2).map { old[(state.head + $0) & (old.count - 1)] }
        state.head = 0
      }
      state.ring[(state.head + state.count) & (state.ring.count - 1)] = message
      state.count += 1
    }
  }

  /// Makes the caller the one that drains; false when there is nothing, or somebody does.
  func begin() -> Bool {
    state.withLock { state in
      if state.isDraining || state.count == 0 { return false }
      state.isDraining = true
      return true
    }
  }

  /// The next frame's messages; nil when there are none, and the caller drains no longer.
  func next() -> PageFrame? {
    state.withLock { state -> PageFrame? in
      guard state.count > 0 else {
        state.isDraining = false
        return nil
      }
      let mask = state.ring.count - 1
      let first = state.ring[state.head]
      var frame = PageFrame(first)
      unsafe byBit[Int(first.page % PageFrame.groupPages)] = first
      state.head = (state.head + 1) & mask
      state.count -= 1
      while state.count > 0 {
        let message = state.ring[state.head]
        guard frame.merge(message) else { break }
        unsafe byBit[Int(message.page % PageFrame.groupPages)] = message
        state.head = (state.head + 1) & mask
        state.count -= 1
      }
      return frame
    }
  }

  /// The message about the page of a bit of the frame.
  func message(_ bit: Int) -> PageMessage { unsafe byBit[bit & 63] }

  /// Forgets everything: the epoch is over.
  func clear() { state.withLock { $0.count = 0 } }
}

/// What is left to do when the lock over a page is free. One thread's at a time.
@safe final class PageWork: @unchecked Sendable {
  /// A right that was given up and that the engines must be told of.
  struct Revocation {
    enum Kind: UInt8 { case drop, downgrade, surrender, forward }
    var kind: Kind
    var target: NodeID
    var wasModified: Bool
    var page: UInt64
    var gen: UInt64

    /// What the engines lose.
    var right: PageRight { kind == .downgrade ? .write : .read }
  }
  var revocations: [Revocation] = []
  var current: [Revocation] = []
  /// Waiters to wake, by their place in the table.
  var waiters: [UInt16] = []
  /// Shards whose sleepers are to be woken.
  var shards: UInt64 = 0
  /// Peers whose queues have something new.
  var peers: UInt64 = 0
  var failure: PageProtocolError?

  init() {
    revocations.reserveCapacity(128)
    current.reserveCapacity(128)
    waiters.reserveCapacity(128)
  }
}

/// Where a thread waits for a page that it has asked for, and what it does then.
final class Seat: Sendable {
  let waiter = FrameWaiter()
  let work = PageWork()
}

/// What a thread that receives from one peer uses. One thread's at a time, as the transport says.
@safe final class PeerInbox: @unchecked Sendable {
  // SAFETY (both): allocated in init, freed in deinit.
  @unsafe let description: UnsafeMutableRawPointer
  /// Takes the bytes of a page that nobody wants.
  @unsafe let waste: UnsafeMutableRawPointer
  /// Empty: the room for a frame's memory.
  let pieces = IOPieces(capacity: Int(PageFrame.groupPages))
  let work = PageWork()

  init() {
    unsafe description = .allocate(byteCount: PageFrame.descriptionSize, alignment: 64)
    unsafe description.initializeMemory(
      as: UInt8.self, repeating: 0, count: PageFrame.descriptionSize)
    unsafe waste = .allocate(byteCount: Int(GuestAddress.pageSize), alignment: 64)
  }

  deinit {
    unsafe description.deallocate()
    unsafe waste.deallocate()
    pieces.free()
  }
}
