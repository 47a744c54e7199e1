package import Cluster
package import Host
import Synchronization

/// Guest RAM that several nodes have in common, a page at a time (distributed.md, sections 4 to 7 and 12): the service over the state
/// machines `PageAgent` and `PageHome`.
///
/// It is the memory's `PageRightsPolicy`: an engine or a device that lacks a right comes to `acquire` on its own thread, which asks the page's
/// home and waits. It is the transport's handler of `mem` frames: what others want is done on the thread that receives. Bytes go from guest
/// memory to the socket and from the socket to guest memory.
///
/// Locks: one `PageShard` at a time, then a `PeerQueue` or the list of `HeldPages`. Engines are told of a revocation, and frames are sent,
/// with no lock held.
@safe package final class CoherentMemory: PageRightsPolicy, FrameHandler, Sendable {
  /// A stretch of RAM as the guest sees it without anything laid over it (no ROM shadows). Whole groups of 64 pages.
  package struct Region: Sendable {
    package var guest: GuestAddress
    /// Bytes; a multiple of the page size.
    package var size: UInt64
    package var block: RAMBlock
    /// Where in the block it begins.
    package var offset: UInt64

    package init(guest: GuestAddress, size: UInt64, block: RAMBlock, offset: UInt64 = 0) {
      self.guest = guest
      self.size = size
      self.block = block
      self.offset = offset
    }
  }

  /// Choices that change speed, not results.
  package struct Tuning: Sendable {
    /// How long a page that came for an access stays for it at least.
    package var pinNanoseconds: Int64 = 50_000
    /// How long a page with more than 200 transfers a second stays with a new owner; 0: no longer than others.
    package var hotSliceNanoseconds: Int64 = 0
    /// How long a node has its turn, in which it keeps what its vCPUs lose to others again and again (`PageUse.contested`): a few times what it takes
    /// to fetch the pages of a guest's page tables, stacks and variables.
    package var turnNanoseconds: Int64 = 8_000_000
    /// Most pages asked for at a time when accesses follow one another.
    package var longestRun: UInt64 = 64
    /// Pages asked for early are opened to the engines as they come. Otherwise at their first use, which costs a call and tells whether they
    /// were used.
    package var opensEarlyPages = false
    /// The owner sends a page to the next one itself.
    package var forwards = true
    /// Who reads a page that moves from writer to writer gets it writable at once.
    package var followsMigration = true

    package init() {}
  }

  package let node: NodeID
  let memory: GuestMemory
  let transport: any FrameTransport
  let tuning: Tuning
  let manners: PageHome.Manners
  package let regions: [Region]
  /// Pages of RAM.
  package let pageCount: UInt64
  let homes: HomeMap
  /// Who stands in for a node that has left, by its number.
  let successors: ByteTable
  let pages: SparseTable<PageEntry>
  let directory: SparseTable<PageHome>
  let places: PlaceTable
  let shards = ShardTable()
  let queues: ObjectTable<PeerQueue>
  let inboxes: ObjectTable<PeerInbox>
  let works = Mutex<[PageWork]>([])
  let seats: ObjectTable<Seat>
  let freeSeats: Mutex<[UInt16]>
  let held: HeldPages
  /// Who has everything at the start; 0xFF: each home its own.
  let firstOwner = Atomic<UInt8>(0xFF)
  let isFrozen = Atomic<Bool>(true)
  /// Engines are to park; see `hurry`.
  let isHurried = Atomic<Bool>(false)
  /// Whether an access may wait for its page.
  var letsWait: Bool {
    !isFrozen.load(ordering: .sequentiallyConsistent)
      && !isHurried.load(ordering: .sequentiallyConsistent)
  }
  /// Somebody has said that an access was done: a revocation without it tells something.
  let hasSettled = Atomic<Bool>(false)
  let failureHandler = Mutex<FailureHandler?>(nil)
  let clock = Mutex(Clock(offset: { 0 }))
  let tracer: CoherenceTracer?
  let recovery = Mutex(Recovery())
  let lostNodes = SharedNodeSet()
  let pagesSent = Atomic<UInt64>(0)

  /// The cluster's time less this host's monotonic time, in nanoseconds.
  struct Clock: Sendable {
    let offset: @Sendable () -> Int64
  }

  /// What is told of a message that the protocol does not allow, with the page's last transitions.
  struct FailureHandler: Sendable {
    let call: @Sendable (PageProtocolError, [String]) -> Void
  }

  /// Coherent memory for `regions` of `memory`, frozen until `start`. It takes over the transport's `mem` frames and the memory's rights.
  ///
  /// - Parameters:
  ///   - regions: all of RAM, the same on all nodes, by address.
  ///   - homes: of as many pages as the regions have; the same on all nodes.
  ///   - tracer: gets every transition, in tests.
  ///
  /// Throws `SystemError` for `mmap`.
  package init(
    memory: GuestMemory, regions: [Region], transport: any FrameTransport, homes: HomeMap,
    tuning: Tuning = Tuning(), tracer: CoherenceTracer? = nil
  ) throws(SystemError) {
    self.memory = memory
    self.transport = transport
    self.tuning = tuning
    self.regions = regions
    self.homes = homes
    self.tracer = tracer
    node = transport.node
    var manners = PageHome.Manners()
    manners.forwards = tuning.forwards
    manners.followsMigration = tuning.followsMigration
    self.manners = manners
    let count = regions.reduce(UInt64(0)) { $0 + $1.size / GuestAddress.pageSize }
    pageCount = count
    precondition(homes.pageCount == count, "homes of \(homes.pageCount) pages, not \(count)")
    pages = try SparseTable(count: Int(clamping: count))
    directory = try SparseTable(count: Int(clamping: count))
    places = PlaceTable(regions)
    queues = ObjectTable((0..<transport.nodeCount).map { _ in PeerQueue() })
    inboxes = ObjectTable((0..<transport.nodeCount).map { _ in PeerInbox() })
    seats = ObjectTable((0..<CoherentMemory.seatCount).map { _ in Seat() })
    freeSeats = Mutex((0..<UInt16(CoherentMemory.seatCount)).reversed())
    successors = ByteTable(count: NodeID.limit)
    held = HeldPages()
    transport.setHandler(self, for: PageFrame.types + [.pageClaims, .pageVerdicts])
  }

  private static let seatCount = 512

  /// `offset`: what is to be added to this host's monotonic time for the cluster's, by which the nodes take turns. Without it, they are on one host.
  package func followClock(_ offset: @escaping @Sendable () -> Int64) {
    clock.withLock { $0 = Clock(offset: offset) }
  }

  // MARK: - Life

  /// Begins: every page is its home's, or `owner`'s if there is one (who has loaded an image into it). The engines do not run yet on any node.
  ///
  /// Throws `SystemError` for `pthread_create`.
  package func start(owner: NodeID? = nil) throws(SystemError) {
    firstOwner.store(owner?.rawValue ?? 0xFF, ordering: .releasing)
    closeAll()
    memory.setRightsPolicy(self)
    try held.start { [self] page in retry(page) }
    thaw()
  }

  /// Makes everything as after `start`: while no engine runs and no request is under way, on all nodes (reset of the machine). What pages
  /// hold stays where it is.
  package func reset(owner: NodeID? = nil) {
    freeze()
    firstOwner.store(owner?.rawValue ?? 0xFF, ordering: .releasing)
    held.clear()
    for queue in queues.all { queue.clear() }
    for shard in shards.all { shard.withLock { $0.pool = WaiterPool() } }
    pages.clear()
    directory.clear()
    closeAll()
    thaw()
  }

  /// Sets the flags of all pages that are not this node's at the start.
  private func closeAll() {
    let closed = PageFlags([.noRead, .noWrite]).rawValue
    var mine: UInt64 = 0
    for page in 0..<pageCount {
      if initialOwner(of: page) == node {
        mine += 1
        unsafe flags(of: page).pointee.bitwiseAnd(~closed, ordering: .relaxed)
      } else {
        unsafe flags(of: page).pointee.bitwiseOr(closed, ordering: .relaxed)
      }
    }
    for (index, shard) in shards.all.enumerated() {
      shard.withLock { state in
        state.statistics.modifiedPages = index == 0 ? mine : 0
        state.statistics.sharedPages = 0
        state.statistics.lostPages = 0
      }
    }
  }

  /// Ends the service's own thread; requests are no longer answered with pages.
  package func stop() {
    freeze()
    held.stop()
  }

  /// From now on nobody waits for a page: `acquire` answers `.frozen`, also to those that wait. What others ask is answered as ever.
  package func freeze() {
    isFrozen.store(true, ordering: .sequentiallyConsistent)
    letGo()
  }

  private func letGo() {
    for shard in shards.all {
      shard.word.advance()
    }
    for seat in seats.all { seat.waiter.finish() }
  }

  /// Lets engines that wait for a page go as `freeze` does, so that they can park although the page's owner does not answer; what they have asked for
  /// comes later. Only for a moment: other accesses ask again after it. One caller at a time.
  package func hurry(_ isOn: Bool) {
    isHurried.store(isOn, ordering: .sequentiallyConsistent)
    if isOn { letGo() }
  }

  /// Lets accesses wait again.
  package func thaw() { isFrozen.store(false, ordering: .sequentiallyConsistent) }

  /// Calls `handler` once for each message that the protocol does not allow, with the last 16 transitions of its page; the memory is frozen
  /// then. On the thread that received it: it must not wait.
  package func onProtocolError(
    _ handler: @escaping @Sendable (PageProtocolError, [String]) -> Void
  ) {
    failureHandler.withLock { $0 = FailureHandler(call: handler) }
  }

  // MARK: - Places

  /// The number of the page at an address; nil when the address is not in a region.
  package func page(at address: GuestAddress) -> UInt64? {
    places.page(at: address)
  }

  /// Where a page below `pageCount` is.
  package func address(of page: UInt64) -> GuestAddress { places.address(of: page) }

  /// The bytes of a page below `pageCount`.
  @unsafe func host(of page: UInt64) -> UnsafeMutableRawPointer { unsafe places.host(of: page) }

  @unsafe func flags(of page: UInt64) -> UnsafeMutablePointer<Atomic<UInt8>> {
    unsafe places.flags(of: page)
  }

  /// The home of a page below `pageCount`.
  package func home(of page: UInt64) -> NodeID {
    let home = homes.home(of: page)
    let successor = successors[Int(home.rawValue)]
    return successor == 0 ? home : NodeID(rawValue: successor - 1)
  }

  func initialOwner(of page: UInt64) -> NodeID {
    let owner = firstOwner.load(ordering: .acquiring)
    return owner == 0xFF ? homes.home(of: page) : NodeID(rawValue: owner)
  }

  func shard(of page: UInt64) -> PageShard {
    shards[Int(truncatingIfNeeded: page / PageFrame.groupPages)]
  }
  func shardBit(of page: UInt64) -> UInt64 { 1 << (page / PageFrame.groupPages & 63) }

  // SAFETY (both): below `pageCount`; the caller holds the page's shard.
  @unsafe func entry(_ page: UInt64) -> UnsafeMutablePointer<PageEntry> {
    let entry = unsafe pages.base + Int(page)
    if unsafe entry.pointee.bits & PageEntry.known == 0 {
      unsafe entry.pointee.bits |= PageEntry.known
      unsafe entry.pointee.agent = PageAgent(initialOwner(of: page) == node ? .modified : .invalid)
    }
    return unsafe entry
  }

  @unsafe func homeEntry(_ page: UInt64) -> UnsafeMutablePointer<PageHome> {
    let entry = unsafe entry(page)
    let home = unsafe directory.base + Int(page)
    if unsafe entry.pointee.bits & PageEntry.homeKnown == 0 {
      unsafe entry.pointee.bits |= PageEntry.homeKnown
      unsafe home.pointee = PageHome(owner: initialOwner(of: page))
    }
    return unsafe home
  }

  // MARK: - Work

  func takeWork() -> PageWork { works.withLock { $0.popLast() } ?? PageWork() }
  func giveBack(_ work: PageWork) { works.withLock { $0.append(work) } }
}

/// Bytes that any thread may read and write.
@safe final class ByteTable: Sendable {
  // SAFETY: allocated and initialised in init, freed in deinit; only atomics touch the elements.
  nonisolated(unsafe) private let cells: UnsafeMutablePointer<Atomic<UInt8>>
  private let count: Int

  init(count: Int) {
    self.count = count
    unsafe cells = UnsafeMutablePointer<Atomic<UInt8>>.allocate(capacity: count)
    for index in 0..<count { unsafe (cells + index).initialize(to: Atomic(0)) }
  }

  deinit {
    unsafe cells.deinitialize(count: count)
    unsafe cells.deallocate()
  }

  subscript(_ index: Int) -> UInt8 {
    get { unsafe index < count ? cells[index].load(ordering: .acquiring) : 0 }
    set { if index < count { unsafe cells[index].store(newValue, ordering: .releasing) } }
  }
}
