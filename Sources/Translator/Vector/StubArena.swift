import CX86
import Synchronization

/// Executable memory for stubs, shared by all vCPUs of the process: written through one mapping, executed through another.
///
/// Bounded: when it is full, further instructions take turns in one slot (`runUncached`), slowly but exactly.
final class StubArena: Sendable {
  static let shared = StubArena()

  /// 16 MiB: room for about 130,000 different instructions.
  private static let capacity = 16 << 20
  private static let slotSize = 512

  private struct Contents {
    var used: Int
    var stubs: [StubKey: UInt64] = [:]
  }

  // SAFETY: two mappings made once and never unmapped; the writable one is written only under `contents`.
  private let writable: UInt
  let executable: UInt64
  private let contents: Mutex<Contents>
  /// Whether FXSAVE on this host always saves the x87 pointers, not only while an exception is pending.
  let savesPointers = x86_saves_x87_pointers() != 0

  private init() {
    var write: UnsafeMutableRawPointer?
    var execute: UnsafeMutableRawPointer?
    // SAFETY: both are out parameters of this call.
    let result = unsafe x86_stubs_map(Self.capacity, &write, &execute)
    guard result == 0, let write = unsafe write, let execute = unsafe execute,
      // SAFETY: the mapping just made.
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

  /// What `stub` returns for an encoding that the host finds undefined.
  static let undefined: UInt64 = 1

  /// The address of the stub for `key`, made by `build` when it is new; 0 when the arena is full, `undefined` when the host
  /// raises #UD for the instruction, which is found out by running the stub on a scratch state.
  func stub(_ key: StubKey, _ build: () -> [UInt8]) -> UInt64 {
    contents.withLock { contents in
      if let address = contents.stubs[key] { return address }
      let code = build()
      let size = (code.count + 15) & ~15
      guard contents.used + size <= Self.capacity else { return 0 }
      write(code, at: contents.used)
      let address = executable + UInt64(contents.used)
      if runOnScratch(address) == 6 {
        contents.stubs[key] = Self.undefined
        return Self.undefined
      }
      contents.used += size
      contents.stubs[key] = address
      return address
    }
  }

  /// Runs a stub on registers that nobody needs. The lock is held.
  private func runOnScratch(_ address: UInt64) -> UInt8 {
    // SAFETY: three pages of our own, freed below: state, XSAVE area, memory operand.
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
