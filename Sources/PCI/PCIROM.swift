package import DeviceModel

/// A function's expansion ROM (PCI 3.0, 6.2.5.2 and 6.3): firmware copies and runs what is in it.
package final class PCIROM: BusDevice {
  /// Its register's number among the base address registers.
  package static let index = 6
  private let bytes: [UInt8]
  /// Bytes that the guest sees: a power of two, from 2 KiB on.
  package let layout: PCIBarLayout

  /// `size` is a power of two that is not below the number of bytes, or 0 for the next one.
  package init(_ bytes: [UInt8], size: UInt64 = 0) {
    self.bytes = bytes
    layout = PCIBarLayout(
      index: PCIROM.index, kind: .memory32, size: max(UInt64(bytes.count), size, 2048))
  }

  /// The same image for a function with these numbers: firmware runs what names its function. For an image that serves several functions.
  package func naming(_ identity: PCIIdentity) -> PCIROM {
    var copy = bytes
    func word(_ at: Int) -> Int? {
      at >= 0 && at + 2 <= copy.count ? Int(copy[at]) | Int(copy[at + 1]) << 8 : nil
    }
    guard word(0) == 0xAA55, let data = word(0x18), word(data) == 0x4350,
      word(data + 2) == 0x5249, data + 8 <= copy.count
    else { return self }
    let numbers = [identity.vendor, identity.device].flatMap {
      [UInt8(truncatingIfNeeded: $0), UInt8($0 >> 8)]
    }
    for (index, byte) in numbers.enumerated() {
      // All bytes of an image sum up to zero; the one at 6 is there for that.
      copy[6] = copy[6] &+ copy[data + 4 + index] &- byte
      copy[data + 4 + index] = byte
    }
    return PCIROM(copy, size: layout.size)
  }

  package func read(_ access: BusAccess) -> UInt64 {
    var value: UInt64 = 0
    for index in 0..<access.width {
      let at = Int(truncatingIfNeeded: access.offset) &+ index
      let byte: UInt8 = bytes.indices.contains(at) ? bytes[at] : 0xFF
      value |= UInt64(byte) << UInt64(index * 8)
    }
    return value
  }

  package func write(_ access: BusAccess, _ value: UInt64) {}
}
