package import Devices
package import Shm

/// Where a PC's RAM and firmware lie: a pure model of the board's memory decoding.
package struct PCMemoryMap: Equatable, Sendable {
  /// Bytes of RAM in all.
  package let ramSize: UInt64
  /// RAM from address 0 up to the PCI hole.
  package let lowSize: UInt64
  /// RAM from 4 GiB up.
  package var highSize: UInt64 { ramSize - lowSize }

  /// The first address above the PCI hole.
  package static let fourGiB: UInt64 = 1 << 32
  /// Where the addresses of IOAPIC, local APICs and firmware begin.
  private static let interruptControllers: UInt64 = 0xFEC0_0000
  /// VGA memory and expansion ROMs lie between.
  package static let legacyHole: Range<UInt64> = 0xA0000..<0xC0000
  /// With more RAM than this the low part ends at 3 GiB, so that both parts begin and end on a gigabyte.
  private static let largestLow: UInt64 = 0xE000_0000

  /// - Parameter limit: the user's `max-ram-below-4g`.
  package init(ramSize: UInt64, limit: UInt64? = nil) {
    self.ramSize = ramSize
    // RAM never reaches the IOAPIC, the local APICs and the firmware at the end of the 4 GiB.
    let bound = min(limit ?? PCMemoryMap.largestLow, PCMemoryMap.interruptControllers)
    lowSize = ramSize < bound ? ramSize : min(bound, 0xC000_0000)
  }

  /// The memory slots when the chipset decodes 0xC0000 to 0xFFFFF as `shadow` says.
  ///
  /// `firmware` ends at 4 GiB, and its last 128 KiB are seen below 1 MiB where no RAM shadows them.
  package func slots(
    ram: RAMBlock, firmware: RAMBlock?, shadow: [ShadowSegment]
  ) -> [MemorySlot] {
    var slots: [MemorySlot] = []
    func add(_ start: UInt64, _ end: UInt64, _ block: RAMBlock, _ offset: UInt64, _ readOnly: Bool)
    {
      guard end > start else { return }
      if let last = slots.last, last.block === block, last.end == start,
        last.isReadOnly == readOnly, last.offset + last.size == offset
      {
        slots[slots.count - 1].size += end - start
      } else {
        slots.append(
          MemorySlot(
            guest: GuestAddress(start), size: end - start, block: block, offset: offset,
            isReadOnly: readOnly))
      }
    }
    add(0, min(PCMemoryMap.legacyHole.lowerBound, lowSize), ram, 0, false)
    let romSize = firmware.map { UInt64($0.size) } ?? 0
    let alias = min(romSize, 0x20000)
    for segment in shadow {
      let end = segment.start + segment.size
      if segment.readsRAM {
        if end <= lowSize { add(segment.start, end, ram, segment.start, !segment.writesRAM) }
      } else if let firmware, segment.start >= 0x100000 - alias {
        let offset = romSize - (0x100000 - segment.start)
        add(segment.start, end, firmware, offset, true)
      }
    }
    add(0x100000, lowSize, ram, 0x100000, false)
    if let firmware {
      add(PCMemoryMap.fourGiB - romSize, PCMemoryMap.fourGiB, firmware, 0, true)
    }
    add(PCMemoryMap.fourGiB, PCMemoryMap.fourGiB + highSize, ram, lowSize, false)
    return slots
  }
}
