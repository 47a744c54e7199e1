import Shm

/// The flat memory map that node 0 publishes, as bytes (distributed.md, section 4, CHIPSET).
///
/// | argument of the frame | body |
/// | --- | --- |
/// | 0 \| block << 8 \| size of the block << 16 | eight bytes offset, then that part of a ROM's contents |
/// | 1 | a map |
/// | 2 | eight bytes: the version that the sender has put in place |
///
/// A map: version (8), A20 gate (1), zero (3), number of doorbells (2), number of slots (2); each slot: address, size, offset in the block
/// (8 each), block (1), read-only (1), zeroes (6); each doorbell: address, size (8 each). Block 0 is RAM, which every node has; others are
/// ROMs, whose contents came before. Doorbells are where vCPUs need not wait for their writes to devices.
struct ChipsetMap: Equatable {
  struct Slot: Equatable {
    var guest: UInt64
    var size: UInt64
    var offset: UInt64
    var block: UInt8
    var isReadOnly: Bool
  }
  var version: UInt64
  var isA20Open: Bool
  var slots: [Slot]
  var doorbells: [Range<UInt64>] = []

  enum Kind: UInt8 { case contents = 0, map = 1, acknowledgement = 2 }

  /// Number of RAM's block.
  static let ram: UInt8 = 0
  /// Most bytes of a ROM in one frame.
  static let chunk = 32 << 10
  /// Most bytes of a ROM.
  static let largestROM = 1 << 26

  private static let headSize = 16
  private static let slotSize = 32
  private static let doorbellSize = 16
  /// Most doorbells: the bodies of frames are limited, and writes elsewhere are only slower.
  static let doorbellLimit = 1024

  var bytes: [UInt8] {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(ChipsetMap.headSize + slots.count * ChipsetMap.slotSize)
    bytes.append64(version)
    bytes += [isA20Open ? 1 : 0, 0, 0, 0]
    bytes.append16(UInt16(truncatingIfNeeded: doorbells.count))
    bytes.append16(UInt16(truncatingIfNeeded: slots.count))
    for slot in slots {
      bytes.append64(slot.guest)
      bytes.append64(slot.size)
      bytes.append64(slot.offset)
      bytes += [slot.block, slot.isReadOnly ? 1 : 0, 0, 0, 0, 0, 0, 0]
    }
    for range in doorbells {
      bytes.append64(range.lowerBound)
      bytes.append64(range.upperBound &- range.lowerBound)
    }
    return bytes
  }

  init(version: UInt64, isA20Open: Bool, slots: [Slot], doorbells: [Range<UInt64>] = []) {
    self.doorbells = doorbells
    self.version = version
    self.isA20Open = isA20Open
    self.slots = slots
  }

  /// Nil unless the bytes are a map with slots of whole pages, in order and without overlap.
  init?(_ bytes: [UInt8]) {
    let reader = LittleEndian(bytes)
    let count = Int(reader.u16(14))
    let doorbellCount = Int(reader.u16(12))
    let doorbellStart = ChipsetMap.headSize + count * ChipsetMap.slotSize
    guard bytes.count == doorbellStart + doorbellCount * ChipsetMap.doorbellSize,
      count <= GuestMemory.capacity, doorbellCount <= ChipsetMap.doorbellLimit, bytes[8] <= 1
    else { return nil }
    version = reader.u64(0)
    isA20Open = bytes[8] == 1
    slots = []
    var end: UInt64 = 0
    let pageMask = GuestAddress.pageSize - 1
    for index in 0..<count {
      let at = ChipsetMap.headSize + index * ChipsetMap.slotSize
      let slot = Slot(
        guest: reader.u64(at), size: reader.u64(at + 8), offset: reader.u64(at + 16),
        block: reader.u8(at + 24), isReadOnly: reader.u8(at + 25) == 1)
      guard slot.guest >= end, slot.size > 0, slot.size <= 1 << 52, slot.guest <= 1 << 52,
        slot.offset <= 1 << 52, (slot.guest | slot.size | slot.offset) & pageMask == 0
      else { return nil }
      end = slot.guest + slot.size
      slots.append(slot)
    }
    end = 0
    for index in 0..<doorbellCount {
      let at = doorbellStart + index * ChipsetMap.doorbellSize
      let (start, size) = (reader.u64(at), reader.u64(at + 8))
      guard start >= end, start <= 1 << 52, size > 0, size <= 1 << 52 else { return nil }
      end = start + size
      doorbells.append(start..<end)
    }
  }
}
