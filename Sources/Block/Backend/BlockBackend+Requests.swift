import Glibc
package import Host
import Synchronization

extension BlockBackend {
  /// What a request that may start is done with.
  private struct Ticket {
    let node: any BlockNode
    let detectZeroes: ZeroDetection
    let unmaps: Bool
    let group: ThrottleGroup?
    let isWriteThrough: Bool
  }

  private enum Entrance {
    case open(Ticket)
    case held
    case refused(BlockError)
  }

  // MARK: For devices

  /// Does a request without waiting where that is possible (reads of what is cached), else on a worker: then the answer is `.pending` and `queue` will have `tag`.
  ///
  /// With `mayBlock` all is done at once on the caller's thread, an `IOThread` or worker that has nothing else to do; only limits, drains and errors that stop
  /// the machine are pending then.
  package func submit(
    _ request: BlockRequest, tag: UInt64, to queue: BlockCompletionQueue, mayBlock: Bool = false
  ) -> BlockOutcome {
    let started = HostClock.monotonic
    switch enter(request, Held(request: request, tag: tag, queue: queue, started: started)) {
    case .held: return .pending
    case .refused where request.parts > 1:
      // Not in flight; but a reset waits for the device, which is in this call, or for what `resubmitAll` counts.
      for part in queue.parts(of: tag) { resubmit(part.request, part.tag, queue) }
      return .pending
    case .refused(let error): return .failed(error.code)
    case .open(let ticket):
      if let group = ticket.group, group.isEnabled, request.kind != .flush {
        let isFree = group.admit(isWrite: request.kind != .read, bytes: request.count) { [self] in
          runOnWorker(request, ticket, tag, queue, started)
        }
        if !isFree { return .pending }
      }
      if request.kind == .read {
        do throws(BlockError) {
          if try ticket.node.readNow(request.offset, into: request.vector) {
            finish(request, started)
            return .done
          }
        } catch {
          return settle(request, error, tag, queue, started)
        }
      }
      if mayBlock {
        do throws(BlockError) {
          try perform(request, ticket)
          finish(request, started)
          return .done
        } catch {
          return settle(request, error, tag, queue, started)
        }
      }
      runOnWorker(request, ticket, tag, queue, started)
      return .pending
    }
  }

  /// Does again what was held or parked, and has been counted as in flight meanwhile: a reset that comes now waits, and finds all of it
  /// where it can be cancelled.
  func resubmitAll(_ held: [Held]) {
    for one in held {
      resubmit(one.request, one.tag, one.queue)
      endFlight()
    }
  }

  private func endFlight() {
    let mustWake = state.withLock { state in
      leave(&state)
      return state.drains > 0
    }
    if mustWake { wakeDrain() }
  }

  private func resubmit(_ request: BlockRequest, _ tag: UInt64, _ queue: BlockCompletionQueue) {
    switch submit(request, tag: tag, to: queue) {
    case .pending: break
    case .done: queue.push(BlockCompletion(tag: tag, code: 0))
    case .failed(let code): queue.push(BlockCompletion(tag: tag, code: code))
    }
  }

  private func runOnWorker(
    _ request: BlockRequest, _ ticket: Ticket, _ tag: UInt64, _ queue: BlockCompletionQueue,
    _ started: Int64
  ) {
    WorkerPool.shared.submit { [self] in
      do throws(BlockError) {
        try perform(request, ticket)
        finish(request, started)
        queue.push(BlockCompletion(tag: tag, code: 0))
      } catch {
        switch settle(request, error, tag, queue, started) {
        case .pending: break
        case .done: queue.push(BlockCompletion(tag: tag, code: 0))
        case .failed(let code): queue.push(BlockCompletion(tag: tag, code: code))
        }
      }
    }
  }

  // MARK: Blocking

  /// Reads. Waits; not for a guest's requests, which `submit` does with the policy for errors. Throws also `ENOMEDIUM`.
  package func read(_ offset: UInt64, into target: IOVector) throws(BlockError) {
    try run(.read(offset, into: target))
  }

  package func write(
    _ offset: UInt64, from source: IOVector, _ flags: WriteFlags = []
  ) throws(BlockError) {
    try run(.write(offset, from: source, flags))
  }

  package func writeZeroes(
    _ offset: UInt64, _ count: UInt64, _ flags: WriteFlags = []
  ) throws(BlockError) {
    try run(.writeZeroes(offset, count, flags))
  }

  package func discard(_ offset: UInt64, _ count: UInt64) throws(BlockError) {
    try run(.discard(offset, count))
  }

  package func flush() throws(BlockError) { try run(.flush()) }

  /// Does a request on the calling thread, waiting for limits and drains. Throws its failure, counted and not judged: see `judge`.
  package func run(_ request: BlockRequest) throws(BlockError) {
    let started = HostClock.monotonic
    while true {
      switch enter(request, nil) {
      case .held:
        waitForDrain()
      case .refused(let error): throw error
      case .open(let ticket):
        if request.kind != .flush {
          ticket.group?.waitToStart(isWrite: request.kind != .read, bytes: request.count)
        }
        do throws(BlockError) {
          try perform(request, ticket)
        } catch {
          fail(request, started)
          throw error
        }
        finish(request, started)
        return
      }
    }
  }

  /// Changes the disk's size; the device hears of it. Throws.
  package func resize(
    to length: UInt64, _ preallocation: Preallocation = .off
  ) throws(BlockError) {
    guard let node else { throw BlockError(ENOMEDIUM, "No medium inserted") }
    beginDrain()
    defer { endDrain() }
    try node.truncate(to: length, preallocation)
    device?.resized()
  }

  /// What the policy says about a failure of a request that was made with `run`: tells the handler. For `.stop` the device tries again when the machine goes on.
  package func judge(_ error: BlockError, isRead: Bool) -> BlockErrorAction {
    let (action, handler, node) = state.withLock { state in
      let policy = isRead ? state.onReadError : state.onWriteError
      let action = policy.action(for: error.code)
      if action == .stop, state.tracksIOStatus, state.ioStatus == .ok {
        state.ioStatus = error.code == ENOSPC ? .noSpace : .failed
      }
      return (action, state.errorHandler, state.node?.name)
    }
    handler?(
      BlockIOError(device: name, nodeName: node, isRead: isRead, action: action, error: error))
    return action
  }

  // MARK: -

  private func enter(_ request: BlockRequest, _ held: Held?) -> Entrance {
    state.withLock { state in
      if state.drains > 0 {
        if let held { state.held.append(held) }
        return .held
      }
      guard let node = state.node else {
        return .refused(BlockError(ENOMEDIUM, "No medium found"))
      }
      if request.kind != .flush {
        let (end, overflow) = request.offset.addingReportingOverflow(request.count)
        if overflow || end > node.length {
          countInvalid(request, &state)
          return .refused(BlockError(EIO, "Input/output error"))
        }
        if request.kind != .read, node.isReadOnly {
          countInvalid(request, &state)
          return .refused(BlockError(EPERM, "Operation not permitted"))
        }
      }
      state.inFlight += 1
      return .open(
        Ticket(
          node: node, detectZeroes: state.detectZeroes, unmaps: state.unmaps, group: state.group,
          isWriteThrough: !state.hasWriteCache))
    }
  }

  /// Of several made one each is counted when it is refused alone.
  private func countInvalid(_ request: BlockRequest, _ state: inout State) {
    guard request.parts == 1 else { return }
    state.statistics.invalid(request.access, now: HostClock.monotonic)
  }

  private func perform(_ request: BlockRequest, _ ticket: Ticket) throws(BlockError) {
    var flags = request.flags
    if ticket.isWriteThrough { flags.insert(.forceUnitAccess) }
    switch request.kind {
    case .read: try ticket.node.read(request.offset, into: request.vector)
    case .write:
      if ticket.detectZeroes != .off, request.vector.isZero {
        if ticket.detectZeroes == .unmap { flags.insert(.mayUnmap) }
        try ticket.node.writeZeroes(request.offset, request.count, flags)
      } else {
        try ticket.node.write(request.offset, from: request.vector, flags)
      }
    case .writeZeroes:
      if !ticket.unmaps { flags.remove(.mayUnmap) }
      try ticket.node.writeZeroes(request.offset, request.count, flags)
    case .discard:
      guard ticket.unmaps else { return }
      do throws(BlockError) {
        try ticket.node.discard(request.offset, request.count)
      } catch {
        if error.code != ENOTSUP { throw error }
      }
    case .flush: try ticket.node.flush()
    }
  }

  private func finish(_ request: BlockRequest, _ started: Int64) {
    let now = HostClock.monotonic
    let mustWake = state.withLock { state in
      state.statistics.done(
        request.access, bytes: request.kind == .flush ? 0 : request.count, parts: request.parts,
        started: started, now: now)
      leave(&state)
      return state.drains > 0
    }
    if mustWake { wakeDrain() }
  }

  private func fail(_ request: BlockRequest, _ started: Int64) {
    let now = HostClock.monotonic
    let mustWake = state.withLock { state in
      state.statistics.failed(request.access, started: started, now: now)
      leave(&state)
      return state.drains > 0
    }
    if mustWake { wakeDrain() }
  }

  /// One of several requests that the device has made one of failed: each is done alone, so that each has its own end. They start, or are held,
  /// before whoever drains sees the last request end.
  private func divide(_ tag: UInt64, _ queue: BlockCompletionQueue) {
    for part in queue.parts(of: tag) { resubmit(part.request, part.tag, queue) }
    endFlight()
  }

  /// A guest's request failed: the policy decides.
  private func settle(
    _ request: BlockRequest, _ error: BlockError, _ tag: UInt64, _ queue: BlockCompletionQueue,
    _ started: Int64
  ) -> BlockOutcome {
    if request.parts > 1 {
      divide(tag, queue)
      return .pending
    }
    let action = judge(error, isRead: request.kind == .read)
    switch action {
    case .ignore:
      finish(request, started)
      return .done
    case .report:
      fail(request, started)
      return .failed(error.code)
    case .stop:
      let now = HostClock.monotonic
      let mustWake = state.withLock { state in
        state.statistics.failed(request.access, started: started, now: now)
        state.parked.append(Held(request: request, tag: tag, queue: queue, started: started))
        leave(&state)
        return state.drains > 0
      }
      if mustWake { wakeDrain() }
      return .pending
    }
  }
}
