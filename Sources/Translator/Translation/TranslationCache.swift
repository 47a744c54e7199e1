import CX86
import Glibc

/// One translated block: host code for instructions of one guest page, at one linear address, for one access class.
///
/// It has several entries, see BlockTranslator. Offsets are from `host`.
@safe struct TranslatedBlock {
  /// Guest address of the first instruction.
  var linear: UInt64
  /// Its guest-physical address; all ones when the guest's bytes were overwritten.
  var physical: UInt64
  /// Where the code lies in the writable mapping.
  var host: UnsafeMutablePointer<UInt8>
  var hostBytes: UInt32
  /// Guest bytes.
  var length: UInt32
  /// Names linear page, physical page and access class; see TranslationCache.token.
  var token: UInt32
  /// AccessClass.
  var access: UInt8
  /// Arithmetic flags that must be right on entry (InstructionFacts bits).
  var liveIn: UInt8
  /// Some accesses share a check, which may fail where they would not.
  var hasGroups: Bool
  /// Times that it was left for the interpreter in the midst.
  var failures: UInt8 = 0
  var instructions: UInt16

  /// For indirect jumps: compares R10 with `linear`, then as `pageMemory`. Flags in memory.
  var indirect: UInt32
  /// From another page: looks whether the page may still be entered, then as `checked…`. Flags in host or memory.
  var pageHost: UInt32
  var pageMemory: UInt32
  /// Looks at the request word.
  var checkedHost: UInt32
  var checkedMemory: UInt32
  var plainHost: UInt32
  var plainMemory: UInt32
  /// Leaves for a lookup of R10.
  var miss: UInt32

  /// From host addresses to guest instructions.
  var sides: UnsafeMutablePointer<SideEntry>
  var sideCount: UInt32
  /// First LinkRecord of the jumps that were patched to come here; 0 for none.
  var incoming: UInt32
  /// For a block whose only instruction ends in the next page: that page, else all ones; and what stands for it there.
  var crossPhysical: UInt64
  var crossToken: UInt32
  var hashNext: UnsafeMutablePointer<TranslatedBlock>?
  var pageNext: UnsafeMutablePointer<TranslatedBlock>?
  var crossNext: UnsafeMutablePointer<TranslatedBlock>?

  var crosses: Bool { crossPhysical != UInt64.max }
}

/// From a host offset on, up to the next entry's: this guest instruction.
struct SideEntry {
  static let flagsInHost: UInt16 = 1
  /// The instruction follows STI: interrupts are held off for it.
  static let afterSTI: UInt16 = 2
  var host: UInt32
  /// Bytes from the block's first.
  var guest: UInt16
  var flags: UInt16
}

/// A jump that was patched, so that it can be undone.
struct LinkRecord {
  /// Offsets in the code cache: the displacement, and the exit that it had.
  var site: UInt32
  var exit: UInt32
  var next: UInt32
}

/// The translated code of one vCPU, used by its thread only.
///
/// Code is written through one mapping and executed through another; no page is ever both. Everything lies in arenas that are emptied
/// together when one is full. A block whose guest bytes change is found no more and nothing jumps to it, but its memory stays
/// untouched until then, so that code under way may leave it.
@safe final class TranslationCache {
  // SAFETY (whole file): arrays lie in `tables`, sized in init; indices are counters checked against capacities, or masked hashes.
  static let hashSize = 1 << 15
  static let pageHashSize = 1 << 12
  static let contextHashSize = 1 << 13
  /// What the largest block may take.
  static let largestBlock = 96 << 10

  let writable: UnsafeMutablePointer<UInt8>
  /// Executable address minus writable address.
  let toExecutable: Int
  let capacity: Int
  private(set) var used = 0

  private let tables: UnsafeMutableRawPointer
  private let tablesSize: Int
  private let blocks: UnsafeMutablePointer<TranslatedBlock>
  private let blockCapacity: Int
  private(set) var blockCount = 0
  private let sides: UnsafeMutablePointer<SideEntry>
  private let sideCapacity: Int
  private var sideCount = 0
  private let links: UnsafeMutablePointer<LinkRecord>
  private let linkCapacity: Int
  private var linkCount = 1
  private let hash: UnsafeMutablePointer<UnsafeMutablePointer<TranslatedBlock>?>
  private let pageHash: UnsafeMutablePointer<UnsafeMutablePointer<TranslatedBlock>?>
  /// Blocks that end in a page, by that page.
  private let crossHash: UnsafeMutablePointer<UnsafeMutablePointer<TranslatedBlock>?>
  /// Open addressing: key pairs and their tokens.
  private let contexts: UnsafeMutablePointer<CodeContext>
  private var contextCount = 0
  private var nextToken: UInt32 = 0

  /// Where a block is put together.
  let decoded: UnsafeMutablePointer<X86Instruction>
  let facts: UnsafeMutablePointer<InstructionFacts>
  let live: UnsafeMutablePointer<UInt8>
  let stubs: UnsafeMutablePointer<PendingStub>
  let plans: UnsafeMutablePointer<AccessPlan>
  let groups: UnsafeMutablePointer<MemoryGroup>
  let symbols: UnsafeMutablePointer<RegisterSymbol>
  /// By a hash of the physical address: blocks there are translated without groups. A wrong hit costs speed only.
  private let ungrouped: UnsafeMutablePointer<Bool>
  private static let ungroupedSize = 1 << 13
  /// By the same hash: instructions whose accesses always look in the TLB.
  private let plainSites: UnsafeMutablePointer<Bool>
  private var readSites = 0
  private var writeSites = 0
  static let maximumInstructions = 200
  static let maximumStubs = 1024

  var counters = TranslationCounters()
  /// Changes whenever everything is thrown away.
  private(set) var generation: UInt32 = 0

  struct CodeContext {
    var linear: UInt64
    var physical: UInt64
    /// 0: free.
    var token: UInt32
  }

  /// Nil when the host grants no executable memory or no address space.
  init?(bytes: Int) {
    let size = (max(bytes, 4 * TranslationCache.largestBlock) + 4095) & ~4095
    var write: UnsafeMutableRawPointer?
    var execute: UnsafeMutableRawPointer?
    // SAFETY: out parameters of this call.
    guard unsafe x86_stubs_map(size, &write, &execute) == 0, let write = unsafe write,
      let execute = unsafe execute
    else { return nil }
    unsafe writable = write.assumingMemoryBound(to: UInt8.self)
    toExecutable = unsafe execute - write
    capacity = size
    blockCapacity = max(size / 160, 1024)
    sideCapacity = max(size / 12, 1 << 14)
    linkCapacity = max(size / 80, 4096)
    var total = 0
    func reserve(_ bytes: Int) -> Int {
      let at = total
      total += (bytes + 63) & ~63
      return at
    }
    let b = reserve(blockCapacity * MemoryLayout<TranslatedBlock>.stride)
    let s = reserve(sideCapacity * MemoryLayout<SideEntry>.stride)
    let l = reserve(linkCapacity * MemoryLayout<LinkRecord>.stride)
    let h = reserve(TranslationCache.hashSize * 8)
    let p = reserve(TranslationCache.pageHashSize * 8)
    let x = reserve(TranslationCache.pageHashSize * 8)
    let c = reserve(TranslationCache.contextHashSize * MemoryLayout<CodeContext>.stride)
    let n = TranslationCache.maximumInstructions + 1
    let d = reserve(n * MemoryLayout<X86Instruction>.stride)
    let f = reserve(n * MemoryLayout<InstructionFacts>.stride)
    let v = reserve(n)
    let t = reserve(TranslationCache.maximumStubs * MemoryLayout<PendingStub>.stride)
    let a = reserve(n * MemoryLayout<AccessPlan>.stride)
    let g = reserve(BlockTranslator.maximumGroups * MemoryLayout<MemoryGroup>.stride)
    let y = reserve(17 * MemoryLayout<RegisterSymbol>.stride)
    let u = reserve(TranslationCache.ungroupedSize)
    let w = reserve(TranslationCache.ungroupedSize)
    tablesSize = total
    let map = unsafe mmap(
      nil, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    guard let map = unsafe map, unsafe map != MAP_FAILED else {
      unsafe munmap(write, size)
      unsafe munmap(execute, size)
      return nil
    }
    unsafe tables = map
    unsafe blocks = (map + b).assumingMemoryBound(to: TranslatedBlock.self)
    unsafe sides = (map + s).assumingMemoryBound(to: SideEntry.self)
    unsafe links = (map + l).assumingMemoryBound(to: LinkRecord.self)
    unsafe hash = (map + h).assumingMemoryBound(to: UnsafeMutablePointer<TranslatedBlock>?.self)
    unsafe pageHash = (map + p).assumingMemoryBound(
      to: UnsafeMutablePointer<TranslatedBlock>?.self)
    unsafe crossHash = (map + x).assumingMemoryBound(
      to: UnsafeMutablePointer<TranslatedBlock>?.self)
    unsafe contexts = (map + c).assumingMemoryBound(to: CodeContext.self)
    unsafe decoded = (map + d).assumingMemoryBound(to: X86Instruction.self)
    unsafe facts = (map + f).assumingMemoryBound(to: InstructionFacts.self)
    unsafe live = (map + v).assumingMemoryBound(to: UInt8.self)
    unsafe plans = (map + a).assumingMemoryBound(to: AccessPlan.self)
    unsafe groups = (map + g).assumingMemoryBound(to: MemoryGroup.self)
    unsafe symbols = (map + y).assumingMemoryBound(to: RegisterSymbol.self)
    unsafe ungrouped = (map + u).assumingMemoryBound(to: Bool.self)
    unsafe plainSites = (map + w).assumingMemoryBound(to: Bool.self)
    unsafe stubs = (map + t).assumingMemoryBound(to: PendingStub.self)
  }

  deinit {
    unsafe munmap(writable, capacity)
    unsafe munmap(UnsafeMutableRawPointer(writable) + toExecutable, capacity)
    unsafe munmap(tables, tablesSize)
  }

  /// Whether any block can be added.
  var hasRoom: Bool {
    used + TranslationCache.largestBlock <= capacity && blockCount + 1 < blockCapacity
      && sideCount + TranslationCache.maximumInstructions * 2 + TranslationCache.maximumStubs
        < sideCapacity
      && linkCount + 1 < linkCapacity
      && contextCount < TranslationCache.contextHashSize / 2
  }

  /// Where the next block's code goes.
  var nextCode: UnsafeMutablePointer<UInt8> { unsafe writable + used }
  var nextSide: UnsafeMutablePointer<SideEntry> { unsafe sides + sideCount }
  /// The address at which the processor executes what was written at `code`.
  @inline(__always) func executable(_ code: UnsafeMutablePointer<UInt8>) -> UInt64 {
    unsafe UInt64(UInt(bitPattern: code)) &+ UInt64(bitPattern: Int64(toExecutable))
  }
  /// Where to write what the processor executes at `address`.
  @inline(__always) func writable(_ address: UInt64) -> UnsafeMutablePointer<UInt8>? {
    unsafe UnsafeMutablePointer<UInt8>(bitPattern: UInt(address) &- UInt(bitPattern: toExecutable))
  }

  // MARK: - Finding

  @inline(__always) private static func slot(_ linear: UInt64, _ physical: UInt64) -> Int {
    let mixed = physical ^ physical &>> 14 ^ linear &>> 12 &* 0x9E37_79B1
    return Int(truncatingIfNeeded: mixed) & (hashSize - 1)
  }
  private static func pageSlot(_ physical: UInt64) -> Int {
    Int(truncatingIfNeeded: physical &>> 12) & (pageHashSize - 1)
  }

  @inline(__always) func find(
    _ linear: UInt64, _ physical: UInt64, access: UInt8
  ) -> UnsafeMutablePointer<TranslatedBlock>? {
    var candidate = unsafe hash[TranslationCache.slot(linear, physical)]
    while let block = unsafe candidate {
      if unsafe block.pointee.physical == physical && block.pointee.linear == linear
        && block.pointee.access == access
      {
        return unsafe block
      }
      unsafe candidate = block.pointee.hashNext
    }
    return nil
  }

  /// The number that stands for code of a physical page at a linear page under an access class. A global page's tokens are odd.
  func token(_ linear: UInt64, _ physical: UInt64, access: UInt8, isGlobal: Bool) -> UInt32 {
    let key = linear & ~0xFFF | UInt64(access) | (isGlobal ? 4 : 0)
    let page = physical & ~0xFFF
    let mixed = key &>> 12 &* 0x9E37_79B9_7F4A_7C15 ^ page &>> 12 &* 0xC2B2_AE3D_27D4_EB4F
    var slot =
      Int(truncatingIfNeeded: (mixed ^ key) &>> 20) & (TranslationCache.contextHashSize - 1)
    while unsafe contexts[slot].token != 0 {
      if unsafe contexts[slot].linear == key && contexts[slot].physical == page {
        return unsafe contexts[slot].token
      }
      slot = (slot + 1) & (TranslationCache.contextHashSize - 1)
    }
    contextCount += 1
    nextToken &+= 2
    let token = nextToken | (isGlobal ? 1 : 0)
    unsafe contexts[slot] = CodeContext(linear: key, physical: page, token: token)
    return token
  }

  /// The block that holds a host address of the executable mapping.
  func block(containing address: UInt64) -> UnsafeMutablePointer<TranslatedBlock>? {
    guard let code = unsafe writable(address) else { return nil }
    var low = 0
    var high = blockCount
    // Blocks lie in the order in which they were made.
    while low < high {
      let middle = (low + high) / 2
      if unsafe blocks[middle].host <= code { low = middle + 1 } else { high = middle }
    }
    if low == 0 { return nil }
    let found = unsafe blocks + (low - 1)
    return unsafe code < found.pointee.host + Int(found.pointee.hostBytes) ? found : nil
  }

  /// Which instruction of the block the host address belongs to.
  func side(
    _ block: UnsafeMutablePointer<TranslatedBlock>, _ address: UInt64
  ) -> SideEntry? {
    guard let code = unsafe writable(address) else { return nil }
    let offset = unsafe UInt32(truncatingIfNeeded: code - block.pointee.host)
    var low = 0
    var high = unsafe Int(block.pointee.sideCount)
    while low < high {
      let middle = (low + high) / 2
      if unsafe block.pointee.sides[middle].host <= offset {
        low = middle + 1
      } else {
        high = middle
      }
    }
    return low == 0 ? nil : unsafe block.pointee.sides[low - 1]
  }

  // MARK: - Adding

  /// Takes in the block whose code and side entries were written at `nextCode` and `nextSide`.
  func add(_ block: TranslatedBlock) -> UnsafeMutablePointer<TranslatedBlock> {
    let at = unsafe blocks + blockCount
    blockCount += 1
    used = (used + Int(block.hostBytes) + 15) & ~15
    sideCount += Int(block.sideCount)
    unsafe at.initialize(to: block)
    let slot = TranslationCache.slot(block.linear, block.physical)
    unsafe at.pointee.hashNext = hash[slot]
    unsafe hash[slot] = at
    let page = TranslationCache.pageSlot(block.physical)
    unsafe at.pointee.pageNext = pageHash[page]
    unsafe pageHash[page] = at
    if block.crosses {
      let second = TranslationCache.pageSlot(block.crossPhysical)
      unsafe at.pointee.crossNext = crossHash[second]
      unsafe crossHash[second] = at
    }
    counters.blocks &+= 1
    counters.guestInstructions &+= UInt64(block.instructions)
    counters.guestBytes &+= UInt64(block.length)
    counters.hostBytes &+= UInt64(block.hostBytes)
    return unsafe at
  }

  /// Makes the exit described at `metadata` (an address in the executable mapping) jump to the block.
  func link(
    _ metadata: UInt64, from linear: UInt64, to block: UnsafeMutablePointer<TranslatedBlock>
  ) {
    guard linkCount < linkCapacity, let raw = unsafe writable(metadata) else { return }
    let site = unsafe UnsafeRawPointer(raw).loadUnaligned(as: X86LinkSite.self)
    let displacement = unsafe raw + Int(site.site)
    let isHost = site.kind & 1 != 0
    let entry: UInt32
    if site.kind & 2 == 0 {
      entry = unsafe isHost ? block.pointee.pageHost : block.pointee.pageMemory
    } else if site.kind & 4 != 0 {
      entry = unsafe isHost ? block.pointee.checkedHost : block.pointee.checkedMemory
    } else {
      entry = unsafe isHost ? block.pointee.plainHost : block.pointee.plainMemory
    }
    let old = unsafe Int(UnsafeRawPointer(displacement).loadUnaligned(as: Int32.self))
    let exit = unsafe displacement + 4 + old
    unsafe CodeEmitter.patch(displacement, block.pointee.host + Int(entry))
    unsafe links[linkCount] = LinkRecord(
      site: UInt32(truncatingIfNeeded: displacement - writable),
      exit: UInt32(truncatingIfNeeded: exit - writable), next: block.pointee.incoming)
    unsafe block.pointee.incoming = UInt32(truncatingIfNeeded: linkCount)
    linkCount += 1
    counters.links &+= 1
  }

  // MARK: - Groups

  private static func ungroupedSlot(_ physical: UInt64) -> Int {
    Int(truncatingIfNeeded: (physical ^ physical &>> 13)) & (ungroupedSize - 1)
  }
  func isUngrouped(_ physical: UInt64) -> Bool {
    unsafe ungrouped[TranslationCache.ungroupedSlot(physical)]
  }

  /// Whether the accesses of the instruction at a physical address are better looked up in the TLB each time.
  func isPlainSite(_ physical: UInt64) -> Bool {
    unsafe plainSites[TranslationCache.ungroupedSlot(physical)]
  }
  func makePlainSite(_ physical: UInt64) {
    unsafe plainSites[TranslationCache.ungroupedSlot(physical)] = true
  }
  /// The offset in X86State of an X86Site for a new access. They are given out in turn; two that share one cost each other misses.
  func nextSite(write: Bool) -> Int {
    if write {
      writeSites = (writeSites &+ 1) & (Int(X86_SITES) - 1)
      return Int(X86_SITE_OFFSET) &+ (Int(X86_SITES) &+ writeSites) &* 32
    }
    readSites = (readSites &+ 1) & (Int(X86_SITES) - 1)
    return Int(X86_SITE_OFFSET) &+ readSites &* 32
  }

  /// The block was left in the midst. A block to which that happens again and again is dropped, to be translated without groups.
  func noteFailure(_ block: UnsafeMutablePointer<TranslatedBlock>) {
    if unsafe !block.pointee.hasGroups || block.pointee.physical == UInt64.max { return }
    unsafe block.pointee.failures &+= 1
    if unsafe block.pointee.failures < 32 { return }
    unsafe ungrouped[TranslationCache.ungroupedSlot(block.pointee.physical)] = true
    unsafe kill(block)
  }

  // MARK: - Dropping

  /// Forgets the blocks with code among the bytes, which lie in one page. True when the page has none left.
  func invalidate(_ physical: UInt64, length: UInt64, wholePage: Bool) -> Bool {
    let page = physical & ~0xFFF
    let slot = TranslationCache.pageSlot(page)
    var isEmpty = true
    var candidate = unsafe pageHash[slot]
    while let block = unsafe candidate {
      unsafe candidate = block.pointee.pageNext
      let start = unsafe block.pointee.physical
      if start & ~0xFFF != page { continue }
      let end = unsafe start &+ UInt64(block.pointee.length)
      if wholePage || (start < physical &+ length && physical < end) {
        unsafe kill(block)
      } else {
        isEmpty = false
      }
    }
    unsafe candidate = crossHash[slot]
    while let block = unsafe candidate {
      unsafe candidate = block.pointee.crossNext
      if unsafe block.pointee.crossPhysical != page { continue }
      let end = unsafe (block.pointee.physical & 0xFFF &+ UInt64(block.pointee.length)) & 0xFFF
      if wholePage || physical & 0xFFF < end {
        unsafe kill(block)
      } else {
        isEmpty = false
      }
    }
    return isEmpty
  }

  /// Takes a block out of a list that is linked by `next`.
  private func unlink(
    _ block: UnsafeMutablePointer<TranslatedBlock>,
    _ head: UnsafeMutablePointer<UnsafeMutablePointer<TranslatedBlock>?>,
    _ next: WritableKeyPath<TranslatedBlock, UnsafeMutablePointer<TranslatedBlock>?>
  ) {
    let after = unsafe block.pointee[keyPath: next]
    var at = unsafe head.pointee
    if unsafe at == block {
      unsafe head.pointee = after
      return
    }
    while let other = unsafe at {
      unsafe at = other.pointee[keyPath: next]
      if unsafe at == block {
        unsafe other.pointee[keyPath: next] = after
        return
      }
    }
  }

  /// Forgets one block. Nothing jumps there any more, and it is found no more.
  func kill(_ block: UnsafeMutablePointer<TranslatedBlock>) {
    counters.invalidatedBlocks &+= 1
    let slot = unsafe TranslationCache.slot(block.pointee.linear, block.pointee.physical)
    unsafe unlink(block, hash + slot, \.hashNext)
    unsafe unlink(block, pageHash + TranslationCache.pageSlot(block.pointee.physical), \.pageNext)
    if unsafe block.pointee.crosses {
      unsafe unlink(
        block, crossHash + TranslationCache.pageSlot(block.pointee.crossPhysical), \.crossNext)
    }
    unsafe block.pointee.physical = UInt64.max
    var link = unsafe Int(block.pointee.incoming)
    while link != 0 {
      let record = unsafe links[link]
      unsafe CodeEmitter.patch(writable + Int(record.site), writable + Int(record.exit))
      link = Int(record.next)
    }
    unsafe block.pointee.incoming = 0
    // Indirect jumps still come to the first entry, which now sends them away.
    let entry = unsafe block.pointee.host + Int(block.pointee.indirect)
    var out = unsafe CodeEmitter(p: entry)
    unsafe out.jump(to: block.pointee.host + Int(block.pointee.miss))
  }

  /// Takes over the vCPU's tables of indirect jumps, and writes the code that they go to where no target is known: at the start of
  /// the cache, where it stays.
  func adopt(jumps table: UnsafeMutablePointer<UInt64>) {
    unsafe jumps = table
    var out = unsafe CodeEmitter(p: writable)
    out.constant(HostRegister.entry, UInt64(x86ExitLookup))
    out.jump(through: .state(Int(x86OffsetExitMemory)))
    used = TranslationCache.firstBlock
    forgetJumps()
  }

  private func forgetJumps() {
    guard let table = unsafe jumps else { return }
    let miss = unsafe executable(writable)
    for k in 0..<Int(X86_TLB_CLASSES) * Int(X86_JUMPS) { unsafe table[k] = miss }
  }
  private var jumps: UnsafeMutablePointer<UInt64>?
  private static let firstBlock = 64

  /// Empties everything. Only when no translated code is under way.
  func reset() {
    used = TranslationCache.firstBlock
    blockCount = 0
    sideCount = 0
    linkCount = 1
    contextCount = 0
    generation &+= 1
    counters.cacheFlushes &+= 1
    forgetJumps()
    unsafe memset(hash, 0, TranslationCache.hashSize * 8)
    unsafe memset(pageHash, 0, TranslationCache.pageHashSize * 8)
    unsafe memset(crossHash, 0, TranslationCache.pageHashSize * 8)
    unsafe memset(
      contexts, 0, TranslationCache.contextHashSize * MemoryLayout<CodeContext>.stride)
    // The processor must not run on with bytes that it fetched before they are replaced.
    x86_serialize()
  }
}
