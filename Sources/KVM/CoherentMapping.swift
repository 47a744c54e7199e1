import CKVM
import CLinux
package import Host
package import Shm
import Synchronization

/// Why guests cannot run on KVM with memory that several nodes have in common.
package enum CoherentMappingError: Error, Equatable, Sendable {
  case system(SystemError)
  /// The kernel lacks these features of userfaultfd.
  case missing([String])

  /// A sentence for the user, without full stop.
  package var text: String {
    switch self {
    case .system(let error):
      "cannot use userfaultfd: \(error) (it takes access to /dev/userfaultfd, or CAP_SYS_PTRACE); -accel tcg needs none"
    case .missing(let names):
      "the host's userfaultfd lacks \(names.joined(separator: ", ")); -accel tcg needs none of it"
    }
  }
}

/// Rights to pages (`PageRights`) for guests on KVM: they live in the host's page tables, by userfaultfd (distributed.md, section 7).
///
/// Each block of RAM is mapped twice: `base`, which receives, sends and serves devices, and a mapping for the guest, in which a page is present
/// only while this node may read it, and writable only while it may write it. A fault there comes to a thread `shm-fault`, which obtains the
/// right and opens the page; a revocation closes it (write protection, or taking it out of the mapping, where the page stays in its file).
package final class CoherentMapping: Sendable {
  private struct Piece: Sendable {
    /// Address of the guest's mapping and of the other, and bytes.
    var guestHost: UInt
    var host: UInt
    var size: UInt
    var guest: GuestAddress
  }

  private let memory: GuestMemory
  /// Keeps the mappings.
  private let regions: [CoherentMemory.Region]
  private let pieces: [Piece]
  private let file: FileDescriptor
  /// A page can be opened for reading only, in one step.
  private let mapsProtected: Bool
  /// The guest has one vCPU here, so a page that nobody is let go on with is used by nobody.
  private let isAlone: Bool
  private let threadCount: Int
  private let isStopped = Atomic<Bool>(false)
  private struct Server: Sendable {
    var thread: HostThread
    /// Set when it returns.
    var end: ServerEnd
  }
  private final class ServerEnd: Sendable {
    let hasEnded = Atomic<Bool>(false)
    /// The kernel's id of the thread, once it runs.
    let id = Atomic<Int64>(0)
  }
  private let servers = Mutex<[Server]>([])
  private let faults = Atomic<UInt64>(0)
  private let progress = PageProgress()
  /// There has been one; it stays rare.
  private let hasRefused = Atomic<Bool>(false)
  /// By the kernel's ids of threads.
  private let refusals = Mutex<[UInt32: Refused]>([:])

  /// How many faults came to it.
  package var faultCount: UInt64 { faults.load(ordering: .relaxed) }

  /// Maps the regions' blocks for the guest, closed. Before the accelerator makes the machine, which takes these mappings for its slots, and
  /// before the memory's policy starts. `vcpus`: of this node.
  package init(
    _ memory: GuestMemory, regions: [CoherentMemory.Region], vcpus: Int
  ) throws(CoherentMappingError) {
    self.memory = memory
    self.regions = regions
    var missing: UInt64 = 0
    var offered: UInt64 = 0
    // SAFETY: both live through the call.
    let number = unsafe goliath_userfault_open(&missing, &offered)
    if number < 0 {
      throw missing == 0
        ? .system(SystemError(call: "userfaultfd", code: -number))
        : .missing(CoherentMapping.names(missing))
    }
    file = FileDescriptor(owning: number)
    var pieces: [Piece] = []
    do throws(SystemError) {
      for region in regions {
        let guest = unsafe try region.block.mapForGuest()
        // SAFETY: parts of the block's two mappings, which live as long as it.
        unsafe goliath_small_pages(region.block.base, UInt64(region.block.size))
        unsafe goliath_small_pages(guest, UInt64(region.block.size))
        let start = unsafe guest + Int(region.offset)
        let code = unsafe goliath_userfault_register(number, start, region.size)
        if code < 0 { throw SystemError(call: "UFFDIO_REGISTER", code: -code) }
        pieces.append(
          Piece(
            guestHost: unsafe UInt(bitPattern: start),
            host: unsafe UInt(bitPattern: region.block.base) &+ UInt(region.offset),
            size: UInt(region.size), guest: region.guest))
      }
    } catch { throw .system(error) }
    self.pieces = pieces
    mapsProtected =
      pieces.first.map { piece in
        CoherentMapping.touch(piece.host)
        return goliath_userfault_maps_protected(number, UInt64(piece.guestHost)) != 0
      } ?? true
    isAlone = vcpus <= 1
    threadCount = max(1, min(vcpus, 8))
    memory.observeRevocations { [weak self] page, count, right in self?.close(page, count, right) }
    memory.observeProgress { [progress] page in progress.use(of: page) }
  }

  deinit { stop() }

  private static func names(_ features: UInt64) -> [String] {
    let known: [(bit: UInt64, name: String)] = [
      (0, "PAGEFAULT_FLAG_WP"), (5, "MISSING_SHMEM"), (10, "MINOR_SHMEM"), (11, "EXACT_ADDRESS"),
      (12, "WP_HUGETLBFS_SHMEM"),
    ]
    return known.filter { features >> $0.bit & 1 != 0 }.map(\.name)
  }

  /// Starts the threads that answer faults. Throws `SystemError` for `pthread_create`.
  package func start() throws(SystemError) {
    _ = goliath_install_kick_handler(KVMVCPU.kickSignal)
    for number in 0..<threadCount {
      let end = ServerEnd()
      let thread = try HostThread(name: "shm-fault/\(number)") { [self] in
        KVMVCPU.letKicksIn()
        end.id.store(goliath_thread_id(), ordering: .releasing)
        serve()
        end.hasEnded.store(true, ordering: .releasing)
      }
      servers.withLock { $0.append(Server(thread: thread, end: end)) }
    }
  }

  /// Ends the threads, when no vCPU runs any more.
  package func stop() {
    isStopped.store(true, ordering: .sequentiallyConsistent)
    let all = servers.withLock { servers in
      defer { servers = [] }
      return servers
    }
    for server in all {
      // Again and again: a signal may come just before the thread waits.
      while !server.end.hasEnded.load(ordering: .acquiring) {
        let id = server.end.id.load(ordering: .acquiring)
        if id != 0 { goliath_kick_thread(id, KVMVCPU.kickSignal) }
        HostClock.sleep(nanoseconds: 200_000)
      }
      server.thread.join()
    }
  }

  // MARK: - Faults

  /// One fault that the kernel tells of.
  private struct Fault {
    /// Of its page, in the guest's mapping.
    var address: UInt
    var isWrite: Bool
    var isProtected: Bool
    /// The kernel's id of the thread that waits.
    var thread: UInt32
  }

  private func serve() {
    let number = file.rawValue
    while !isStopped.load(ordering: .sequentiallyConsistent) {
      var address: UInt64 = 0
      var bits: UInt32 = 0
      var thread: UInt32 = 0
      // SAFETY: all live through the call.
      let result = unsafe goliath_userfault_next(number, &address, &bits, &thread)
      if result > 0 {
        faults.wrappingAdd(1, ordering: .relaxed)
        answer(
          Fault(
            address: UInt(address) & ~4095, isWrite: bits != 0, isProtected: bits & 2 != 0,
            thread: thread))
      } else if result < 0 {
        return
      }
    }
  }

  /// Opens the page of a fault in the guest's mapping, for as long as it takes.
  private func answer(_ fault: Fault) {
    guard let piece = pieces.first(where: { fault.address &- $0.guestHost < $0.size }) else {
      return
    }
    let offset = fault.address - piece.guestHost
    let guest = piece.guest + UInt64(offset)
    // A kernel that cannot map a page for reading only would let others of our vCPUs write there for a moment.
    let right: PageRight = fault.isWrite || !(mapsProtected || isAlone) ? .write : .read
    progress.began(guest, fault.thread)
    let outcome: GuestMemory.Attempt<Void> = memory.attempt(right, guest, 1) {
      progress.opens(guest, fault.thread)
      open(fault.address, piece.host + offset, guest, isProtected: fault.isProtected)
      memory.noteOpened(guest)
    }
    switch outcome {
    case .done:
      if hasRefused.load(ordering: .relaxed) { _ = takeRefusal(of: Int64(fault.thread)) }
    case .frozen: refuse(fault, guest, isLost: false)
    case .lost: refuse(fault, guest, isLost: true)
    }
  }

  // MARK: - What cannot be given

  /// Why a vCPU does not get a page.
  enum Refusal: Equatable, Sendable {
    /// The cluster is frozen: later, perhaps.
    case frozen
    /// Its bytes are gone.
    case lost(GuestAddress)
  }
  private struct Refused: Sendable {
    var host: UInt
    var reason: Refusal
  }

  /// Sends the vCPU out of the guest: there is no value to give to it. The page is guarded until it has come out.
  private func refuse(_ fault: Fault, _ guest: GuestAddress, isLost: Bool) {
    let reason: Refusal = isLost ? .lost(guest) : .frozen
    hasRefused.store(true, ordering: .relaxed)
    refusals.withLock {
      $0[fault.thread] = Refused(host: fault.address, reason: reason)
      _ = goliath_guard_pages(UInt64(fault.address), 4096, 1)
    }
    _ = goliath_userfault_wake(file.rawValue, UInt64(fault.address), 4096)
  }

  /// Why the thread that runs a vCPU was sent out of the guest; nil: it was not. The page is as any other again.
  func takeRefusal(of thread: Int64) -> Refusal? {
    refusals.withLock { refusals in
      guard let refused = refusals.removeValue(forKey: UInt32(truncatingIfNeeded: thread)) else {
        return nil
      }
      _ = goliath_guard_pages(UInt64(refused.host), 4096, 0)
      return refused.reason
    }
  }

  /// The calling thread runs a vCPU, whose descriptor is `descriptor`.
  func adopt(_ thread: Int64, descriptor: Int32) {
    progress.adopt(thread, PageProgress.Counter(of: descriptor))
  }

  /// Opens a page, as far as its flags allow it now. A revocation waits meanwhile.
  private func open(_ address: UInt, _ host: UInt, _ guest: GuestAddress, isProtected: Bool) {
    let number = file.rawValue
    let mayWrite = memory.isWritable(guest)
    if isProtected {
      if mayWrite {
        _ = goliath_userfault_protect(number, UInt64(address), 4096, 0)
      } else {
        _ = goliath_userfault_wake(number, UInt64(address), 4096)
      }
      return
    }
    CoherentMapping.touch(host)
    let isPlain = mayWrite || mapsProtected
    let result = goliath_userfault_map(
      number, UInt64(address), mayWrite || !isPlain ? 0 : 1, isPlain ? 1 : 0)
    if result == 0, isPlain {
      // Mapped and woken in one.
    } else {
      if result == -EEXIST, mayWrite {
        _ = goliath_userfault_protect(number, UInt64(address), 4096, 0)
      } else if !isPlain {
        _ = goliath_userfault_protect(number, UInt64(address), 4096, 1)
      }
      _ = goliath_userfault_wake(number, UInt64(address), 4096)
    }
    if mayWrite { openAround(address, host, guest) }
  }

  /// Pages behind one that was opened to be written, which this node may write as well: each fault costs the vCPU tens of microseconds. In
  /// the span that revocations wait for, as the first page.
  private func openAround(_ address: UInt, _ host: UInt, _ guest: GuestAddress) {
    guard let piece = pieces.first(where: { address &- $0.guestHost < $0.size }) else { return }
    let most = min(
      CoherentMapping.around - (address >> 12) % CoherentMapping.around,
      (piece.guestHost + piece.size - address) / 4096)
    for n in 1..<max(most, 1) {
      guard memory.isWritable(guest + UInt64(n * 4096)) else { return }
      CoherentMapping.touch(host + n * 4096)
      // One that is mapped has been opened before, and those behind it with it.
      if goliath_userfault_map(file.rawValue, UInt64(address + n * 4096), 0, 1) != 0 { return }
    }
  }

  /// Pages, and where they begin.
  private static let around: UInt = 16

  private static func touch(_ host: UInt) {
    // SAFETY: a page of a block's own mapping, which lives as long as the block.
    if let page = unsafe UnsafeRawPointer(bitPattern: host) { unsafe goliath_touch(page) }
  }

  // MARK: - Revocations

  /// Closes pages to the guest. When it returns no vCPU has them.
  private func close(_ page: GuestAddress, _ count: Int, _ right: PageRight) {
    var at = page.rawValue
    let end = page.rawValue &+ UInt64(max(count, 0)) &* GuestAddress.pageSize
    while at < end {
      guard let piece = pieces.first(where: { at &- $0.guest.rawValue < UInt64($0.size) }) else {
        at &+= GuestAddress.pageSize
        continue
      }
      let offset = at &- piece.guest.rawValue
      let length = min(end &- at, UInt64(piece.size) &- offset)
      let start = piece.guestHost + UInt(offset)
      if right == .write {
        _ = goliath_userfault_protect(file.rawValue, UInt64(start), length, 1)
      } else if let place = unsafe UnsafeMutableRawPointer(bitPattern: start) {
        // SAFETY: pages of the guest's mapping of a shared file: what they hold stays there.
        _ = unsafe goliath_unmap_pages(place, length)
      }
      at &+= length
    }
  }
}
