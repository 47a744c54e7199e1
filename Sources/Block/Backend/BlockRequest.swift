package import Host
import Synchronization

/// One request of a device to its disk.
package struct BlockRequest: Sendable {
  package enum Kind: Sendable { case read, write, writeZeroes, discard, flush }
  package var kind: Kind
  /// Bytes.
  package var offset: UInt64
  package var count: UInt64
  /// Memory of reads and writes.
  package var vector: IOVector
  package var flags: WriteFlags
  /// Of how many of the guest's requests the device has made this one.
  package var parts = 1

  package static func read(_ offset: UInt64, into target: IOVector) -> BlockRequest {
    BlockRequest(
      kind: .read, offset: offset, count: UInt64(target.count), vector: target, flags: [])
  }

  package static func write(
    _ offset: UInt64, from source: IOVector, _ flags: WriteFlags = []
  ) -> BlockRequest {
    BlockRequest(
      kind: .write, offset: offset, count: UInt64(source.count), vector: source, flags: flags)
  }

  package static func writeZeroes(
    _ offset: UInt64, _ count: UInt64, _ flags: WriteFlags = []
  ) -> BlockRequest {
    BlockRequest(
      kind: .writeZeroes, offset: offset, count: count, vector: IOVector(), flags: flags)
  }

  package static func discard(_ offset: UInt64, _ count: UInt64) -> BlockRequest {
    BlockRequest(kind: .discard, offset: offset, count: count, vector: IOVector(), flags: [])
  }

  package static func flush() -> BlockRequest {
    BlockRequest(kind: .flush, offset: 0, count: 0, vector: IOVector(), flags: [])
  }

  var access: BlockAccess {
    switch kind {
    case .read: .read
    case .write, .writeZeroes: .write
    case .discard: .unmap
    case .flush: .flush
    }
  }
}

/// What became of a submitted request at once.
package enum BlockOutcome: Equatable, Sendable {
  case done
  /// It failed with that `errno`.
  case failed(Int32)
  /// The completion queue will tell.
  case pending
}

/// The end of a request that was pending.
package struct BlockCompletion: Equatable, Sendable {
  /// What the device gave with the request.
  package let tag: UInt64
  /// `errno`, 0 for success.
  package let code: Int32

  package init(tag: UInt64, code: Int32) {
    self.tag = tag
    self.code = code
  }
}

/// One of several requests that a device has made one of.
package struct BlockRequestPart: Sendable {
  let request: BlockRequest
  let tag: UInt64

  package init(_ request: BlockRequest, tag: UInt64) {
    self.request = request
    self.tag = tag
  }
}

/// Where a device hears of requests that were pending: on an `IOThread` as many at once as have ended, or at once on whatever thread ended them.
package final class BlockCompletionQueue: Sendable {
  private let thread: IOThread?
  private let deliver: @Sendable ([BlockCompletion]) -> Void
  private let divide: (@Sendable (UInt64) -> [BlockRequestPart])?
  private let waiting = Mutex<[BlockCompletion]>([])

  /// `divide` takes a tag and answers the requests that the device has made one of, each with a tag of its own: one of them has failed, and
  /// each is done alone. Called from any thread, while the one still counts as in flight. Devices that merge nothing have none.
  package init(
    on thread: IOThread?, divide: (@Sendable (UInt64) -> [BlockRequestPart])? = nil,
    _ deliver: @escaping @Sendable ([BlockCompletion]) -> Void
  ) {
    self.thread = thread
    self.divide = divide
    self.deliver = deliver
  }

  /// The requests that were made one with that tag.
  func parts(of tag: UInt64) -> [BlockRequestPart] { divide?(tag) ?? [] }

  func push(_ completion: BlockCompletion) {
    guard let thread else { return deliver([completion]) }
    let isFirst = waiting.withLock { waiting in
      waiting.append(completion)
      return waiting.count == 1
    }
    if isFirst { thread.post { [self] in flush() } }
  }

  private func flush() {
    let batch = waiting.withLock { waiting in
      let batch = waiting
      waiting.removeAll(keepingCapacity: true)
      return batch
    }
    deliver(batch)
  }
}
