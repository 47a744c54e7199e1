import Block
import Glibc
import Host
import Synchronization

/// qcow2 images that are damaged, or no images at all: opened, checked, repaired, read, written, with internal snapshots.
///
/// An even first byte: what follows the script is the image as it is. An odd one: an image that we make is damaged as the input says.
/// An image that needs no repair but of leaks stays whole whatever is done to it, and what is written into it is read
/// from it.
struct ImageFuzzer: Fuzzer {
  private static let scriptLength = 24

  func run(_ input: [UInt8]) {
    var input = Input(input)
    let isMade = input.byte() & 1 != 0
    let script = input.take(ImageFuzzer.scriptLength)
    let disk = FuzzDisk()
    if isMade {
      make(disk, &input)
    } else {
      disk.put(0, input.rest())
    }
    let before = disk.copy()
    exercise(before, script, isWhole: false)
    let lines = Mutex(0)
    guard let first = check(disk, .all, lines), first.checkErrors == 0 else {
      return exercise(disk, script, isWhole: false)
    }
    // What could be mended is: nothing of it is found again.
    let second = check(disk, .nothing, lines)
    guard let second, second.checkErrors == 0, second.corruptions == 0, second.leaks == 0 else {
      require(
        first.corruptions + first.corruptionsFixed > 0 || first.leaks > 0 || disk.isFull,
        "a repair that left nothing is followed by \(second as Any)")
      return exercise(disk, script, isWhole: false)
    }
    // Entries that mean the same cluster, or a table, are counted twice by a repair: that is no image that anybody would have made.
    exercise(disk, script, isWhole: first.corruptionsFixed == 0)
  }

  private func check(
    _ disk: FuzzDisk, _ repair: Qcow2Check.Repair, _ lines: borrowing Mutex<Int>
  ) -> ImageCheckReport? {
    var count = 0
    let report = try? Qcow2Check.run(on: disk, repair: repair) { _ in count += 1 }
    lines.withLock { $0 += count }
    return report
  }

  // MARK: - An image to damage

  private func make(_ disk: FuzzDisk, _ input: inout Input) {
    let kind = input.byte()
    var options = Qcow2CreateOptions(size: (UInt64(kind & 15) + 1) << 18)
    options.clusterSize = [512, 4096, 16384, 65536][Int(kind >> 4 & 3)]
    options.version = kind & 64 != 0 ? 2 : 3
    if options.version == 3 {
      let more = input.byte()
      options.refcountBits = 1 << UInt64(more % 7)
      options.extendedL2 = more & 8 != 0 && options.clusterSize >= 16384
      options.compressionType = more & 16 != 0 ? .zstd : .zlib
      options.lazyRefcounts = more & 32 != 0
      if more & 64 != 0 { options.preallocation = .metadata }
    }
    do throws(BlockError) {
      try Qcow2Image.create(on: disk, options)
      let node = try Qcow2Node.open(
        name: "image", file: disk, backing: nil, dataFile: nil, options: Qcow2Options())
      var actions = Actions(node: node, isWhole: true)
      actions.play(input.take(8))
      try node.close()
    } catch { require(false, "an image cannot be made: \(error.message)") }
    let header = try? Qcow2Header.read(from: disk)
    // Where tables begin, and what to put there; most of it hits metadata.
    while !input.isEmpty {
      let target = input.byte()
      let place = UInt64(input.word())
      let start: UInt64
      switch target & 7 {
      case 0: start = 0
      case 1: start = header?.l1TableOffset ?? 0
      case 2: start = header?.refcountTableOffset ?? 0
      case 3: start = header?.snapshotsOffset ?? 0
      case 4: start = entry(disk, header?.l1TableOffset ?? 0) & 0x00FF_FFFF_FFFF_FE00
      case 5: start = entry(disk, header?.refcountTableOffset ?? 0)
      case 6: start = options.clusterSize * (place & 31)
      default: start = 0
      }
      let at = start &+ (target & 8 != 0 ? place % 512 & ~7 : place % options.clusterSize)
      if at >= disk.length { continue }
      switch target >> 4 & 3 {
      case 0: disk.put(at, [input.byte()])
      case 1: disk.put(at, input.take(8))
      case 2:
        // A place in the image, nearly as it should be.
        let value = options.clusterSize * UInt64(input.byte()) | UInt64(target & 64) << 57
        disk.put(at, (0..<8).map { UInt8(truncatingIfNeeded: value >> UInt64(56 - 8 * $0)) })
      default:
        if input.byte() == 0 { try? disk.truncate(to: at, .off) }
      }
    }
  }

  private func entry(_ disk: FuzzDisk, _ at: UInt64) -> UInt64 {
    let bytes = (try? disk.bytes(at, 8)) ?? []
    return bytes.reduce(0) { $0 << 8 | UInt64($1) }
  }

  // MARK: - Using an image

  private func exercise(_ disk: FuzzDisk, _ script: [UInt8], isWhole: Bool) {
    let lines = Mutex(0)
    if !isWhole { _ = check(disk, .nothing, lines) }
    for isReadOnly in [true, false] {
      var options = Qcow2Options()
      options.readOnly = isReadOnly
      guard
        let node = try? Qcow2Node.open(
          name: "image", file: disk, backing: nil, dataFile: nil, options: options)
      else { continue }
      var actions = Actions(node: node, isWhole: isWhole && !isReadOnly)
      actions.play(script)
      actions.verify()
      require((try? node.close()) != nil || !isWhole || disk.isFull, "an image cannot be closed")
    }
    if !isWhole {
      _ = check(disk, .leaks, lines)
      return
    }
    guard let report = check(disk, .nothing, lines) else {
      return require(disk.isFull, "an image that was whole cannot be checked any more")
    }
    // Clusters behind the end of the file may have been counted as used all along: they are leaks once the file is longer.
    require(
      report.corruptions == 0 && report.checkErrors == 0,
      "an image that was whole is damaged: \(report)")
  }
}

/// The bytes of an input in order; behind the last there are zeros.
private struct Input {
  private let bytes: [UInt8]
  private var position = 0

  init(_ bytes: [UInt8]) { self.bytes = bytes }

  var isEmpty: Bool { position >= bytes.count }

  mutating func byte() -> UInt8 {
    defer { position += 1 }
    return position < bytes.count ? bytes[position] : 0
  }

  mutating func word() -> UInt16 { UInt16(byte()) << 8 | UInt16(byte()) }
  mutating func take(_ count: Int) -> [UInt8] { (0..<count).map { _ in byte() } }
  mutating func rest() -> [UInt8] { Array(bytes.dropFirst(position)) }
}

/// What a script does with an image, and what it must hold then.
private struct Actions {
  let node: Qcow2Node
  /// The image is whole: what is written can be read.
  let isWhole: Bool
  /// What was written last, and nothing since: a start, a length, a byte.
  private var written: [(start: UInt64, length: UInt64, value: UInt8)] = []
  private var names = 0

  init(node: Qcow2Node, isWhole: Bool) {
    self.node = node
    self.isWhole = isWhole
  }

  /// Two bytes are an action.
  mutating func play(_ script: [UInt8]) {
    for index in stride(from: 0, to: script.count - 1, by: 2) {
      step(script[index], script[index + 1])
    }
  }

  private mutating func step(_ action: UInt8, _ detail: UInt8) {
    let size = node.length
    guard size > 0 else { return }
    // From the beginning, or up to the end, with odd offsets and lengths.
    let unit = node.layout.clusterSize / (detail & 64 != 0 ? 4 : 1)
    let number = UInt64(detail & 31)
    let wanted = number * unit + (detail & 32 != 0 ? 512 : 0)
    let offset = detail & 128 != 0 ? size - min(size, wanted + 512) : min(wanted, size - 1) & ~511
    let length = min(size - offset, max(512, min(unit + unit / 2, 1 << 17)) & ~511)
    guard length > 0 else { return }
    switch action & 15 {
    case 0, 1: _ = try? node.bytes(offset, Int(length))
    case 2, 3, 4: write(offset, length, detail | 1)
    case 5:
      forget(offset, length)
      let isDone = (try? node.writeZeroes(offset, length, action & 16 != 0 ? .mayUnmap : [])) != nil
      if isDone { written.append((offset, length, 0)) }
    case 6:
      forget(offset, length)
      try? node.discard(offset, length)
    case 7: try? node.flush()
    case 8: compress(offset, detail)
    case 9:
      snapshot { image throws(BlockError) in
        guard image.header.snapshotCount < 8 else { return }
        let new = Qcow2Maintenance.NewSnapshot(name: "s\(detail)", seconds: 0, nanoseconds: 0)
        _ = try image.createSnapshot(new)
      }
    case 10:
      if snapshot({ image throws(BlockError) in try image.applySnapshot(Int(detail & 3)) }) {
        written = []
      }
    case 11: snapshot { image throws(BlockError) in try image.deleteSnapshot(Int(detail & 3)) }
    case 12:
      written = []
      try? node.truncate(to: UInt64(detail) << 14, .off)
    case 13: walk()
    case 14: amend(detail)
    default:
      let buffer = IOBuffer(count: Int(length))
      _ = try? node.readNow(offset, into: buffer.vector)
    }
  }

  private mutating func write(_ offset: UInt64, _ length: UInt64, _ value: UInt8) {
    forget(offset, length)
    let buffer = IOBuffer(count: Int(length))
    buffer.fill(value, 0..<buffer.count)
    if (try? node.write(offset, from: buffer.vector, [])) != nil {
      written.append((offset, length, value))
    }
  }

  private mutating func compress(_ offset: UInt64, _ value: UInt8) {
    let size = node.layout.clusterSize
    let start = offset / size * size
    let length = min(size, node.length - start)
    forget(start, length)
    let buffer = IOBuffer(count: Int(length))
    buffer.fill(value, 0..<buffer.count)
    if (try? node.write(start, from: buffer.vector, .compressed)) != nil {
      written.append((start, length, value))
    }
  }

  /// What was written there is not there any more; neighbours are of no interest then.
  private mutating func forget(_ offset: UInt64, _ length: UInt64) {
    written.removeAll { $0.start < offset + length && offset < $0.start + $0.length }
  }

  @discardableResult
  private func snapshot(_ body: (inout Qcow2Maintenance) throws(BlockError) -> Void) -> Bool {
    (try? node.maintain(body)) != nil
  }

  private func walk() {
    var at: UInt64 = 0
    var answers: [BlockStatus] = []
    for _ in 0..<64 where at < node.length {
      answers.removeAll()
      guard (try? node.statuses(at, node.length - at, into: &answers)) != nil else { return }
      require(!answers.isEmpty, "no status")
      for answer in answers {
        require(answer.length > 0, "a status of nothing")
        at += answer.length
      }
      require(at <= node.length, "a status beyond the end")
    }
  }

  private func amend(_ detail: UInt8) {
    var options = Qcow2AmendOptions()
    if detail & 1 != 0 { options.version = detail & 2 != 0 ? 2 : 3 }
    if detail & 4 != 0 { options.refcountBits = 1 << UInt64(detail >> 4 & 7) }
    if detail & 8 != 0 { options.lazyRefcounts = detail & 16 != 0 }
    let wanted = options
    snapshot { image throws(BlockError) in try image.amend(wanted) }
  }

  /// Everything that was written is there.
  func verify() {
    guard isWhole else { return }
    for item in written {
      guard let bytes = try? node.bytes(item.start, Int(item.length)) else {
        require(false, "what was written cannot be read")
        return
      }
      require(
        bytes.allSatisfy { $0 == item.value },
        "\(item.length) bytes at \(item.start) are not \(item.value)")
    }
  }
}

/// A file in memory, sparse, with room for some megabytes.
private final class FuzzDisk: BlockNode {
  private struct State {
    var chunks: [UInt64: [UInt8]] = [:]
    var length: UInt64 = 0
    var isFull = false
  }

  private static let chunk: UInt64 = 4096
  private static let room = 4096
  private let state = Mutex(State())
  let driver = "memory"
  let name = "memory"

  var length: UInt64 { state.withLock { $0.length } }
  /// A write was refused for lack of room.
  var isFull: Bool { state.withLock { $0.isFull } }

  func copy() -> FuzzDisk {
    let other = FuzzDisk()
    let (chunks, length) = state.withLock { ($0.chunks, $0.length) }
    other.state.withLock {
      $0.chunks = chunks
      $0.length = length
    }
    return other
  }

  /// Calls `body` with each chunk's number, where in it a range begins, where in the range that is, and how long it is.
  private static func pieces(
    _ offset: UInt64, _ count: Int, _ body: (UInt64, Int, Int, Int) throws(BlockError) -> Void
  ) throws(BlockError) {
    var done = 0
    while done < count {
      let at = offset &+ UInt64(done)
      let inside = Int(at % chunk)
      let part = min(count - done, Int(chunk) - inside)
      try body(at / chunk, inside, done, part)
      done += part
    }
  }

  func read(_ offset: UInt64, into target: IOVector) throws(BlockError) {
    require(offset <= UInt64(Int64.max) - UInt64(target.count), "a read beyond all offsets")
    let chunks = state.withLock { $0.chunks }
    try FuzzDisk.pieces(offset, target.count) { (number, inside, done, part) throws(BlockError) in
      if let chunk = chunks[number] {
        target.store(Array(chunk[inside..<inside + part]), at: done)
      } else {
        target.fill(0, done, part)
      }
    }
  }

  func readNow(_ offset: UInt64, into target: IOVector) throws(BlockError) -> Bool {
    try read(offset, into: target)
    return true
  }

  func write(_ offset: UInt64, from source: IOVector, _ flags: WriteFlags) throws(BlockError) {
    guard offset <= UInt64(Int64.max) - UInt64(source.count) else {
      throw BlockError(EINVAL, "Invalid offset")
    }
    // No file system takes more.
    guard offset < 1 << 50 else { throw BlockError(EFBIG, "File too large") }
    let bytes = source.bytes()
    try state.withLock { (state) throws(BlockError) in
      try FuzzDisk.pieces(offset, bytes.count) { (number, inside, done, part) throws(BlockError) in
        var chunk = state.chunks.removeValue(forKey: number)
        if chunk == nil, state.chunks.count >= FuzzDisk.room {
          state.isFull = true
          throw BlockError(ENOSPC, "No space left on device")
        }
        if chunk == nil { chunk = Array(repeating: 0, count: Int(FuzzDisk.chunk)) }
        chunk?.replaceSubrange(inside..<inside + part, with: bytes[done..<done + part])
        state.chunks[number] = chunk
      }
      state.length = max(state.length, offset + UInt64(bytes.count))
    }
  }

  func put(_ offset: UInt64, _ bytes: [UInt8]) { try? write(offset, bytes) }

  func writeZeroes(_ offset: UInt64, _ count: UInt64, _ flags: WriteFlags) throws(BlockError) {
    guard offset <= 1 << 50, count <= 1 << 50 else { throw BlockError(EFBIG, "File too large") }
    state.withLock { state in
      for number in state.chunks.keys {
        let start = max(offset, number * FuzzDisk.chunk)
        let end = min(offset + count, (number + 1) * FuzzDisk.chunk)
        guard start < end else { continue }
        let base = number * FuzzDisk.chunk
        for at in start..<end { state.chunks[number]?[Int(at - base)] = 0 }
      }
      state.length = max(state.length, offset + count)
    }
  }

  func discard(_ offset: UInt64, _ count: UInt64) throws(BlockError) {
    let end = min(offset &+ count, length)
    if end > offset { try writeZeroes(offset, end - offset, []) }
  }

  func flush() throws(BlockError) {}

  func truncate(to length: UInt64, _ preallocation: Preallocation) throws(BlockError) {
    guard length <= 1 << 50 else { throw BlockError(EFBIG, "File too large") }
    state.withLock { state in
      for number in state.chunks.keys where (number + 1) * FuzzDisk.chunk > length {
        let base = number * FuzzDisk.chunk
        if base >= length {
          state.chunks[number] = nil
        } else {
          for at in Int(length - base)..<Int(FuzzDisk.chunk) { state.chunks[number]?[at] = 0 }
        }
      }
      state.length = length
    }
  }

  func status(_ offset: UInt64, _ count: UInt64) throws(BlockError) -> BlockStatus {
    let (isHole, length) = state.withLock { ($0.chunks[offset / FuzzDisk.chunk] == nil, $0.length) }
    // Behind all data there is one hole.
    let isTail =
      isHole
      && state.withLock { state in
        !state.chunks.keys.contains { $0 > offset / FuzzDisk.chunk }
      }
    let rest = isTail ? max(length, offset + 1) - offset : FuzzDisk.chunk - offset % FuzzDisk.chunk
    return BlockStatus(
      length: min(count, rest), isAllocated: true, isZero: isHole, isData: !isHole,
      hostOffset: offset)
  }
}
