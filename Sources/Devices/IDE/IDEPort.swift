import Block
package import DeviceModel
import Host
import PCI
import Shm
import Synchronization

/// A channel at its ports: locks the model, carries out what it asks for, drives the interrupt.
///
/// Registers are touched on vCPU threads. What is cached on the host is done there at once; the rest ends on a worker, which goes on
/// with the channel's next step.
package final class IDEPort: BusDevice {
  /// What is being carried out.
  private struct Operation {
    let drive: Int
    let epoch: UInt32
    let backend: BlockBackend
    let requests: [BlockRequest]
    var next = 0
    /// How the step ends when all goes well.
    let result: StepResult
    /// The bytes go on from the buffer to the guest's memory, or there.
    var pieces: [(address: GuestAddress, count: Int)] = []
    /// The guest's memory that the requests use.
    var pins = MemoryPins()
  }
  private struct State {
    var channel = IDEChannel()
    var backends: [BlockBackend?] = [nil, nil]
    var operation: Operation?
    /// Names the operation in completions.
    var tag: UInt64 = 0
    /// Requests on their way to the disk, which does not count them yet.
    var submitting = 0
    var level = false
    var trayHandlers: [(@Sendable (Bool) -> Void)?] = [nil, nil]
  }
  private let state = Mutex(State())
  /// Moves when nothing is being submitted any more.
  private let submitted = WaitWord()
  private let memory: GuestMemory
  private let line: InterruptLine
  /// Where completions come; made after `self`.
  private let queue = Mutex<BlockCompletionQueue?>(nil)

  init(_ memory: GuestMemory, _ line: InterruptLine) {
    self.memory = memory
    self.line = line
    let queue = BlockCompletionQueue(on: nil) { [weak self] completions in
      for completion in completions { self?.completed(completion) }
    }
    self.queue.withLock { $0 = queue }
  }

  // MARK: - Drives

  /// Puts a drive at place `index` of the channel.
  func attach(
    _ drive: ATADrive, _ backend: BlockBackend, at index: Int,
    trayMoved: @escaping @Sendable (Bool) -> Void
  ) {
    state.withLock { state in
      state.channel.drives[index] = drive
      state.backends[index] = backend
      state.trayHandlers[index] = trayMoved
    }
  }

  /// Looks at or changes a drive from the user's side.
  func withDrive<R: Sendable>(_ index: Int, _ body: (inout ATADrive) -> R) -> R? {
    state.withLock { state in
      guard var drive = state.channel.drives[index] else { return nil }
      let result = body(&drive)
      state.channel.drives[index] = drive
      return result
    }
  }

  /// As after power-on. What is under way is waited for.
  func reset() {
    cancel()
    act { $0.reset() }
  }

  /// Nothing of before writes into the guest's memory after this.
  private func cancel() {
    guard let backend = state.withLock({ $0.operation?.backend }) else { return }
    backend.beginDrain()
    while true {
      let seen = submitted.value
      if state.withLock({ $0.submitting == 0 }) { break }
      submitted.wait(while: seen)
    }
    if let queue = queue.withLock({ $0 }) { backend.cancelParked(for: queue) }
    state.withLock { state in
      if var pins = state.operation?.pins { memory.release(&pins) }
      state.operation = nil
      state.tag &+= 1
      state.channel.suspendStep()
    }
    backend.endDrain()
  }

  // MARK: - Registers

  package func read(_ access: BusAccess) -> UInt64 {
    let register = Int(truncatingIfNeeded: access.offset)
    if register == 0 {
      return UInt64(act { $0.read(0, width: access.width) })
    }
    var value: UInt64 = 0
    for index in 0..<access.width {
      value |= UInt64(act { $0.read((register + index) & 7) }) << UInt64(index * 8)
    }
    return value
  }

  package func write(_ access: BusAccess, _ value: UInt64) {
    let register = Int(truncatingIfNeeded: access.offset)
    if register == 0 {
      act { $0.write(0, width: access.width, UInt32(truncatingIfNeeded: value)) }
      return
    }
    for index in 0..<access.width {
      act {
        $0.write(
          (register + index) & 7, UInt32(truncatingIfNeeded: value >> UInt64(index * 8)) & 0xFF)
      }
    }
  }

  var alternateStatus: UInt8 { state.withLock { $0.channel.alternateStatus } }

  func writeControl(_ value: UInt8) {
    if act({ $0.writeControl(value) }) { cancel() }
  }

  var master: BusMaster { state.withLock { $0.channel.master } }

  func changeMaster(_ change: (inout BusMaster) -> Void) { act { change(&$0.master) } }

  func writeMasterCommand(_ value: UInt8) {
    if act({ $0.writeMasterCommand(value) }) { cancel() }
  }

  /// Touches the channel, then sees to its interrupt and to what it asks for.
  @discardableResult
  private func act<R: Sendable>(_ body: (inout IDEChannel) -> R) -> R {
    let (result, isLineStale, hasWork) = state.withLock { state in
      let result = body(&state.channel)
      let level = state.channel.interruptLevel
      let isStale = level != state.level
      state.level = level
      return (result, isStale, state.operation == nil && state.channel.hasStep)
    }
    if isLineStale { line.settle { state.withLock { $0.channel.interruptLevel } } }
    if hasWork { work() }
    return result
  }

  // MARK: - Steps

  private enum Begun {
    case nothing
    /// Over already.
    case done
    case tray(Int, Bool, (@Sendable (Bool) -> Void)?)
    case requests
  }

  /// Carries out steps until there is none or one has to wait.
  private func work() {
    while true {
      switch begin() {
      case .nothing: return
      case .done: settle()
      case .tray(let drive, let open, let handler):
        handler?(open)
        finish(drive, .done)
      case .requests: if !advance() { return }
      }
    }
  }

  private func settle() { act { _ in } }

  private func begin() -> Begun {
    state.withLock { state in
      guard state.operation == nil, let (drive, step, epoch) = state.channel.beginStep() else {
        return .nothing
      }
      if case .tray(let open) = step {
        state.tag &+= 1
        return .tray(drive, open, state.trayHandlers[drive])
      }
      guard let backend = state.backends[drive], let buffer = state.channel.drives[drive]?.buffer
      else {
        state.channel.finishStep(drive, .failed, epoch: epoch)
        return .done
      }
      var pins = MemoryPins()
      switch IDEPort.plan(step, &state.channel, buffer, memory, &pins) {
      case .over(let result):
        memory.release(&pins)
        state.channel.finishStep(drive, result, epoch: epoch)
        return .done
      case .requests(let requests, let result, let pieces):
        let cache = state.channel.drives[drive]?.isWriteCacheOn ?? true
        if backend.hasWriteCache != cache { backend.hasWriteCache = cache }
        state.tag &+= 1
        state.operation = Operation(
          drive: drive, epoch: epoch, backend: backend, requests: requests, result: result,
          pieces: pieces, pins: pins)
        return .requests
      }
    }
  }

  private enum Plan {
    case over(StepResult)
    case requests([BlockRequest], StepResult, [(address: GuestAddress, count: Int)])
  }

  private static func plan(
    _ step: DriveStep, _ channel: inout IDEChannel, _ buffer: IOBuffer, _ memory: GuestMemory,
    _ pins: inout MemoryPins
  ) -> Plan {
    switch step {
    case .transfer(let access):
      return .requests([request(access, buffer.vector(0..<access.count))], .done, [])
    case .direct(let access):
      var vector = IOVector()
      var pieces: [(address: GuestAddress, count: Int)] = []
      let found = channel.master.gather(
        access.count, toMemory: !access.isWrite, memory, into: &vector, pieces: &pieces,
        pinning: &pins)
      guard let found else { return .over(.failed) }
      if found == access.count {
        return .requests([request(access, vector)], .done, access.isWrite ? [] : pieces)
      }
      // Whole sectors of what there is room for.
      let whole = found & ~511
      guard whole > 0 else { return .over(.short) }
      var part = access
      part.count = whole
      return .requests(
        [request(part, vector.slice(0, whole))], .short, access.isWrite ? [] : pieces)
    case .buffered(let count, let toGuest):
      var vector = IOVector()
      var pieces: [(address: GuestAddress, count: Int)] = []
      let found = channel.master.gather(
        count, toMemory: toGuest, memory, into: &vector, pieces: &pieces,
        pinning: &pins)
      guard let found else { return .over(.failed) }
      if toGuest {
        vector.copy(from: buffer.vector(0..<found))
        for piece in pieces { memory.noteWrite(piece.address, piece.count) }
      } else {
        buffer.vector(0..<found).copy(from: vector)
      }
      return .over(found < count ? .short : .done)
    case .flush: return .requests([.flush()], .done, [])
    case .trim(let ranges):
      return .requests(
        ranges.map { .discard($0.lowerBound, $0.upperBound - $0.lowerBound) }, .done, [])
    case .tray: return .over(.done)
    }
  }

  private static func request(_ access: MediumAccess, _ vector: IOVector) -> BlockRequest {
    access.isWrite ? .write(access.offset, from: vector) : .read(access.offset, into: vector)
  }

  /// Submits what is left of the operation; true when it is over.
  private func advance() -> Bool {
    guard let queue = queue.withLock({ $0 }) else { return true }
    while true {
      let next: (BlockBackend, BlockRequest?, UInt64)? = state.withLock { state in
        guard let operation = state.operation else { return nil }
        let request =
          operation.next < operation.requests.count ? operation.requests[operation.next] : nil
        if request != nil { state.submitting += 1 }
        return (operation.backend, request, state.tag)
      }
      // Given up meanwhile.
      guard let (backend, request, tag) = next else { return true }
      guard let request else {
        end(nil, tag)
        return true
      }
      let outcome = backend.submit(request, tag: tag, to: queue)
      state.withLock { state in
        state.submitting -= 1
        if outcome == .done, state.tag == tag { state.operation?.next += 1 }
      }
      submitted.advance()
      switch outcome {
      case .pending: return false
      case .failed:
        end(.failed, tag)
        return true
      case .done: break
      }
    }
  }

  private func completed(_ completion: BlockCompletion) {
    let isOurs = state.withLock { state in
      guard state.tag == completion.tag, state.operation != nil else { return false }
      state.operation?.next += 1
      return true
    }
    guard isOurs else { return }
    if completion.code != 0 {
      end(.failed, completion.tag)
    } else if !advance() {
      return
    }
    work()
  }

  /// The operation is over: with its own result unless `result` says otherwise.
  private func end(_ result: StepResult?, _ tag: UInt64) {
    let operation = state.withLock { state -> Operation? in
      guard state.tag == tag else { return nil }
      let operation = state.operation
      state.operation = nil
      return operation
    }
    guard var operation else { return }
    memory.release(&operation.pins)
    for piece in operation.pieces { memory.noteWrite(piece.address, piece.count) }
    act {
      $0.finishStep(operation.drive, result ?? operation.result, epoch: operation.epoch)
    }
  }

  private func finish(_ drive: Int, _ result: StepResult) {
    act { $0.finishStep(drive, result) }
  }
}

extension IDEChannel {
  /// Whether `beginStep` may have something.
  var hasStep: Bool { !isWorking && drives.contains { $0?.step != nil } }

  /// Ends a step that was over at once.
  mutating func finishStep(_ drive: Int, _ result: StepResult) {
    finishStep(drive, result, epoch: currentEpoch)
  }
}
