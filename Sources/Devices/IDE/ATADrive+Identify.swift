/// What drives say about themselves (ATA/ATAPI-6, 8.15 and 8.16; SMART 8.55).
extension ATADrive {
  /// Words of a page, to be filled by number.
  private struct Page {
    var bytes = [UInt8](repeating: 0, count: 512)

    subscript(_ word: Int) -> UInt16 {
      get { UInt16(bytes[word * 2]) | UInt16(bytes[word * 2 + 1]) << 8 }
      set {
        bytes[word * 2] = UInt8(truncatingIfNeeded: newValue)
        bytes[word * 2 + 1] = UInt8(newValue >> 8)
      }
    }

    /// Text with the characters of each word swapped, padded with spaces.
    mutating func set(_ text: String, _ words: ClosedRange<Int>) {
      let count = words.count * 2
      var characters = Array(text.utf8.prefix(count))
      characters += [UInt8](repeating: 0x20, count: count - characters.count)
      for index in 0..<count { bytes[words.lowerBound * 2 + (index ^ 1)] = characters[index] }
    }

    mutating func set(_ value: UInt64, _ words: ClosedRange<Int>) {
      for (index, word) in words.enumerated() {
        self[word] = UInt16(truncatingIfNeeded: value >> UInt64(index * 16))
      }
    }

    /// World wide name: the highest part first.
    mutating func setName(_ value: UInt64) {
      for index in 0..<4 {
        self[108 + index] = UInt16(truncatingIfNeeded: value >> UInt64(48 - index * 16))
      }
    }
  }

  /// IDENTIFY DEVICE.
  var identification: [UInt8] {
    var page = Page()
    let shaped = shape.geometry
    page[0] = 0x0040
    page[1] = UInt16(truncatingIfNeeded: shaped.cylinders)
    page[3] = UInt16(truncatingIfNeeded: shaped.heads)
    page[4] = UInt16(truncatingIfNeeded: 512 * shaped.sectors)
    page[5] = 512
    page[6] = UInt16(truncatingIfNeeded: shaped.sectors)
    setNames(&page)
    page[20] = 3
    page[21] = 512
    page[22] = 4
    page[47] = 0x8000 | UInt16(ATADrive.maximumMultiple)
    page[48] = 1
    page[49] = 0x0B00  // LBA, DMA, IORDY
    page[51] = 0x0200
    page[52] = 0x0200
    page[53] = 7
    page[54] = UInt16(truncatingIfNeeded: geometry.cylinders)
    page[55] = UInt16(truncatingIfNeeded: geometry.heads)
    page[56] = UInt16(truncatingIfNeeded: geometry.sectors)
    page.set(
      UInt64(geometry.cylinders) * UInt64(geometry.heads) * UInt64(geometry.sectors), 57...58)
    if multiple > 0 { page[59] = 0x0100 | UInt16(multiple) }
    page.set(min(sectorCount, 0x0FFF_FFFF), 60...61)
    setModes(&page)
    for word in 65...68 { page[word] = 120 }
    if shape.canTrim { page[69] = 1 << 14 }
    page[80] = 0xF0
    page[81] = 0x16
    page[82] = 0x4021  // NOP, write cache, SMART
    page[83] = 0x7400  // FLUSH CACHE (EXT), 48-bit addresses
    let named: UInt16 = shape.worldWideName != 0 ? 0x0100 : 0
    page[84] = 0x4000 | named
    page[85] = 0x4000 | (isWriteCacheOn ? 0x20 : 0) | (isSmartOn ? 1 : 0)
    page[86] = 0x3400
    page[87] = 0x4000 | named
    page[93] = 0x6001
    page.set(sectorCount, 100...103)
    if shape.physicalBlockExponent > 0 { page[106] = 0x6000 | shape.physicalBlockExponent }
    if shape.worldWideName != 0 { page.setName(shape.worldWideName) }
    if shape.canTrim {
      page[105] = UInt16(ATADrive.bufferSize / ATADrive.sectorSize)
      page[169] = 1
    }
    page[217] = shape.rotationRate
    return page.bytes
  }

  /// IDENTIFY PACKET DEVICE.
  var packetIdentification: [UInt8] {
    var page = Page()
    page[0] = 0x85C0  // packet device, CD-ROM, removable, 50 µs, 12 bytes
    setNames(&page)
    page[20] = 3
    page[21] = 512
    page[22] = 4
    page[48] = 1
    page[49] = 0x0300
    page[53] = 7
    setModes(&page)
    page[65] = 0xB4
    page[66] = 0xB4
    page[67] = 0x12C
    page[68] = 0xB4
    page[71] = 30
    page[72] = 30
    page[80] = 0x1E
    if shape.worldWideName != 0 {
      page[84] = 0x0100
      page[87] = 0x0100
      page.setName(shape.worldWideName)
    }
    return page.bytes
  }

  private func setNames(_ page: inout Page) {
    page.set(shape.serial, 10...19)
    page.set(shape.firmware, 23...26)
    page.set(shape.model, 27...46)
  }

  private func setModes(_ page: inout Page) {
    page[62] = 7 | singleWordMode << 8
    page[63] = 7 | multiWordMode << 8
    page[64] = 3
    page[88] = 0x3F | ultraMode << 8
  }

  // MARK: - SMART

  /// Attributes: number, flags, present and worst value, raw value, threshold.
  private static let attributes: [(UInt8, UInt16, UInt8, UInt64, UInt8)] = [
    (1, 0x0003, 100, 0, 6),  // read errors
    (3, 0x0003, 100, 16, 0),  // spin-up time
    (4, 0x0002, 100, 100, 20),  // starts and stops
    (5, 0x0003, 100, 0, 36),  // reallocated sectors
    (9, 0x0003, 100, 1, 0),  // hours on
    (12, 0x0003, 100, 0, 0),  // power cycles
    (190, 0x0003, 69, 31, 50),  // airflow temperature, degrees
  ]

  private static func withChecksum(_ page: [UInt8]) -> [UInt8] {
    var page = page
    page[511] = 0 &- page[..<511].reduce(0, &+)
    return page
  }

  var smartData: [UInt8] {
    var page = [UInt8](repeating: 0, count: 512)
    page[0] = 1
    for (index, (number, flags, value, raw, _)) in ATADrive.attributes.enumerated() {
      let at = 2 + index * 12
      page[at] = number
      page[at + 1] = UInt8(truncatingIfNeeded: flags)
      page[at + 2] = UInt8(flags >> 8)
      page[at + 3] = value
      page[at + 4] = value
      for byte in 0..<6 { page[at + 5 + byte] = UInt8(truncatingIfNeeded: raw >> UInt64(byte * 8)) }
    }
    page[362] = 2  // off-line collection has completed
    page[364] = 0x20
    page[365] = 1
    page[367] = 0x1B
    page[368] = 3
    page[370] = 1
    page[372] = 2
    page[373] = 54
    return ATADrive.withChecksum(page)
  }

  var smartThresholds: [UInt8] {
    var page = [UInt8](repeating: 0, count: 512)
    page[0] = 1
    for (index, (number, _, _, _, threshold)) in ATADrive.attributes.enumerated() {
      page[2 + index * 12] = number
      page[3 + index * 12] = threshold
    }
    return ATADrive.withChecksum(page)
  }

  /// The log directory, the error log and the self test log, all without entries.
  func smartLog(_ number: UInt8) -> [UInt8] {
    var page = [UInt8](repeating: 0, count: 512)
    page[0] = 1
    if number == 0 {
      page[2] = 1
      page[12] = 1
      return page
    }
    return ATADrive.withChecksum(page)
  }
}
