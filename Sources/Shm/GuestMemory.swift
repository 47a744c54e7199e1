import Glibc
import Host
package import Synchronization

/// One stretch of guest-physical addresses that a block of RAM or ROM answers.
package struct MemorySlot: Sendable {
  package var guest: GuestAddress
  /// Bytes; a multiple of the page size.
  package var size: UInt64
  package var block: RAMBlock
  /// Where in the block the stretch begins; a multiple of the page size.
  package var offset: UInt64
  /// The guest reads and executes it; its writes go to the bus in place of the memory.
  package var isReadOnly: Bool

  package init(
    guest: GuestAddress, size: UInt64, block: RAMBlock, offset: UInt64 = 0, isReadOnly: Bool = false
  ) {
    self.guest = guest
    self.size = size
    self.block = block
    self.offset = offset
    self.isReadOnly = isReadOnly
  }

  /// The first address behind it.
  package var end: UInt64 { guest.rawValue &+ size }
}

/// The guest's RAM and ROM by guest-physical address.
///
/// Reading needs no lock: slots live in a flat table of atomics under a sequence counter. Changing them (firmware
/// shadowing, hot plug) takes a mutex and tells the accelerators. Accesses that no slot covers are answered with nil or false:
/// what lies there is a device's, or nothing.
@safe package final class GuestMemory: Sendable {
  /// Most slots at a time.
  package static let capacity = 64

  private struct Entry: ~Copyable {
    let start = Atomic<UInt64>(0)
    let end = Atomic<UInt64>(0)
    let host = Atomic<UInt>(0)
    let flags = Atomic<UInt>(0)
    let readOnly = Atomic<Bool>(false)
  }
  // SAFETY: allocated once, freed in deinit; all fields are atomics.
  nonisolated(unsafe) private let table: UnsafeMutablePointer<Entry>
  private let count = Atomic<Int>(0)
  private let sequence = Atomic<UInt32>(0)

  private struct Configuration {
    var slots: [MemorySlot] = []
    var blocks: [RAMBlock] = []
    var observers: [@Sendable (_ slots: [MemorySlot]) -> Void] = []
  }
  private let configuration = Mutex(Configuration())
  // In a struct: a bare closure that is read out of a generic `Mutex` and put back is wrapped once more each time.
  private struct CodeObserver: Sendable { let call: @Sendable (GuestAddress, Int) -> Void }
  private let codeObserver = Mutex<CodeObserver?>(nil)

  // Rights of this node to pages (PageRights.swift).
  private struct Rights: Sendable {
    /// All that there were, the present one last: who uses one counts no references.
    var policies: [PolicyHolder] = []
    var observers: [@Sendable (GuestAddress, Int, PageRight) -> Void] = []
  }
  private let rights = Mutex(Rights())
  private final class PolicyHolder: Sendable {
    let policy: any PageRightsPolicy
    init(_ policy: any PageRightsPolicy) { self.policy = policy }
  }
  /// The address of the present holder; 0: none.
  private let holder = Atomic<UInt>(0)
  let hasPolicy = Atomic<Bool>(false)
  /// Asks an engine whether the access is done for which a page was opened.
  private struct Progress: Sendable { let call: @Sendable (GuestAddress) -> PageUse }
  private let progressObserver = Mutex<Progress?>(nil)
  /// The engine tells by `progress` when a page may go, not by `settle`.
  let isObserved = Atomic<Bool>(false)
  private let accesses = AccessCounts()
  private let sharedEngines = Mutex<SharedEngines?>(nil)
  /// One revocation at a time waits for `accesses`.
  private let revocation = Mutex(())

  package init() {
    unsafe table = UnsafeMutablePointer<Entry>.allocate(capacity: GuestMemory.capacity)
    for index in 0..<GuestMemory.capacity {
      unsafe (table + index).initialize(to: Entry())
    }
  }

  deinit {
    unsafe table.deinitialize(count: GuestMemory.capacity)
    unsafe table.deallocate()
  }

  // MARK: - Layout

  /// The slots, by address.
  package var slots: [MemorySlot] { configuration.withLock { $0.slots } }

  /// Replaces all slots; they must not overlap, and there are at most `capacity`. Tells the observers before it returns.
  ///
  /// Blocks once used stay alive as long as this object, so that a pointer taken before a change stays valid memory.
  package func setSlots(_ slots: [MemorySlot]) {
    let sorted = Array(slots.sorted { $0.guest < $1.guest }.prefix(GuestMemory.capacity))
    let observers = configuration.withLock { state in
      state.slots = sorted
      for slot in sorted where !state.blocks.contains(where: { $0 === slot.block }) {
        state.blocks.append(slot.block)
      }
      publish(sorted)
      return state.observers
    }
    for observer in observers { observer(sorted) }
  }

  /// Calls `observer` with all slots now and after each change, on the thread that made it.
  package func observeSlots(_ observer: @escaping @Sendable (_ slots: [MemorySlot]) -> Void) {
    let slots = configuration.withLock { state in
      state.observers.append(observer)
      return state.slots
    }
    observer(slots)
  }

  /// Whom to tell when someone other than a vCPU writes to pages that hold decoded code (address, length in bytes).
  package func observeCodeWrites(_ observer: @escaping @Sendable (GuestAddress, Int) -> Void) {
    codeObserver.withLock { $0 = CodeObserver(call: observer) }
  }

  /// What software CPUs of other processes of the machine share with those of this one; set before the accelerator makes its machine.
  package var engines: SharedEngines? {
    get { sharedEngines.withLock { $0 } }
    set { sharedEngines.withLock { $0 = newValue } }
  }

  private func publish(_ slots: [MemorySlot]) {
    sequence.wrappingAdd(1, ordering: .acquiringAndReleasing)
    // Largest first: nearly every lookup ends at the first entry.
    var index = 0
    for slot in slots.sorted(by: { $0.size > $1.size }) {
      let host = unsafe UInt(bitPattern: slot.block.base) &+ UInt(slot.offset)
      let page = Int(slot.offset / GuestAddress.pageSize)
      let flags = unsafe UInt(bitPattern: slot.block.pageFlags + page)
      unsafe table[index].start.store(slot.guest.rawValue, ordering: .releasing)
      unsafe table[index].end.store(slot.end, ordering: .releasing)
      unsafe table[index].host.store(host, ordering: .releasing)
      unsafe table[index].flags.store(flags, ordering: .releasing)
      unsafe table[index].readOnly.store(slot.isReadOnly, ordering: .releasing)
      index += 1
    }
    count.store(index, ordering: .releasing)
    sequence.wrappingAdd(1, ordering: .acquiringAndReleasing)
  }

  // MARK: - Lookup

  /// Host memory behind a guest address.
  @unsafe package struct Translation {
    /// The byte at the address asked for.
    package let host: UnsafeMutableRawPointer
    /// How many bytes from there belong to the same slot.
    package let length: UInt64
    /// Flags of the page that holds the byte; those of the next pages follow.
    package let flags: UnsafeMutablePointer<Atomic<UInt8>>
    package let isReadOnly: Bool
  }

  /// Finds the RAM or ROM at `address`; nil when there is none. Lock-free, any thread, no allocation.
  package func translate(_ address: GuestAddress) -> Translation? {
    let wanted = address.rawValue
    while true {
      let before = sequence.load(ordering: .acquiring)
      if before & 1 != 0 { continue }
      var found: Translation?
      let used = count.load(ordering: .acquiring)
      for index in 0..<used {
        let start = unsafe table[index].start.load(ordering: .acquiring)
        let end = unsafe table[index].end.load(ordering: .acquiring)
        guard wanted >= start, wanted < end else { continue }
        let offset = wanted &- start
        let base = unsafe table[index].host.load(ordering: .acquiring)
        let flags = unsafe table[index].flags.load(ordering: .acquiring)
        let page = UInt(offset / GuestAddress.pageSize)
        // SAFETY: both were published together with the bounds checked above; blocks are never unmapped before `self` goes.
        if let host = unsafe UnsafeMutableRawPointer(bitPattern: base &+ UInt(offset)),
          let flagged = unsafe UnsafeMutablePointer<Atomic<UInt8>>(bitPattern: flags &+ page)
        {
          unsafe found = Translation(
            host: host, length: end &- wanted, flags: flagged,
            isReadOnly: table[index].readOnly.load(ordering: .acquiring))
        }
        break
      }
      atomicMemoryFence(ordering: .acquiring)
      if sequence.load(ordering: .relaxed) == before { return unsafe found }
    }
  }

  // MARK: - Accesses of devices, loaders and monitors

  /// Whether `length` bytes from `address` are RAM or ROM throughout.
  package func contains(_ address: GuestAddress, length: UInt64) -> Bool {
    var at = address
    var left = length
    while left > 0 {
      guard let piece = unsafe translate(at) else { return false }
      let step = unsafe min(left, piece.length)
      at = at + step
      left &-= step
    }
    return true
  }

  /// The bytes at `address`; nil unless all of them are RAM or ROM.
  package func read(_ address: GuestAddress, count length: Int) -> [UInt8]? {
    guard length >= 0, contains(address, length: UInt64(length)) else { return nil }
    var bytes = [UInt8](repeating: 0, count: length)
    return read(address, into: &bytes) ? bytes : nil
  }

  /// Fills `bytes` from `address`; false unless all of it is RAM or ROM.
  package func read(_ address: GuestAddress, into bytes: inout [UInt8]) -> Bool {
    let length = bytes.count
    var done = 0
    while done < length {
      guard let piece = unsafe translate(address + UInt64(done)) else { return false }
      var step = unsafe Int(min(UInt64(length - done), piece.length))
      step = within(address + UInt64(done), step)
      // SAFETY: `step` is within both the slot and the array.
      let isRead: Void? = withRight(.read, address + UInt64(done), step) {
        unsafe bytes.withUnsafeMutableBytes {
          unsafe ($0.baseAddress.unsafelyUnwrapped + done).copyMemory(
            from: piece.host, byteCount: step)
        }
      }
      if isRead == nil { return false }
      done += step
    }
    return true
  }

  /// Stores `bytes` at `address`; false, with nothing written, unless all of it is memory.
  ///
  /// ROM is written too when `toROM` is set (loaders), else it counts as no memory.
  @discardableResult
  package func write(_ address: GuestAddress, _ bytes: [UInt8], toROM: Bool = false) -> Bool {
    var done = 0
    while done < bytes.count {
      guard let piece = unsafe translate(address + UInt64(done)),
        unsafe toROM || !piece.isReadOnly
      else { return false }
      done += unsafe Int(min(UInt64(bytes.count - done), piece.length))
    }
    done = 0
    while done < bytes.count {
      guard let piece = unsafe translate(address + UInt64(done)) else { return false }
      var step = unsafe Int(min(UInt64(bytes.count - done), piece.length))
      step = within(address + UInt64(done), step)
      // SAFETY: `step` is within both the slot and the array.
      let isWritten: Void? = withRight(.write, address + UInt64(done), step) {
        unsafe bytes.withUnsafeBytes {
          unsafe piece.host.copyMemory(
            from: $0.baseAddress.unsafelyUnwrapped + done, byteCount: step)
        }
      }
      if isWritten == nil { return false }
      done += step
    }
    noteWrite(address, bytes.count)
    return true
  }

  /// A little-endian integer at `address`; nil unless all of it is RAM or ROM.
  package func load<T: FixedWidthInteger & BitwiseCopyable>(
    _ address: GuestAddress, as type: T.Type = T.self
  ) -> T? {
    let width = UInt64(T.bitWidth / 8)
    guard let piece = unsafe translate(address) else { return nil }
    if unsafe piece.length >= width {
      return withRight(.read, address, Int(width)) {
        unsafe T(littleEndian: piece.host.loadUnaligned(as: T.self))
      }
    }
    guard let bytes = read(address, count: Int(width)) else { return nil }
    return bytes.reversed().reduce(0) { ($0 << 8) | T(truncatingIfNeeded: $1) }
  }

  /// Stores a little-endian integer; false unless all of it is RAM.
  @discardableResult
  package func store<T: FixedWidthInteger & BitwiseCopyable>(
    _ address: GuestAddress, _ value: T
  ) -> Bool {
    let width = T.bitWidth / 8
    if let piece = unsafe translate(address), unsafe piece.length >= UInt64(width),
      unsafe !piece.isReadOnly
    {
      let isStored: Void? = withRight(.write, address, width) {
        unsafe piece.host.storeBytes(of: value.littleEndian, as: T.self)
      }
      if isStored == nil { return false }
      noteWrite(address, width)
      return true
    }
    let bytes = (0..<width).map { UInt8(truncatingIfNeeded: value >> T($0 * 8)) }
    return write(address, bytes)
  }

  /// Gives the host back what whole pages of the range hold; they read as zero afterwards. What is not RAM is passed over.
  package func discard(_ address: GuestAddress, count: UInt64) {
    let page = GuestAddress.pageSize
    let (end, overflow) = address.rawValue.addingReportingOverflow(count)
    guard !overflow else { return }
    var at = (address.rawValue &+ page &- 1) & ~(page &- 1)
    while at < end, end - at >= page {
      guard let piece = unsafe translate(GuestAddress(at)) else {
        at &+= page
        continue
      }
      var length = min(unsafe piece.length, end - at) & ~(page - 1)
      guard length > 0 else { return }
      // Rights are had by the page.
      if hasPolicy.load(ordering: .relaxed) { length = page }
      if unsafe !piece.isReadOnly {
        let block = slots.first { $0.guest.rawValue <= at && at < $0.end }?.block
        _ = withRight(.write, GuestAddress(at), 1) {
          unsafe block?.discard(piece.host, count: Int(clamping: length))
        }
        noteWrite(GuestAddress(at), Int(clamping: length))
      }
      at &+= length
    }
  }

  /// Tells the software CPU when code was overwritten. Called by whoever writes through a `Translation` of its own.
  package func noteWrite(_ address: GuestAddress, _ length: Int) {
    guard length > 0 else { return }
    // The bytes are there before the flag is read; a vCPU sets the flag before it decodes.
    atomicMemoryFence(ordering: .sequentiallyConsistent)
    let page = GuestAddress.pageSize
    var at = address.rawValue & ~(page &- 1)
    let last = address.rawValue &+ UInt64(length) &- 1
    var touched = false
    while at <= last, !touched {
      if let piece = unsafe translate(GuestAddress(at)) {
        touched =
          unsafe piece.flags.pointee.load(ordering: .acquiring) & PageFlags.code.rawValue != 0
      }
      let next = at &+ page
      if next < at { break }
      at = next
    }
    if touched, let observer = codeObserver.withLock({ $0 }) { observer.call(address, length) }
  }

  // MARK: - Rights to pages

  /// Makes `policy` responsible for rights, before the machine runs.
  package func setRightsPolicy(_ policy: (any PageRightsPolicy)?) {
    rights.withLock { rights in
      if let policy {
        let new = PolicyHolder(policy)
        rights.policies.append(new)
        unsafe holder.store(
          UInt(bitPattern: Unmanaged.passUnretained(new).toOpaque()), ordering: .releasing)
      } else {
        holder.store(0, ordering: .releasing)
      }
    }
    hasPolicy.store(policy != nil, ordering: .sequentiallyConsistent)
  }

  /// Calls `observer` when a right to pages that follow one another is taken away, with the first page, their number and the right. When it
  /// returns, the engine that it stands for must no longer use the pages that way, and must ask (`acquire`) before it does again.
  package func observeRevocations(
    _ observer: @escaping @Sendable (GuestAddress, Int, PageRight) -> Void
  ) {
    rights.withLock { $0.observers.append(observer) }
  }

  /// Takes a right to `count` pages from `page` away from this node: `.write` leaves them readable, `.read` leaves nothing. When this returns,
  /// no vCPU and no access of a device uses them that way. Any thread but an executing vCPU's, and none that an access can wait for.
  package func revoke(_ page: GuestAddress, count: Int = 1, _ right: PageRight) {
    let flags: PageFlags = right == .read ? [.noRead, .noWrite] : .noWrite
    for number in 0..<max(count, 0) {
      guard let piece = unsafe translate(page + UInt64(number) * GuestAddress.pageSize) else {
        continue
      }
      unsafe piece.flags.pointee.bitwiseOr(flags.rawValue, ordering: .sequentiallyConsistent)
    }
    withdraw(page, count: count, right)
  }

  /// The second half of `revoke`: the flags are set already, so that who looks from here on asks the policy. Who looked before is waited for.
  func withdraw(_ page: GuestAddress, count: Int, _ right: PageRight) {
    // Accesses first: one of them may be an engine's that opens the page to a vCPU (`withRight`).
    if hasPolicy.load(ordering: .sequentiallyConsistent) {
      revocation.withLock { _ in accesses.wait() }
    }
    let observers = rights.withLock { $0.observers }
    for observer in observers { observer(page, count, right) }
  }

  /// Gives a right to the page at `page` to this node; its bytes must be in place.
  package func grant(_ page: GuestAddress, _ right: PageRight) {
    guard let piece = unsafe translate(page) else { return }
    let flags: PageFlags = right == .write ? [.noRead, .noWrite] : .noRead
    unsafe piece.flags.pointee.bitwiseAnd(~flags.rawValue, ordering: .sequentiallyConsistent)
  }

  /// After `.granted` this node has had the right to the page that holds `address`; it may be gone again, so look at the flags once more.
  /// Blocks for as long as the policy does. Call `settle` when a revocation can no longer overtake the access.
  @discardableResult
  package func acquire(_ address: GuestAddress, _ right: PageRight) -> PageAccess {
    let page = GuestAddress(address.rawValue & ~(GuestAddress.pageSize &- 1))
    if let access = withPolicy({ $0.acquire(page: page, right) }) { return access }
    grant(page, right)
    return .granted
  }

  /// See `PageRightsPolicy.settle`.
  package func settle(_ address: GuestAddress) {
    let page = GuestAddress(address.rawValue & ~(GuestAddress.pageSize &- 1))
    _ = withPolicy { $0.settle(page: page) }
  }

  /// For an engine that opens pages to its vCPUs and is not told when they have used them: `progress` answers what it knows of a page. Any
  /// thread, under locks: it does not wait, and calls nothing of the memory.
  package func observeProgress(_ progress: @escaping @Sendable (GuestAddress) -> PageUse) {
    progressObserver.withLock { $0 = Progress(call: progress) }
    isObserved.store(true, ordering: .sequentiallyConsistent)
  }

  /// What the engine answers of a page: see `observeProgress`.
  func progress(of page: GuestAddress) -> PageUse {
    progressObserver.withLock { $0 }?.call(page) ?? .unknown
  }

  /// What became of an access.
  package enum Attempt<Result> {
    case done(Result)
    case frozen
    case lost
  }

  /// As `withRight`, but tells why the right is not to be had, and leaves it to the policy when the page may go again.
  package func attempt<R>(
    _ right: PageRight, _ address: GuestAddress, _ count: Int, _ body: () -> R
  ) -> Attempt<R> {
    while true {
      let lane = accesses.begin()
      let last = address + UInt64(max(count, 1) - 1)
      if let missing = isMissing(right, address) ? address : isMissing(right, last) ? last : nil {
        accesses.end(lane)
        switch acquire(missing, right) {
        case .granted: continue
        case .frozen: return .frozen
        case .lost: return .lost
        }
      }
      let result = body()
      accesses.end(lane)
      return .done(result)
    }
  }

  /// See `PageRightsPolicy.opened`.
  package func noteOpened(_ page: GuestAddress) { policy?.opened(page: page) }

  /// Whether pages may be another node's.
  package var isShared: Bool { hasPolicy.load(ordering: .relaxed) }

  /// Asks again while the cluster is frozen, for a while, but not on the main loop. Whether the right was had.
  func patiently(_ ask: () -> PageAccess) -> Bool {
    let patience: Int64 = 2_000_000_000
    var end: Int64?
    while true {
      switch ask() {
      case .granted: return true
      case .lost: return false
      case .frozen:
        if MainLoop.isCurrent { return false }
        let now = HostClock.monotonic
        if let end, now > end { return false }
        end = end ?? now + patience
        HostClock.sleep(nanoseconds: 1_000_000)
      }
    }
  }

  /// Who is responsible for rights.
  var policy: (any PageRightsPolicy)? { withPolicy { $0 } }

  @inline(__always)
  private func withPolicy<R>(_ body: (any PageRightsPolicy) -> R) -> R? {
    let address = holder.load(ordering: .acquiring)
    guard let pointer = unsafe UnsafeRawPointer(bitPattern: address) else { return nil }
    // SAFETY: `rights` keeps all holders as long as this object lives.
    return unsafe Unmanaged<PolicyHolder>.fromOpaque(pointer)._withUnsafeGuaranteedRef {
      body($0.policy)
    }
  }

  /// At most so many bytes that one step stays in its page, where pages may be another node's.
  private func within(_ address: GuestAddress, _ count: Int) -> Int {
    if !hasPolicy.load(ordering: .relaxed) { return count }
    let page = GuestAddress.pageSize
    return min(count, Int(page &- address.rawValue & (page &- 1)))
  }

  /// Does something with the right to the one or two pages of a range of at most a page, which no revocation overtakes: an access of a device,
  /// an engine that opens the page to its vCPUs. Nil when the right is not to be had: the page is lost, or the cluster frozen.
  package func withRight<R>(
    _ right: PageRight, _ address: GuestAddress, _ count: Int, _ body: () -> R
  ) -> R? {
    if !hasPolicy.load(ordering: .relaxed) { return body() }
    var asked: GuestAddress?
    while true {
      let lane = accesses.begin()
      let last = address + UInt64(max(count, 1) - 1)
      if let missing = isMissing(right, address) ? address : isMissing(right, last) ? last : nil {
        accesses.end(lane)
        guard patiently({ acquire(missing, right) }) else { return nil }
        asked = missing
        continue
      }
      let result = body()
      accesses.end(lane)
      if let asked { settle(asked) }
      return result
    }
  }

  /// Whether this node has the right to write the page at an address now.
  package func isWritable(_ address: GuestAddress) -> Bool { !isMissing(.write, address) }

  private func isMissing(_ right: PageRight, _ address: GuestAddress) -> Bool {
    guard let piece = unsafe translate(address) else { return false }
    let flag: PageFlags = right == .read ? .noRead : .noWrite
    return unsafe piece.flags.pointee.load(ordering: .sequentiallyConsistent) & flag.rawValue != 0
  }
}
