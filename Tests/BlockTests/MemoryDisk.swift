import Block
import Glibc
import Host
import Synchronization

/// A file in memory, sparse, that remembers what was done to it: for tests of what images look like after a crash.
final class MemoryDisk: BlockNode {
  enum Event: Sendable {
    case write(UInt64, [UInt8])
    case zero(UInt64, UInt64)
    case truncate(UInt64)
    case flush
    /// The test's own note: this much was promised to be there from here on.
    case mark(Int)
  }

  private struct State {
    var chunks: [UInt64: [UInt8]] = [:]
    var length: UInt64 = 0
    var log: [Event]?
  }

  private static let chunk: UInt64 = 65536
  private let state = Mutex(State())
  let driver = "memory"
  let name: String
  /// Reads and writes count, for tests of how much I/O something costs.
  let reads = Atomic<Int>(0)
  let writes = Atomic<Int>(0)

  init(name: String = "memory", recording: Bool = false) {
    self.name = name
    if recording { state.withLock { $0.log = [] } }
  }

  var length: UInt64 { state.withLock { $0.length } }
  var log: [Event] { state.withLock { $0.log ?? [] } }
  func mark(_ number: Int) { state.withLock { $0.log?.append(.mark(number)) } }
  func record() { state.withLock { $0.log = [] } }

  /// The same content, without the log.
  func copy() -> MemoryDisk {
    let other = MemoryDisk(name: name)
    let (chunks, length) = state.withLock { ($0.chunks, $0.length) }
    other.state.withLock {
      $0.chunks = chunks
      $0.length = length
    }
    return other
  }

  func read(_ offset: UInt64, into target: IOVector) throws(BlockError) {
    reads.wrappingAdd(1, ordering: .relaxed)
    state.withLock { state in
      var done = 0
      while done < target.count {
        let at = offset &+ UInt64(done)
        let inside = Int(at % Self.chunk)
        let count = min(target.count - done, Int(Self.chunk) - inside)
        if let chunk = state.chunks[at / Self.chunk] {
          target.store(Array(chunk[inside..<inside + count]), at: done)
        } else {
          target.fill(0, done, count)
        }
        done += count
      }
    }
  }

  func write(_ offset: UInt64, from source: IOVector, _ flags: WriteFlags) throws(BlockError) {
    writes.wrappingAdd(1, ordering: .relaxed)
    put(offset, source.bytes())
  }

  private func put(_ offset: UInt64, _ bytes: [UInt8]) {
    state.withLock { state in
      state.log?.append(.write(offset, bytes))
      var done = 0
      while done < bytes.count {
        let at = offset + UInt64(done)
        let inside = Int(at % Self.chunk)
        let count = min(bytes.count - done, Int(Self.chunk) - inside)
        var chunk =
          state.chunks.removeValue(forKey: at / Self.chunk)
          ?? [UInt8](repeating: 0, count: Int(Self.chunk))
        chunk.replaceSubrange(inside..<inside + count, with: bytes[done..<done + count])
        state.chunks[at / Self.chunk] = chunk
        done += count
      }
      state.length = max(state.length, offset + UInt64(bytes.count))
    }
  }

  func writeZeroes(_ offset: UInt64, _ count: UInt64, _ flags: WriteFlags) throws(BlockError) {
    state.withLock { state in
      state.log?.append(.zero(offset, count))
      Self.clear(&state, offset, count)
      state.length = max(state.length, offset + count)
    }
  }

  private static func clear(_ state: inout State, _ offset: UInt64, _ count: UInt64) {
    for (key, _) in state.chunks {
      let start = max(offset, key * chunk)
      let end = min(offset &+ count, (key + 1) * chunk)
      guard start < end else { continue }
      if end - start == chunk {
        state.chunks[key] = nil
      } else {
        for at in start..<end { state.chunks[key]?[Int(at - key * chunk)] = 0 }
      }
    }
  }

  func discard(_ offset: UInt64, _ count: UInt64) throws(BlockError) {
    let end = min(offset &+ count, length)
    if end > offset { try writeZeroes(offset, end - offset, []) }
  }

  func flush() throws(BlockError) { state.withLock { $0.log?.append(.flush) } }

  func truncate(to length: UInt64, _ preallocation: Preallocation) throws(BlockError) {
    state.withLock { state in
      state.log?.append(.truncate(length))
      if length < state.length { Self.clear(&state, length, state.length - length) }
      state.length = length
    }
  }

  func status(_ offset: UInt64, _ count: UInt64) throws(BlockError) -> BlockStatus {
    let isHole = state.withLock { $0.chunks[offset / Self.chunk] == nil }
    return BlockStatus(
      length: min(count, Self.chunk - offset % Self.chunk), isAllocated: true, isZero: isHole,
      isData: !isHole, hostOffset: offset)
  }

  // MARK: - Crashes

  /// Does again what the log says. A write may be torn: only the sectors of 512 bytes in `torn` arrive.
  func replay(_ event: Event, torn: ((Int) -> Bool)? = nil) throws(BlockError) {
    switch event {
    case .write(let offset, let bytes):
      guard let torn else { return put(offset, bytes) }
      var at = 0
      var sector = 0
      while at < bytes.count {
        let next = min(bytes.count, at + 512 - Int((offset + UInt64(at)) % 512))
        if torn(sector) { put(offset + UInt64(at), Array(bytes[at..<next])) }
        at = next
        sector += 1
      }
    case .zero(let offset, let count): try writeZeroes(offset, count, [])
    case .truncate(let length): try truncate(to: length, .off)
    case .flush, .mark: break
    }
  }

  // MARK: - Files

  /// Writes it to a file, sparsely.
  func save(_ path: String) {
    let descriptor = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0o600)
    defer { _ = Glibc.close(descriptor) }
    state.withLock { state in
      ftruncate(descriptor, Int(state.length))
      for (key, chunk) in state.chunks where key * Self.chunk < state.length {
        let count = min(chunk.count, Int(state.length - key * Self.chunk))
        _ = chunk.withUnsafeBytes {
          pwrite(descriptor, $0.baseAddress, count, Int(key * Self.chunk))
        }
      }
    }
  }

  /// What a file holds.
  static func load(_ path: String) -> MemoryDisk {
    let disk = MemoryDisk(name: path)
    let descriptor = open(path, O_RDONLY)
    defer { _ = Glibc.close(descriptor) }
    let length = lseek(descriptor, 0, SEEK_END)
    guard length >= 0 else { return disk }
    disk.state.withLock { state in
      state.length = UInt64(length)
      // SEEK_DATA is 3.
      var at = lseek(descriptor, 0, 3)
      while at >= 0, at < length {
        at = at / Int(chunk) * Int(chunk)
        var bytes = [UInt8](repeating: 0, count: Int(chunk))
        let count = bytes.withUnsafeMutableBytes {
          pread(descriptor, $0.baseAddress, Int(chunk), at)
        }
        if count > 0, bytes.contains(where: { $0 != 0 }) {
          state.chunks[UInt64(at) / chunk] = bytes
        }
        at = lseek(descriptor, at + Int(chunk), 3)
      }
    }
    return disk
  }

  /// Where the other one differs, or nil.
  func firstDifference(from other: MemoryDisk) -> String? {
    if length != other.length { return "length \(length) against \(other.length)" }
    let mine = state.withLock { $0.chunks }
    let theirs = other.state.withLock { $0.chunks }
    let none = [UInt8](repeating: 0, count: Int(Self.chunk))
    for key in Set(mine.keys).union(theirs.keys).sorted() {
      let (a, b) = (mine[key] ?? none, theirs[key] ?? none)
      if let index = a.indices.first(where: { a[$0] != b[$0] }) {
        return "offset \(key * Self.chunk + UInt64(index)): \(a[index]) against \(b[index])"
      }
    }
    return nil
  }
}
