package import Shm

/// RAM of a machine with a driver that breaks every rule: 1 MiB at 0 is the driver's own; 1 MiB at `tame` is not, and most of it is
/// canaries, which no device may ever write to.
package struct WatchedRAM: Sendable {
  package static let wildSize: UInt64 = 1 << 20
  /// Guest-physical address of 128 KiB for drivers that behave.
  package static let tame: UInt64 = 0x5C00_0000
  private static let tameSize: UInt64 = 1 << 20
  private static let canaries = tame + 0x2_0000
  private static let canary: UInt8 = 0x5C

  package let memory = GuestMemory()

  package init() throws {
    memory.setSlots([
      MemorySlot(
        guest: GuestAddress(0), size: WatchedRAM.wildSize,
        block: try RAMBlock(name: "wild", size: Int(WatchedRAM.wildSize))),
      MemorySlot(
        guest: GuestAddress(WatchedRAM.tame), size: WatchedRAM.tameSize,
        block: try RAMBlock(name: "tame", size: Int(WatchedRAM.tameSize))),
    ])
    memory.write(
      GuestAddress(WatchedRAM.canaries),
      [UInt8](repeating: WatchedRAM.canary, count: WatchedRAM.canaryCount))
  }

  private static var canaryCount: Int { Int(tame + tameSize - canaries) }

  /// Whether nobody wrote where nobody may.
  package var isIntact: Bool {
    memory.read(GuestAddress(WatchedRAM.canaries), count: WatchedRAM.canaryCount)?
      .allSatisfy { $0 == WatchedRAM.canary } ?? false
  }
}
