import CX86
import Synchronization

/// Encodings that a processor treats alike in whether they exist: all but the numbers of registers and the immediate.
struct EncodingClass {
  let index: Int

  static let count = 1 << 17 | 1 << 11

  /// MMX, SSE, AVX. `isGroup`: ModRM.reg is part of the opcode (71 to 73, in the place of a fourth map).
  @inline(__always)
  init(_ i: borrowing X86Instruction, vex: Bool, wide: Bool, memory: Bool, isGroup: Bool) {
    var bits = Int(i.pp & 3) << 10 | (wide ? 1 : 0) << 13 | (memory ? 1 : 0) << 16
    if isGroup {
      bits |= Int(i.opcode & 3) | Int(i.modrm &>> 3 & 7) << 2 | 3 << 8
    } else {
      bits |= Int(i.opcode) | Int((i.map &- 1) & 3) << 8
    }
    // A vvvv that names nothing must be 0.
    if vex { bits |= 1 << 12 | Int(i.vexL & 1) << 14 | (i.vexV != 0 ? 1 : 0) << 15 }
    index = bits
  }

  /// x87.
  init(x87 opcode: UInt8, modrm: UInt8) {
    index = 1 << 17 | Int(opcode & 7) << 8 | Int(modrm < 0xC0 ? modrm & 0x38 : modrm)
  }
}

/// Executable memory for stubs, shared by all vCPUs of the process: written through one mapping, executed through another.
///
/// Bounded: when it is full, further instructions take turns in one slot (`runUncached`), slowly but exactly.
final class StubArena: Sendable {
  static let shared = StubArena()

  /// 16 MiB: room for about 130,000 different instructions.
  private static let capacity = 16 << 20
  private static let slotSize = 512
  /// Before each stub: its key.
  private static let headerSize = 16
  private static let recentCount = 1 << 12

  private struct Contents {
    var used: Int
    var stubs: [StubKey: UInt64] = [:]
  }

  // SAFETY (whole file): two mappings made once and never unmapped; the writable one is written only under `contents`, and a
  // stub's bytes no more once its address was given out. `recent` and `verdicts` are never freed and accessed atomically.
  private let writable: UInt
  let executable: UInt64
  private let contents: Mutex<Contents>
  /// Addresses of stubs, by a hash of their keys; 0: none.
  private let recent: UInt64
  /// A byte for each `EncodingClass`: 0 not yet known, 1 executed by the host, 2 undefined.
  private let verdicts: UInt64
  /// Whether FXSAVE on this host always saves the x87 pointers, not only while an exception is pending.
  let savesPointers = x86_saves_x87_pointers() != 0

  private init() {
    let words = UnsafeMutablePointer<UInt64>.allocate(capacity: Self.recentCount)
    unsafe words.initialize(repeating: 0, count: Self.recentCount)
    recent = UInt64(UInt(bitPattern: words))
    let bytes = UnsafeMutablePointer<UInt8>.allocate(capacity: EncodingClass.count)
    unsafe bytes.initialize(repeating: 0, count: EncodingClass.count)
    verdicts = UInt64(UInt(bitPattern: bytes))
    var write: UnsafeMutableRawPointer?
    var execute: UnsafeMutableRawPointer?
    let result = unsafe x86_stubs_map(Self.capacity, &write, &execute)
    guard result == 0, let write = unsafe write, let execute = unsafe execute,
      unsafe x86_native_install(execute, Self.capacity) == 0
    else {
      writable = 0
      executable = 0
      contents = Mutex(Contents(used: Self.capacity))
      return
    }
    writable = UInt(bitPattern: write)
    executable = UInt64(UInt(bitPattern: execute))
    // The first slot serves `runUncached`.
    contents = Mutex(Contents(used: Self.slotSize))
  }

  /// Whether the host let us have executable memory.
  var isUsable: Bool { executable != 0 }

  /// Whether the host executes encodings of this class, rather than raising #UD. Found out once, by running what `build` makes
  /// of one of them on a scratch state.
  @inline(__always) func executes(_ encoding: EncodingClass, _ build: () -> [UInt8]) -> Bool {
    let verdict = x86_byte_load(verdicts &+ UInt64(encoding.index))
    return verdict != 0 ? verdict == 1 : probe(encoding, build())
  }

  @inline(never) private func probe(_ encoding: EncodingClass, _ code: [UInt8]) -> Bool {
    // Without executable memory `runUncached` says #UD.
    guard isUsable, code.count <= Self.slotSize else { return true }
    return contents.withLock { _ in
      write(code, at: 0)
      x86_serialize()
      let isDefined = runOnScratch(executable) != 6
      x86_byte_store(verdicts &+ UInt64(encoding.index), isDefined ? 1 : 2)
      return isDefined
    }
  }

  /// The address of the stub for `key`, made by `build` when it is new; 0 when the arena is full.
  func stub(_ key: StubKey, _ build: () -> [UInt8]) -> UInt64 {
    let slot = recent &+ (key.value &* 0x9E37_79B9_7F4A_7C15) >> 52 &* 8
    let found = x86_word_load(slot)
    if found != 0,
      let header = unsafe UnsafePointer<UInt64>(bitPattern: UInt(found) &- UInt(Self.headerSize)),
      unsafe header.pointee == key.value
    {
      return found
    }
    return contents.withLock { contents in
      if let address = contents.stubs[key] {
        x86_word_store(slot, address)
        return address
      }
      let code = build()
      let size = (Self.headerSize + code.count + 15) & ~15
      guard contents.used + size <= Self.capacity else { return 0 }
      let header = (0..<Self.headerSize).map {
        $0 < 8 ? UInt8(truncatingIfNeeded: key.value >> UInt64($0 * 8)) : 0
      }
      write(header + code, at: contents.used)
      let address = executable + UInt64(contents.used + Self.headerSize)
      contents.used += size
      contents.stubs[key] = address
      x86_word_store(slot, address)
      return address
    }
  }

  /// Runs a stub on registers that nobody needs. The lock is held.
  private func runOnScratch(_ address: UInt64) -> UInt8 {
    // Three pages of our own, freed below: state, XSAVE area, memory operand.
    let scratch = UnsafeMutableRawPointer.allocate(byteCount: 3 * 4096, alignment: 4096)
    defer { unsafe scratch.deallocate() }
    unsafe scratch.initializeMemory(as: UInt8.self, repeating: 0, count: 3 * 4096)
    unsafe scratch.storeBytes(of: 0x37F, toByteOffset: 4096, as: UInt16.self)
    unsafe scratch.storeBytes(of: 0x1F80, toByteOffset: 4096 + 24, as: UInt32.self)
    return unsafe x86_native_run(scratch, address, scratch + 8192)
  }

  /// Runs `code` in the common slot. For when the arena is full.
  func runUncached(_ code: [UInt8], _ body: (UInt64) -> UInt8) -> UInt8 {
    guard isUsable, code.count <= Self.slotSize else { return 6 }
    return contents.withLock { _ in
      write(code, at: 0)
      x86_serialize()
      return body(executable)
    }
  }

  private func write(_ code: [UInt8], at offset: Int) {
    // SAFETY: the callers checked that offset + count is within the mapping; the lock is held.
    guard let base = unsafe UnsafeMutableRawPointer(bitPattern: writable + UInt(offset)) else {
      return
    }
    unsafe code.withUnsafeBytes { bytes in
      guard let source = bytes.baseAddress else { return }
      unsafe base.copyMemory(from: source, byteCount: bytes.count)
    }
  }
}
