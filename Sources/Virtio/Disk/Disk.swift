package import Block
package import Host
import Shm
import Synchronization

/// The block device (virtio 1.1, 5.2), `virtio-blk`.
///
/// A driver's notification is served on its vCPU's thread, or on the I/O thread that the user chose: what the host has cached is read there
/// and then, and small writes are made there as long as the host takes them quickly; all else ends on a worker. What ends together is told
/// together.
package final class Disk: VirtioDevice, BlockDeviceOperations {
  /// One queue: requests in flight by number, and who serves it.
  private struct Lane: Sendable {
    var requests: [DiskRequest] = []
    var free: [Int] = []
    /// Somebody takes elements; others leave `isWanted` behind.
    var isServed = false
    var isWanted = false
    /// How many resets are under way: nothing is taken meanwhile, whatever other vCPUs do.
    var resets = 0
    /// Counts resets.
    var epoch: UInt32 = 0

    /// Takes the requests apart that are one by the name of `tag`: calls `body` with the number of each. False, and nothing is touched, when a
    /// reset came first.
    mutating func separate(_ tag: UInt64, _ body: (inout Lane, Int) -> Void) -> Bool {
      guard tag >> 32 == UInt64(epoch) else { return false }
      var next = Int(tag & 0xFFFF_FFFF)
      while next >= 0 {
        let number = next
        next = requests[number].next
        requests[number].next = -1
        body(&self, number)
      }
      return true
    }

    /// The request with the memory of all that are one; the room for it is the first one's, and used again.
    mutating func joined(_ run: DiskRun) -> BlockRequest {
      requests[run.head].joined.removeAll()
      var number = run.head
      while number >= 0 {
        requests[run.head].joined.append(contentsOf: requests[number].vector)
        number = requests[number].next
      }
      return run.whole(requests[run.head].joined)
    }
  }
  private final class Slot: Sendable {
    let lane = Mutex(Lane())
    /// Moves when nobody serves any more.
    let rest = WaitWord()
    let completions: BlockCompletionQueue
    /// A turn of the I/O thread is on its way; a guest that notifies without end queues one.
    let isPosted = Atomic<Bool>(false)
    init(_ completions: BlockCompletionQueue) { self.completions = completions }
  }

  /// Nanoseconds that one notification may keep its thread busy with writes.
  private static let writeBudget: Int64 = 400_000
  /// Writes of more bytes than this always go to a worker.
  private static let longestWrite = 128 << 10
  /// After a write that took too long so many go to workers: few, for the host may have given the processor to somebody else meanwhile, and
  /// ever more when it happens again within `trial` writes.
  private static let penalties = (first: 8, most: 512)
  private static let trial = 64

  package let backend: BlockBackend
  package let settings: DiskSettings
  private let thread: IOThread?
  /// The cache's mode while no driver has chosen another.
  private let hadWriteCache: Bool
  private let slots = Mutex<[Slot]>([])
  private struct Link { weak var transport: (any VirtioTransport)? }
  private let link = Mutex(Link())
  /// Writes that must go to workers before one is tried here again.
  private let slowWrites = Atomic<Int>(0)
  /// How many were made here since one took too long, and what that one has cost.
  private let quickWrites = Atomic<Int>(Disk.trial)
  private let penalty = Atomic<Int>(0)

  package init(_ backend: BlockBackend, _ settings: DiskSettings, thread: IOThread? = nil) {
    self.backend = backend
    self.settings = settings
    self.thread = thread
    hadWriteCache = backend.hasWriteCache
    let made = (0..<Int(settings.queueCount)).map { index in
      Slot(
        BlockCompletionQueue(
          on: thread, divide: { [weak self] tag in self?.divide(index, tag) ?? [] }
        ) { [weak self] completions in
          self?.completed(index, completions)
        })
    }
    slots.withLock { $0 = made }
  }

  /// Connects the device with what it is reached by.
  package func attach(to transport: any VirtioTransport) {
    link.withLock { $0.transport = transport }
  }

  private var transport: (any VirtioTransport)? { link.withLock { $0.transport } }
  private func slot(_ index: Int) -> Slot? {
    slots.withLock { $0.indices.contains(index) ? $0[index] : nil }
  }

  // MARK: - VirtioDevice

  package var number: UInt16 { 2 }
  package var offeredFeatures: UInt64 {
    settings.features(isReadOnly: backend.isReadOnly, hasWriteCache: backend.hasWriteCache)
  }
  package var queueSizes: [UInt16] {
    [UInt16](repeating: settings.queueSize, count: Int(settings.queueCount))
  }
  package var configuration: [UInt8] {
    settings.configuration(size: backend.length, hasWriteCache: backend.hasWriteCache)
  }

  package func writeConfiguration(_ offset: Int, _ bytes: [UInt8]) {
    let at = DiskSettings.cacheOffset - offset
    guard settings.canChangeCache, bytes.indices.contains(at) else { return }
    backend.hasWriteCache = bytes[at] & 1 != 0
  }

  package func start(_ features: UInt64) {
    // A driver that cannot flush must not need to (5.2.5.1).
    if features & DiskSettings.Feature.configurableCache == 0 {
      backend.hasWriteCache = features & DiskSettings.Feature.flush != 0
    }
  }

  package func notified(_ queue: Int) {
    if let thread, !thread.isCurrent {
      guard let slot = slot(queue),
        !slot.isPosted.exchange(true, ordering: .acquiringAndReleasing)
      else { return }
      thread.post { [weak self] in
        slot.isPosted.store(false, ordering: .releasing)
        self?.serve(queue)
      }
    } else {
      serve(queue)
    }
  }

  /// Waits until nothing of before reads or writes the guest's memory any more.
  package func reset() {
    let slots = slots.withLock { $0 }
    for slot in slots { slot.lane.withLock { $0.resets += 1 } }
    for slot in slots {
      while true {
        let seen = slot.rest.value
        if slot.lane.withLock({ !$0.isServed }) { break }
        slot.rest.wait(while: seen, nanoseconds: 10_000_000)
      }
    }
    let isBusy = slots.contains { $0.lane.withLock { $0.free.count < $0.requests.count } }
    if isBusy {
      backend.beginDrain()
      for slot in slots { backend.cancelParked(for: slot.completions) }
      backend.endDrain()
    }
    for slot in slots {
      slot.lane.withLock { lane in
        lane.epoch &+= 1
        for number in lane.requests.indices {
          transport?.memory.release(&lane.requests[number].pins)
          lane.requests[number].next = -1
        }
        lane.free = Array(lane.requests.indices)
        lane.isWanted = false
        lane.resets -= 1
      }
    }
    backend.hasWriteCache = hadWriteCache
  }

  // MARK: - BlockDeviceOperations

  package func resized() { transport?.configurationChanged() }

  // MARK: - Serving

  private func serve(_ index: Int) {
    guard let slot = slot(index), let transport else { return }
    let isMine = slot.lane.withLock { lane in
      guard lane.resets == 0 else { return false }
      lane.isWanted = lane.isServed
      if lane.isServed { return false }
      lane.isServed = true
      return true
    }
    guard isMine else { return }
    let deadline = HostClock.monotonic &+ Disk.writeBudget
    while true {
      _ = transport.setPolled(index, true)
      let hasEnded = serveAll(slot, index, transport, deadline)
      if hasEnded { transport.notifyDriver(index) }
      if transport.setPolled(index, false) { continue }
      let goesOn = slot.lane.withLock { lane in
        lane.isServed = lane.isWanted && lane.resets == 0
        lane.isWanted = false
        return lane.isServed
      }
      if !goesOn { break }
    }
    slot.rest.advance()
  }

  /// Takes the next element into a free request; its number.
  private func take(_ slot: Slot, _ index: Int, _ transport: any VirtioTransport) -> Int? {
    slot.lane.withLock { lane in
      let number: Int
      if let last = lane.free.last {
        number = last
      } else {
        number = lane.requests.count
        lane.requests.append(DiskRequest())
        lane.free.append(number)
      }
      guard transport.pop(index, into: &lane.requests[number].element) else { return nil }
      lane.free.removeLast()
      return number
    }
  }

  private enum Begun {
    case request(BlockRequest)
    /// Over, with a status and so many bytes written for the driver.
    case over(UInt8, UInt32)
    case broken(String)
  }

  /// Starts all that the driver offers; true when some of it is over.
  private func serveAll(
    _ slot: Slot, _ index: Int, _ transport: any VirtioTransport, _ deadline: Int64
  ) -> Bool {
    let memory = transport.memory
    // Whoever has pinned pages of several nodes must not wait for those of another request.
    let merges = settings.mergesRequests && !memory.isShared
    var hasEnded = false
    var run: DiskRun?
    func submit(_ run: DiskRun) {
      if self.submit(run, slot, index, transport, memory, deadline) { hasEnded = true }
    }
    while let number = take(slot, index, transport) {
      let (begun, epoch) = slot.lane.withLock { lane in
        (prepare(&lane.requests[number], memory), lane.epoch)
      }
      if case .request(let request) = begun, merges, DiskRun.canHave(request.kind) {
        let last = run?.last ?? number
        if run?.add(request, number) == true {
          slot.lane.withLock { $0.requests[last].next = number }
          continue
        }
        if let run { submit(run) }
        run = DiskRun(request, number)
        continue
      }
      if let before = run { submit(before) }
      run = nil
      switch begun {
      case .request(let request): submit(DiskRun(request, number))
      case .over(let status, let written):
        end(slot, Disk.tag(epoch, number), index, transport, memory, status, written)
        hasEnded = true
      case .broken(let reason):
        slot.lane.withLock { lane in
          memory.release(&lane.requests[number].pins)
          lane.free.append(number)
        }
        transport.fail(reason)
      }
    }
    if let run { submit(run) }
    return hasEnded
  }

  private static func tag(_ epoch: UInt32, _ number: Int) -> UInt64 {
    UInt64(epoch) << 32 | UInt64(number)
  }

  /// Starts a request; true when it is over.
  private func submit(
    _ run: DiskRun, _ slot: Slot, _ index: Int, _ transport: any VirtioTransport,
    _ memory: GuestMemory, _ deadline: Int64
  ) -> Bool {
    let (request, tag) = slot.lane.withLock { lane in
      (run.isMerged ? lane.joined(run) : run.request, Disk.tag(lane.epoch, run.head))
    }
    let isQuick = mayWriteHere(request, deadline)
    let started = isQuick ? HostClock.monotonic : 0
    let outcome = backend.submit(
      request, tag: tag, to: slot.completions, mayBlock: isQuick)
    if isQuick { judgeWrite(HostClock.monotonic &- started) }
    switch outcome {
    case .pending: return false
    case .done: end(slot, tag, index, transport, memory, DiskRequest.Status.ok, nil)
    case .failed: end(slot, tag, index, transport, memory, DiskRequest.Status.failed, 1)
    }
    return true
  }

  /// The requests that were made one, each alone again.
  private func divide(_ index: Int, _ tag: UInt64) -> [BlockRequestPart] {
    guard let slot = slot(index) else { return [] }
    return slot.lane.withLock { lane in
      var parts: [BlockRequestPart] = []
      _ = lane.separate(tag) { lane, number in
        parts.append(
          BlockRequestPart(
            lane.requests[number].transfer, tag: Disk.tag(lane.epoch, number)))
      }
      return parts
    }
  }

  /// Decides where the next writes are made after one that took so long here.
  private func judgeWrite(_ nanoseconds: Int64) {
    let quick = quickWrites.load(ordering: .relaxed)
    guard nanoseconds > Disk.writeBudget else {
      if quick < Disk.trial { quickWrites.store(quick + 1, ordering: .relaxed) }
      return
    }
    let last = penalty.load(ordering: .relaxed)
    let next = quick < Disk.trial ? min(last * 4, Disk.penalties.most) : Disk.penalties.first
    penalty.store(next, ordering: .relaxed)
    quickWrites.store(0, ordering: .relaxed)
    slowWrites.store(next, ordering: .relaxed)
  }

  /// Whether a write is small, and the host has been quick lately.
  private func mayWriteHere(_ request: BlockRequest, _ deadline: Int64) -> Bool {
    guard request.kind == .write, request.count <= Disk.longestWrite, backend.hasWriteCache else {
      return false
    }
    let slow = slowWrites.load(ordering: .relaxed)
    if slow > 0 {
      slowWrites.store(slow - 1, ordering: .relaxed)
      return false
    }
    return HostClock.monotonic < deadline
  }

  /// Makes a request to the disk of what the driver wants.
  private func prepare(_ request: inout DiskRequest, _ memory: GuestMemory) -> Begun {
    if let reason = request.parse(memory) { return .broken(reason) }
    request.vector.removeAll()
    switch request.kind {
    case DiskRequest.Kind.read:
      guard isShort(request.inCount), isWhole(request.offset, request.inCount) else {
        return invalid(.read)
      }
      guard
        memory.append(
          request.element.writable, 0, request.inCount, for: .write, to: &request.vector,
          pinning: &request.pins)
      else { return .broken("virtio-blk request data is not in memory") }
      return .request(request.transfer)
    case DiskRequest.Kind.write:
      guard isShort(request.outCount), isWhole(request.offset, request.outCount) else {
        return invalid(.write)
      }
      guard
        memory.append(
          request.element.readable, DiskRequest.headerSize, request.outCount, for: .read,
          to: &request.vector, pinning: &request.pins)
      else { return .broken("virtio-blk request data is not in memory") }
      return .request(request.transfer)
    case DiskRequest.Kind.flush: return .request(.flush())
    case DiskRequest.Kind.identify:
      var text = Array(settings.serial.utf8.prefix(DiskRequest.identitySize))
      text += [UInt8](repeating: 0, count: DiskRequest.identitySize - text.count)
      let count = Int(min(request.inCount, UInt64(text.count)))
      guard let done = memory.scatter(Array(text[..<count]), to: request.element.writable) else {
        return .broken("virtio-blk request data is not in memory")
      }
      return .over(DiskRequest.Status.ok, UInt32(done + 1))
    case DiskRequest.Kind.discard where settings.canDiscard,
      DiskRequest.Kind.writeZeroes where settings.canWriteZeroes:
      return prepareRange(&request, memory)
    default: return .over(DiskRequest.Status.unsupported, 1)
    }
  }

  private func prepareRange(_ request: inout DiskRequest, _ memory: GuestMemory) -> Begun {
    guard let segment = request.segment(memory) else {
      return .over(DiskRequest.Status.unsupported, 1)
    }
    let zeroes = request.kind == DiskRequest.Kind.writeZeroes
    let limit = zeroes ? settings.maximumWriteZeroes : settings.maximumDiscard
    // Bit 0, for zeroes only: the space may be given back.
    guard segment.flags & ~(zeroes ? 1 : 0) == 0 else {
      return .over(DiskRequest.Status.unsupported, 1)
    }
    let (offset, overflow) = segment.sector.multipliedReportingOverflow(by: 512)
    let count = UInt64(segment.count) * 512
    guard !overflow, segment.count <= limit, isWhole(offset, count) else {
      return invalid(zeroes ? .write : .unmap)
    }
    guard count > 0 else { return .over(DiskRequest.Status.ok, 1) }
    if zeroes {
      return .request(.writeZeroes(offset, count, segment.flags & 1 != 0 ? .mayUnmap : []))
    }
    return .request(.discard(offset, count))
  }

  private func invalid(_ access: BlockAccess) -> Begun {
    backend.noteInvalid(access)
    return .over(DiskRequest.Status.failed, 1)
  }

  /// Whether one request may move so much, as with QEMU: a reset waits for it.
  private func isShort(_ count: UInt64) -> Bool { count >> 9 <= UInt64(Int32.max) >> 9 }

  /// Whether the bytes are whole blocks, on the disk.
  private func isWhole(_ offset: UInt64, _ count: UInt64) -> Bool {
    let mask = UInt64(settings.logicalBlockSize) - 1
    let (end, overflow) = offset.addingReportingOverflow(count)
    return (offset | count) & mask == 0 && !overflow && end <= backend.length
  }

  /// Gives a request, and all that were made one with it, back to the driver, which is told later. `written` nil: all that the driver has
  /// room for. False, and nothing is touched, when a reset came first.
  @discardableResult
  private func end(
    _ slot: Slot, _ tag: UInt64, _ index: Int, _ transport: any VirtioTransport,
    _ memory: GuestMemory, _ status: UInt8, _ written: UInt32?
  ) -> Bool {
    slot.lane.withLock { lane in
      lane.separate(tag) { lane, number in
        memory.release(&lane.requests[number].pins)
        let request = lane.requests[number]
        if request.kind == DiskRequest.Kind.read, written == nil {
          memory.noteWrites(request.element.writable)
        }
        if memory.store(request.statusAddress, status) {
          transport.push(
            index, request.element,
            written: written ?? UInt32(clamping: request.element.writableLength))
        } else {
          transport.fail("virtio-blk request status is not in memory")
        }
        lane.free.append(number)
      }
    }
  }

  /// Requests that had to wait have ended.
  private func completed(_ index: Int, _ completions: [BlockCompletion]) {
    guard let slot = slot(index), let transport else { return }
    let memory = transport.memory
    var hasEnded = false
    for completion in completions {
      let isOK = completion.code == 0
      let isOurs = end(
        slot, completion.tag, index, transport, memory,
        isOK ? DiskRequest.Status.ok : DiskRequest.Status.failed, isOK ? nil : 1)
      if isOurs { hasEnded = true }
    }
    if hasEnded { transport.notifyDriver(index) }
  }
}
