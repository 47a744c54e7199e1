import Glibc
package import Host
import Synchronization

/// What this node knows of one page, besides the protocol's own state.
struct PageEntry: BitwiseCopyable {
  var agent: PageAgent
  /// A revocation before this moment waits for the access that the page came for. 0: none is awaited.
  var pinnedUntil: Int64
  /// A page that is hot stays this long with its owner. 0: not at all.
  var sliceUntil: Int64
  /// When the first revocation came that waits.
  var heldSince: Int64
  /// Start of the present window of counting transfers, in units of 2^20 ns.
  var window: UInt32
  var windowCount: UInt16
  /// Transfers a second in the last whole window.
  var rate: UInt16
  var transfers: UInt32
  var upgrades: UInt32
  /// Threads that wait for the page.
  var waiters: UInt16
  /// The place in the table of waiters of the one that asked, plus 1.
  var waiter: UInt16
  /// Requests of devices that read, or write, the page's memory at this moment.
  var readers: UInt16
  var writers: UInt16
  /// Revocations in a row that came before the access was done.
  var failures: UInt8
  var bits: UInt8

  /// The entry has been made.
  static let known: UInt8 = 1
  /// The directory's entry has been made.
  static let homeKnown: UInt8 = 2
  /// The bytes are lost for good.
  static let lost: UInt8 = 4
  /// Came, or comes, unasked or before its use; closed to the engines until the first.
  static let early: UInt8 = 8
  /// Counted as hot.
  static let hot: UInt8 = 16
  /// While the directory is made anew: this node's bytes are valid, whatever its right.
  static let homeValid: UInt8 = 32
}

/// Zeroed memory for a table of which most is never touched.
@safe struct SparseTable<Element: BitwiseCopyable>: ~Copyable, @unchecked Sendable {
  // SAFETY: a mapping of `count` elements, unmapped in deinit only; who may touch which element is said by the owner.
  @unsafe let base: UnsafeMutablePointer<Element>
  private let bytes: Int

  /// Throws `SystemError` for `mmap`.
  init(count: Int) throws(SystemError) {
    bytes = max(count, 1) * MemoryLayout<Element>.stride
    let memory = unsafe mmap(
      nil, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    guard let memory = unsafe memory, unsafe memory != MAP_FAILED else {
      throw SystemError(call: "mmap", code: errno)
    }
    unsafe base = memory.bindMemory(to: Element.self, capacity: max(count, 1))
  }

  /// Zeroes everything again.
  func clear() {
    // SAFETY: the whole of our own mapping.
    _ = unsafe madvise(base, bytes, Int32(MADV_DONTNEED))
  }

  deinit { unsafe munmap(base, bytes) }
}

/// The lock over the pages of some groups, with what belongs to them. A reference that is not counted: its `ShardTable` keeps it.
@safe struct PageShard: @unchecked Sendable {
  struct State {
    /// Requests that wait here as a home.
    var pool = WaiterPool()
    var statistics = DSMStatistics()
    var streams = MissStreams()
    var hot = HotList()
    var log = TransitionLog()
  }
  fileprivate struct Cell: ~Copyable {
    let lock = Mutex(State())
    let word = WaitWord()
    let hint = Atomic<UInt64>(0)
  }
  // SAFETY: initialised and freed by the table, which lives as long as the memory; all of it is for any thread.
  @unsafe fileprivate let cell: UnsafeMutablePointer<Cell>

  @inline(__always)
  func withLock<R>(_ body: (inout sending State) -> sending R) -> sending R {
    unsafe cell.pointee.lock.withLock(body)
  }
  /// Threads that joined another's request sleep here.
  var word: WaitWord { unsafe cell.pointee.word }
  /// The run that a reader came with to the end of the group before: group << 8 | pages.
  var hint: UInt64 {
    get { unsafe cell.pointee.hint.load(ordering: .relaxed) }
    nonmutating set { unsafe cell.pointee.hint.store(newValue, ordering: .relaxed) }
  }
}

/// All shards.
@safe struct ShardTable: ~Copyable, @unchecked Sendable {
  static let count = 64
  // SAFETY: made and freed here.
  @unsafe private let cells: UnsafeMutablePointer<PageShard.Cell>

  init() {
    unsafe cells = UnsafeMutablePointer<PageShard.Cell>.allocate(capacity: ShardTable.count)
    for index in 0..<ShardTable.count {
      unsafe (cells + index).initialize(to: PageShard.Cell())
    }
  }

  deinit {
    unsafe cells.deinitialize(count: ShardTable.count)
    unsafe cells.deallocate()
  }

  /// By number, of which the low bits count.
  subscript(_ index: Int) -> PageShard {
    unsafe PageShard(cell: cells + (index & (ShardTable.count - 1)))
  }
  var all: [PageShard] { (0..<ShardTable.count).map { self[$0] } }
}

/// Objects by number that live as long as the table: whoever uses one counts no references.
@safe struct ObjectTable<Object: AnyObject & Sendable>: ~Copyable, @unchecked Sendable {
  // SAFETY: each holds a reference of the table's own until deinit.
  @unsafe private let base: UnsafeMutablePointer<Unmanaged<Object>>
  let count: Int

  init(_ objects: [Object]) {
    count = objects.count
    unsafe base = UnsafeMutablePointer<Unmanaged<Object>>.allocate(capacity: max(count, 1))
    for (index, object) in objects.enumerated() {
      unsafe (base + index).initialize(to: Unmanaged.passRetained(object))
    }
  }

  deinit {
    for index in 0..<count { unsafe base[index].release() }
    unsafe base.deallocate()
  }

  /// The object of a number below `count`, for the time of the call.
  @inline(__always)
  func with<R>(_ index: Int, _ body: (Object) -> R) -> R {
    precondition(index >= 0 && index < count, "object \(index) of \(count)")
    return unsafe base[index]._withUnsafeGuaranteedRef(body)
  }

  var all: [Object] { (0..<count).map { with($0) { $0 } } }
}

/// Where the pages of a memory's regions are: plain memory, a line or two of it for nearly every look.
@safe struct PlaceTable: ~Copyable, @unchecked Sendable {
  private struct Place: BitwiseCopyable {
    var guest: UInt64
    /// Bytes.
    var size: UInt64
    /// The first page's number.
    var first: UInt64
    var host: UInt
    var flags: UInt
  }
  // SAFETY: made and freed here, never changed in between.
  @unsafe private let places: UnsafeMutablePointer<Place>
  private let count: Int

  /// The blocks of the regions must outlive the table.
  init(_ regions: [CoherentMemory.Region]) {
    count = regions.count
    unsafe places = UnsafeMutablePointer<Place>.allocate(capacity: max(count, 1))
    var first: UInt64 = 0
    for (index, region) in regions.enumerated() {
      let page = Int(region.offset / GuestAddress.pageSize)
      unsafe (places + index).initialize(
        to: Place(
          guest: region.guest.rawValue, size: region.size, first: first,
          host: UInt(bitPattern: region.block.base) &+ UInt(region.offset),
          flags: UInt(bitPattern: region.block.pageFlags + page)))
      first += region.size / GuestAddress.pageSize
    }
  }

  deinit { unsafe places.deallocate() }

  /// The number of the page at an address; nil when it is in no region.
  @inline(__always)
  func page(at address: GuestAddress) -> UInt64? {
    for index in 0..<count {
      let offset = unsafe address.rawValue &- places[index].guest
      if unsafe address.rawValue >= places[index].guest && offset < places[index].size {
        return unsafe places[index].first &+ offset / GuestAddress.pageSize
      }
    }
    return nil
  }

  /// The region that holds a page, and the page's offset in it in bytes.
  @inline(__always)
  private func place(of page: UInt64) -> (place: Place, offset: UInt64) {
    for index in 0..<count {
      let place = unsafe places[index]
      let offset = (page &- place.first) &* GuestAddress.pageSize
      if page >= place.first, offset < place.size { return (place, offset) }
    }
    preconditionFailure("page \(page) is in no region")
  }

  func address(of page: UInt64) -> GuestAddress {
    let (place, offset) = place(of: page)
    return GuestAddress(place.guest &+ offset)
  }

  // SAFETY (both): inside a block, which outlives the table; neither address is 0.
  @unsafe func host(of page: UInt64) -> UnsafeMutableRawPointer {
    let (place, offset) = place(of: page)
    return unsafe UnsafeMutableRawPointer(bitPattern: place.host &+ UInt(offset)).unsafelyUnwrapped
  }

  @unsafe func flags(of page: UInt64) -> UnsafeMutablePointer<Atomic<UInt8>> {
    let (place, offset) = place(of: page)
    return unsafe UnsafeMutablePointer<Atomic<UInt8>>(
      bitPattern: place.flags &+ UInt(offset / GuestAddress.pageSize)
    ).unsafelyUnwrapped
  }
}

/// Finds accesses that go from page to page, and says how many pages to ask for.
struct MissStreams: BitwiseCopyable {
  private struct Stream: BitwiseCopyable {
    var next = UInt64.max
    var run: UInt64 = 1
  }
  private var streams = (Stream(), Stream(), Stream(), Stream())
  private var victim = 0

  /// A miss at `page`; `hint`: the run that ended before the page, 0: none. The number of pages to ask for.
  mutating func miss(_ page: UInt64, hint: UInt64, longest: UInt64) -> UInt64 {
    for index in 0..<4 where self[index].next == page {
      return min(max(self[index].run, 1) * 2, longest)
    }
    return hint > 0 ? min(hint * 2, longest) : 1
  }

  /// A run from `page` was asked for, of so many pages.
  mutating func asked(_ page: UInt64, _ run: UInt64, wanted: UInt64) {
    var place = victim
    for index in 0..<4 where self[index].next == page { place = index }
    if place == victim { victim = (victim + 1) & 3 }
    self[place] = Stream(next: page &+ run, run: wanted)
  }

  private subscript(_ index: Int) -> Stream {
    get {
      switch index {
      case 0: streams.0
      case 1: streams.1
      case 2: streams.2
      default: streams.3
      }
    }
    set {
      switch index {
      case 0: streams.0 = newValue
      case 1: streams.1 = newValue
      case 2: streams.2 = newValue
      default: streams.3 = newValue
      }
    }
  }
}

/// The pages of a shard that were hot last.
struct HotList: BitwiseCopyable {
  static let count = 16
  private var pages = SIMD16<UInt64>(repeating: UInt64.max)
  private var victim = 0

  mutating func note(_ page: UInt64) {
    for index in 0..<HotList.count where pages[index] == page { return }
    pages[victim] = page
    victim = (victim + 1) & (HotList.count - 1)
  }

  /// The page in a place; nil when there is none.
  subscript(_ index: Int) -> UInt64? { pages[index] == UInt64.max ? nil : pages[index] }
}

/// The last transitions of a shard's pages, for the report of a protocol error.
struct TransitionLog {
  private struct Item: BitwiseCopyable {
    var page: UInt64 = UInt64.max
    var gen: UInt64 = 0
    var dep: UInt64 = 0
    var kind = PageMessage.Kind.getS
    var state = PageAgent.State.invalid
    var pending = PageAgent.State.invalid
    var node: UInt8 = 0
    var isSent = false
  }
  private static let size = 512
  private var items = [Item](repeating: Item(), count: TransitionLog.size)
  private var next = 0

  mutating func note(
    _ message: PageMessage, _ agent: PageAgent, node: UInt8, isSent: Bool
  ) {
    items[next] = Item(
      page: message.page, gen: message.gen, dep: message.dep, kind: message.kind,
      state: agent.state, pending: agent.pending, node: node, isSent: isSent)
    next = (next + 1) & (TransitionLog.size - 1)
  }

  /// The last 16 of a page, oldest first, as text.
  func last(of page: UInt64) -> [String] {
    var found: [String] = []
    for age in 0..<TransitionLog.size {
      let item = items[(next &- 1 &- age) & (TransitionLog.size - 1)]
      guard item.page == page else { continue }
      let way = item.isSent ? "to" : "from"
      let dep = item.dep == PageMessage.noGeneration ? "none" : String(item.dep)
      found.append(
        "\(item.kind) gen \(item.gen) dep \(dep) \(way) node \(item.node): "
          + "\(item.state) pending \(item.pending)")
      if found.count == 16 { break }
    }
    return found.reversed()
  }
}
