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
    /// Counts resets.
    var epoch: UInt32 = 0
  }
  private final class Slot: Sendable {
    let lane = Mutex(Lane())
    /// Moves when nobody serves any more.
    let rest = WaitWord()
    let completions: BlockCompletionQueue
    init(_ completions: BlockCompletionQueue) { self.completions = completions }
  }

  /// Nanoseconds that one notification may keep its thread busy with writes.
  private static let writeBudget: Int64 = 400_000
  /// Writes of more bytes than this always go to a worker.
  private static let longestWrite = 128 << 10
  /// After a write that took too long so many go to workers.
  private static let penalty = 256

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

  package init(_ backend: BlockBackend, _ settings: DiskSettings, thread: IOThread? = nil) {
    self.backend = backend
    self.settings = settings
    self.thread = thread
    hadWriteCache = backend.hasWriteCache
    let made = (0..<Int(settings.queueCount)).map { index in
      Slot(
        BlockCompletionQueue(on: thread) { [weak self] completions in
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
      thread.post { [weak self] in self?.serve(queue) }
    } else {
      serve(queue)
    }
  }

  /// Waits until nothing of before reads or writes the guest's memory any more.
  package func reset() {
    let slots = slots.withLock { $0 }
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
        lane.free = Array(lane.requests.indices)
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
      lane.isWanted = lane.isServed
      if lane.isServed { return false }
      lane.isServed = true
      return true
    }
    guard isMine else { return }
    let memory = transport.memory
    let deadline = HostClock.monotonic &+ Disk.writeBudget
    while true {
      _ = transport.setPolled(index, true)
      var hasEnded = false
      while let number = take(slot, index, transport) {
        if begin(slot, number, index, transport, memory, deadline) { hasEnded = true }
      }
      if hasEnded { transport.notifyDriver(index) }
      if transport.setPolled(index, false) { continue }
      let goesOn = slot.lane.withLock { lane in
        lane.isServed = lane.isWanted
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

  /// Starts a request; true when it is over.
  private func begin(
    _ slot: Slot, _ number: Int, _ index: Int, _ transport: any VirtioTransport,
    _ memory: GuestMemory, _ deadline: Int64
  ) -> Bool {
    let (begun, epoch) = slot.lane.withLock { lane in
      (prepare(&lane.requests[number], memory), lane.epoch)
    }
    switch begun {
    case .broken(let reason):
      slot.lane.withLock { $0.free.append(number) }
      transport.fail(reason)
      return false
    case .over(let status, let written):
      end(slot, number, index, transport, memory, status, written)
      return true
    case .request(let request):
      let isQuick = mayWriteHere(request, deadline)
      let started = isQuick ? HostClock.monotonic : 0
      let outcome = backend.submit(
        request, tag: UInt64(epoch) << 32 | UInt64(number), to: slot.completions, mayBlock: isQuick)
      if isQuick, HostClock.monotonic &- started > Disk.writeBudget {
        slowWrites.store(Disk.penalty, ordering: .relaxed)
      }
      switch outcome {
      case .pending: return false
      case .done: end(slot, number, index, transport, memory, DiskRequest.Status.ok, nil)
      case .failed: end(slot, number, index, transport, memory, DiskRequest.Status.failed, 1)
      }
      return true
    }
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
      guard isWhole(request.offset, request.inCount) else { return invalid(.read) }
      guard
        memory.append(
          request.element.writable, 0, request.inCount, for: .write, to: &request.vector)
      else { return .broken("virtio-blk request data is not in memory") }
      return .request(.read(request.offset, into: request.vector))
    case DiskRequest.Kind.write:
      guard isWhole(request.offset, request.outCount) else { return invalid(.write) }
      guard
        memory.append(
          request.element.readable, DiskRequest.headerSize, request.outCount, for: .read,
          to: &request.vector)
      else { return .broken("virtio-blk request data is not in memory") }
      return .request(.write(request.offset, from: request.vector))
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

  /// Whether the bytes are whole blocks, on the disk.
  private func isWhole(_ offset: UInt64, _ count: UInt64) -> Bool {
    let mask = UInt64(settings.logicalBlockSize) - 1
    let (end, overflow) = offset.addingReportingOverflow(count)
    return (offset | count) & mask == 0 && !overflow && end <= backend.length
  }

  /// Gives a request back to the driver, which is told later. `written` nil: all that the driver has room for.
  private func end(
    _ slot: Slot, _ number: Int, _ index: Int, _ transport: any VirtioTransport,
    _ memory: GuestMemory, _ status: UInt8, _ written: UInt32?
  ) {
    slot.lane.withLock { lane in
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

  /// Requests that had to wait have ended.
  private func completed(_ index: Int, _ completions: [BlockCompletion]) {
    guard let slot = slot(index), let transport else { return }
    let memory = transport.memory
    let epoch = slot.lane.withLock { $0.epoch }
    var hasEnded = false
    for completion in completions where completion.tag >> 32 == UInt64(epoch) {
      let number = Int(completion.tag & 0xFFFF_FFFF)
      let isOK = completion.code == 0
      end(
        slot, number, index, transport, memory,
        isOK ? DiskRequest.Status.ok : DiskRequest.Status.failed, isOK ? nil : 1)
      hasEnded = true
    }
    if hasEnded { transport.notifyDriver(index) }
  }
}
