package import DeviceModel
import Synchronization

/// Message-signalled interrupts, extended (PCI 3.0, 6.8.2): the capability, its vector table and its pending bits.
///
/// Table and pending bits are one window of a memory BAR: the table from byte 0, the pending bits from `pendingOffset`.
package final class MSIX: BusDevice {
  /// Bytes of one table entry.
  private static let entrySize = 16
  /// Where the pending bits begin.
  package static let pendingOffset: UInt64 = 0x800
  /// Bytes of the window.
  package static let windowSize: UInt64 = 0x1000
  /// The most vectors whose table fits below the pending bits.
  package static let maximumVectors = Int(pendingOffset) / entrySize

  private struct State {
    /// Entries of four doublewords: address low and high, data, control (bit 0 masks).
    var table: [UInt32]
    var pending: [UInt64]
    var isEnabled = false
    var isFunctionMasked = false
    var capability = 0
  }
  private let state: Mutex<State>
  private let signal: @Sendable (UInt64, UInt32) -> Void
  /// How many vectors there are.
  package let vectors: Int
  /// Its window.
  package let layout: PCIBarLayout

  /// `vectors` 1 to `maximumVectors`, in the memory BAR `bar`.
  package init(vectors: Int, bar: Int, context: MachineContext) {
    self.vectors = min(max(vectors, 1), MSIX.maximumVectors)
    layout = PCIBarLayout(index: bar, kind: .memory32, size: MSIX.windowSize)
    signal = context.signalMSI
    state = Mutex(
      State(
        table: MSIX.initialTable(self.vectors),
        pending: [UInt64](repeating: 0, count: (self.vectors + 63) / 64)))
  }

  private static func initialTable(_ vectors: Int) -> [UInt32] {
    (0..<vectors * 4).map { $0 & 3 == 3 ? 1 : 0 }
  }

  /// Adds the capability; false when the configuration space is full.
  package func add(to configuration: inout PCIConfiguration) -> Bool {
    let bar = UInt32(layout.index)
    let control = UInt16(vectors - 1)
    func bytes(_ value: UInt32) -> [UInt8] {
      (0..<4).map { UInt8(truncatingIfNeeded: value >> UInt32($0 * 8)) }
    }
    let contents =
      [UInt8(truncatingIfNeeded: control), UInt8(control >> 8)] + bytes(bar)
      + bytes(UInt32(MSIX.pendingOffset) | bar)
    // Software may enable (bit 15) and mask (bit 14).
    guard let offset = configuration.addCapability(0x11, contents, writable: [0, 0xC0]) else {
      return false
    }
    state.withLock { $0.capability = offset }
    return true
  }

  /// Whether software chose these messages over the interrupt pin.
  package var isEnabled: Bool { state.withLock { $0.isEnabled } }

  /// Takes over enable and mask bits after a write to the configuration space. Held-back messages go out.
  package func configurationWritten(_ configuration: PCIConfiguration) {
    let due = state.withLock { state in
      let control = configuration.bytes[state.capability + 3]
      state.isEnabled = control & 0x80 != 0
      state.isFunctionMasked = control & 0x40 != 0
      return MSIX.takePending(&state)
    }
    for (address, data) in due { signal(address, data) }
  }

  package func reset() {
    state.withLock { state in
      state.table = MSIX.initialTable(vectors)
      for index in state.pending.indices { state.pending[index] = 0 }
      state.isEnabled = false
      state.isFunctionMasked = false
    }
  }

  /// Signals a vector: sends its message, or keeps it while masked. Any thread; a vector out of range is nobody's.
  package func notify(_ vector: Int) {
    let message: (UInt64, UInt32)? = state.withLock { state in
      guard state.isEnabled, vector >= 0, vector < vectors else { return nil }
      if state.isFunctionMasked || state.table[vector * 4 + 3] & 1 != 0 {
        state.pending[vector / 64] |= 1 << UInt64(vector % 64)
        return nil
      }
      return MSIX.message(state, vector)
    }
    if let message { signal(message.0, message.1) }
  }

  private static func message(_ state: borrowing State, _ vector: Int) -> (UInt64, UInt32) {
    let at = vector * 4
    return (UInt64(state.table[at + 1]) << 32 | UInt64(state.table[at]), state.table[at + 2])
  }

  /// Pending vectors that nothing masks any more.
  private static func takePending(_ state: inout State) -> [(UInt64, UInt32)] {
    guard state.isEnabled, !state.isFunctionMasked else { return [] }
    var due: [(UInt64, UInt32)] = []
    for word in state.pending.indices {
      var rest = state.pending[word]
      while rest != 0 {
        let bit = rest.trailingZeroBitCount
        rest &= rest &- 1
        let vector = word * 64 + bit
        guard state.table[vector * 4 + 3] & 1 == 0 else { continue }
        state.pending[word] &= ~(1 << UInt64(bit))
        due.append(message(state, vector))
      }
    }
    return due
  }

  // MARK: - The window

  package func read(_ access: BusAccess) -> UInt64 {
    state.withLock { state in
      let value = MSIX.doubleword(state, access.offset & ~3)
      if access.width == 8 {
        return UInt64(MSIX.doubleword(state, (access.offset & ~3) &+ 4)) << 32 | UInt64(value)
      }
      return UInt64(value) >> ((access.offset & 3) * 8)
    }
  }

  private static func doubleword(_ state: borrowing State, _ offset: UInt64) -> UInt32 {
    let index = Int(truncatingIfNeeded: offset / 4)
    if state.table.indices.contains(index) { return state.table[index] }
    guard offset >= pendingOffset else { return 0 }
    let word = Int(truncatingIfNeeded: (offset - pendingOffset) / 8)
    guard state.pending.indices.contains(word) else { return 0 }
    return UInt32(truncatingIfNeeded: state.pending[word] >> (offset & 4 == 0 ? 0 : 32))
  }

  /// Only whole doublewords may be written (6.8.2).
  package func write(_ access: BusAccess, _ value: UInt64) {
    guard access.width >= 4, access.offset & 3 == 0 else { return }
    let due: [(UInt64, UInt32)] = state.withLock { state in
      for part in 0..<access.width / 4 {
        let index = Int(truncatingIfNeeded: access.offset / 4) &+ part
        guard state.table.indices.contains(index) else { continue }
        let word = UInt32(truncatingIfNeeded: value >> UInt64(part * 32))
        state.table[index] = index & 3 == 3 ? word & 1 : index & 3 == 0 ? word & ~3 : word
      }
      return MSIX.takePending(&state)
    }
    for (address, data) in due { signal(address, data) }
  }
}
