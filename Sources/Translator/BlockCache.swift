import CX86
import Glibc

/// A run of decoded instructions within one page, ending with a `leave` pseudo-instruction of length 0.
@safe struct Block {
  var instructions: UnsafeMutablePointer<X86Instruction>
  /// Guest-physical address of the first byte.
  var physical: UInt64
  /// Bytes of all instructions.
  var length: UInt32
  var count: UInt32
  /// 2, 4 or 8; with `BlockCache.alone` for a block of one instruction that the translator left to the interpreter.
  var codeSize: UInt8
  /// Times that it was executed since it was decoded, until it is translated.
  var heat: UInt32 = 0
  var hashNext: UnsafeMutablePointer<Block>?
  var pageNext: UnsafeMutablePointer<Block>?
}

/// The blocks of one physical page.
@safe struct CodePageEntry {
  var page: UInt64
  var first: UnsafeMutablePointer<Block>?
  var next: UnsafeMutablePointer<CodePageEntry>?
  /// How often the page's code was overwritten.
  var invalidations: UInt32
}

/// From a linear address to its block, for as long as the TLB does not change.
@safe struct JumpEntry {
  var linear: UInt64
  var key: UInt64
  var block: UnsafeMutablePointer<Block>?
  var unused: UInt64
}

/// Decoded blocks of one vCPU, by guest-physical address. Everything lies in one arena, emptied when full.
///
/// An invalidated block's instructions become `leave`, so whoever is in it or linked to it goes back to the lookup at once; its memory is
/// reused only by `reset`, between blocks.
@safe final class BlockCache {
  static let hashSize = 1 << 15
  static let pageHashSize = 1 << 12
  static let jumpSize = 1 << 12
  static let maximumInstructions = 64
  /// In a block's `codeSize`: one instruction only.
  static let alone: UInt8 = 0x40

  // SAFETY (whole file): all arrays are parts of `memory`, sized in init, indexed by counters checked against capacities or masked hashes.
  private let memory: UnsafeMutableRawPointer
  private let size: Int
  private let instructions: UnsafeMutablePointer<X86Instruction>
  private let instructionCapacity: Int
  private var instructionCount = 0
  private let blocks: UnsafeMutablePointer<Block>
  private let blockCapacity: Int
  private(set) var blockCount = 0
  private let pages: UnsafeMutablePointer<CodePageEntry>
  private let pageCapacity: Int
  private var pageCount = 0
  private let hash: UnsafeMutablePointer<UnsafeMutablePointer<Block>?>
  private let pageHash: UnsafeMutablePointer<UnsafeMutablePointer<CodePageEntry>?>
  let jumps: UnsafeMutablePointer<JumpEntry>
  /// Host code of the same vCPU; nil until something is translated.
  var translations: TranslationCache?

  // Counters for `info jit`.
  private(set) var decodedBlocks: UInt64 = 0
  private(set) var decodedInstructions: UInt64 = 0
  private(set) var invalidations: UInt64 = 0
  private(set) var resets: UInt64 = 0

  /// Nil when the host has no address space left.
  init?(bytes: Int) {
    let wanted = max(bytes, 1 << 20)
    instructionCapacity = wanted / 112
    blockCapacity = instructionCapacity / 3
    pageCapacity = max(instructionCapacity / 16, 1024)
    var total = 0
    func reserve(_ bytes: Int) -> Int {
      let at = total
      total += (bytes + 63) & ~63
      return at
    }
    let a = reserve(instructionCapacity * MemoryLayout<X86Instruction>.stride)
    let b = reserve(blockCapacity * MemoryLayout<Block>.stride)
    let p = reserve(pageCapacity * MemoryLayout<CodePageEntry>.stride)
    let h = reserve(BlockCache.hashSize * 8)
    let ph = reserve(BlockCache.pageHashSize * 8)
    let j = reserve(BlockCache.jumpSize * MemoryLayout<JumpEntry>.stride)
    size = total
    let map = unsafe mmap(
      nil, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    guard let map = unsafe map, unsafe map != MAP_FAILED else { return nil }
    unsafe memory = map
    unsafe instructions = (map + a).assumingMemoryBound(to: X86Instruction.self)
    unsafe blocks = (map + b).assumingMemoryBound(to: Block.self)
    unsafe pages = (map + p).assumingMemoryBound(to: CodePageEntry.self)
    unsafe hash = (map + h).assumingMemoryBound(to: UnsafeMutablePointer<Block>?.self)
    unsafe pageHash = (map + ph).assumingMemoryBound(
      to: UnsafeMutablePointer<CodePageEntry>?.self)
    unsafe jumps = (map + j).assumingMemoryBound(to: JumpEntry.self)
  }

  deinit { unsafe munmap(memory, size) }

  /// Bytes of the arena that hold decoded instructions.
  var usedBytes: Int { instructionCount * MemoryLayout<X86Instruction>.stride }
  var instructionsHeld: Int { instructionCount }

  private static func slot(_ physical: UInt64) -> Int {
    let mixed = physical ^ (physical &>> 13)
    return Int(mixed & UInt64(hashSize - 1))
  }
  @inline(__always) static func jumpSlot(_ linear: UInt64) -> Int {
    Int((linear ^ linear &>> 12) & UInt64(jumpSize - 1))
  }
  private static func pageSlot(_ physical: UInt64) -> Int {
    Int(physical &>> 12 & UInt64(pageHashSize - 1))
  }

  @inline(__always) func find(
    _ physical: UInt64, codeSize: UInt8
  ) -> UnsafeMutablePointer<Block>? {
    var candidate = unsafe hash[BlockCache.slot(physical)]
    while let block = unsafe candidate {
      if unsafe block.pointee.physical == physical && block.pointee.codeSize == codeSize {
        return unsafe block
      }
      unsafe candidate = block.pointee.hashNext
    }
    return nil
  }

  /// Whether another block can be built without `reset`.
  var hasRoom: Bool {
    instructionCount + BlockCache.maximumInstructions + 1 < instructionCapacity
      && blockCount + 1 < blockCapacity && pageCount + 1 < pageCapacity
  }

  /// Where the next block's instructions go: room for `maximumInstructions` and the end mark.
  var nextInstruction: UnsafeMutablePointer<X86Instruction> {
    unsafe instructions + instructionCount
  }

  /// Makes a block of the `count` instructions at `nextInstruction`.
  func add(
    physical: UInt64, length: UInt32, count: Int, codeSize: UInt8
  ) -> UnsafeMutablePointer<Block> {
    let first = unsafe nextInstruction
    unsafe BlockCache.end(first + count)
    instructionCount += count + 1
    let block = unsafe blocks + blockCount
    blockCount += 1
    decodedBlocks &+= 1
    decodedInstructions &+= UInt64(count)
    let slot = BlockCache.slot(physical)
    let entry = unsafe page(physical & ~0xFFF)
    unsafe block.initialize(
      to: Block(
        instructions: first, physical: physical, length: length,
        count: UInt32(truncatingIfNeeded: count), codeSize: codeSize, hashNext: hash[slot],
        pageNext: entry.pointee.first))
    unsafe hash[slot] = block
    unsafe entry.pointee.first = block
    return unsafe block
  }

  /// Writes the end mark.
  static func end(_ at: UnsafeMutablePointer<X86Instruction>) {
    unsafe at.pointee = X86Instruction()
    unsafe at.pointee.handler = Operation.leave.rawValue
  }

  private func page(_ page: UInt64) -> UnsafeMutablePointer<CodePageEntry> {
    let slot = BlockCache.pageSlot(page)
    if let found = unsafe existing(page) { return unsafe found }
    let entry = unsafe pages + pageCount
    pageCount += 1
    unsafe entry.initialize(
      to: CodePageEntry(page: page, first: nil, next: pageHash[slot], invalidations: 0))
    unsafe pageHash[slot] = entry
    return unsafe entry
  }

  private func existing(_ page: UInt64) -> UnsafeMutablePointer<CodePageEntry>? {
    var candidate = unsafe pageHash[BlockCache.pageSlot(page)]
    while let entry = unsafe candidate {
      if unsafe entry.pointee.page == page { return unsafe entry }
      unsafe candidate = entry.pointee.next
    }
    return nil
  }

  /// Forgets the blocks that overlap the bytes, which lie in one page. True when the page has none left.
  ///
  /// Pages that are overwritten again and again (code and data mixed) lose only what was hit, others everything.
  func invalidate(_ physical: UInt64, length: UInt64, wholePage: Bool) -> Bool {
    let page = physical & ~0xFFF
    let found = unsafe existing(page)
    unsafe found?.pointee.invalidations &+= 1
    let whole = unsafe wholePage || (found?.pointee.invalidations ?? 0) <= 8
    let isUntranslated =
      translations?.invalidate(physical, length: length, wholePage: whole) ?? true
    guard let entry = unsafe found, unsafe entry.pointee.first != nil else { return isUntranslated }
    var link = unsafe entry.pointee.first
    unsafe entry.pointee.first = nil
    var kept: UnsafeMutablePointer<Block>?
    while let block = unsafe link {
      unsafe link = block.pointee.pageNext
      let start = unsafe block.pointee.physical
      let end = unsafe start &+ UInt64(block.pointee.length)
      if whole || (start < physical &+ length && physical < end) {
        unsafe kill(block)
      } else {
        unsafe block.pointee.pageNext = kept
        unsafe kept = block
      }
    }
    unsafe entry.pointee.first = kept
    return unsafe kept == nil && isUntranslated
  }

  private func kill(_ block: UnsafeMutablePointer<Block>) {
    invalidations &+= 1
    let first = unsafe block.pointee.instructions
    for k in 0..<Int(unsafe block.pointee.count) {
      unsafe first[k].handler = Operation.leave.rawValue
    }
    let slot = unsafe BlockCache.slot(block.pointee.physical)
    if unsafe hash[slot] == block {
      unsafe hash[slot] = block.pointee.hashNext
    } else {
      var at = unsafe hash[slot]
      while let other = unsafe at {
        if unsafe other.pointee.hashNext == block {
          unsafe other.pointee.hashNext = block.pointee.hashNext
          break
        }
        unsafe at = other.pointee.hashNext
      }
    }
    // No physical address ends like this: nothing finds it again.
    unsafe block.pointee.physical = UInt64.max
  }

  /// Empties everything. Only between blocks.
  func reset() {
    instructionCount = 0
    blockCount = 0
    pageCount = 0
    resets &+= 1
    translations?.reset()
    unsafe memset(hash, 0, BlockCache.hashSize * 8)
    unsafe memset(pageHash, 0, BlockCache.pageHashSize * 8)
    unsafe memset(jumps, 0, BlockCache.jumpSize * MemoryLayout<JumpEntry>.stride)
  }
}
