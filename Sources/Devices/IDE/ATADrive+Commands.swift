import Host

/// The commands of a disk, and those that both kinds of drives have (ATA/ATAPI-6, chapter 8).
extension ATADrive {
  /// The command register was written. The channel has checked that the drive is not busy.
  mutating func execute(_ command: UInt8) {
    error = 0
    wantsInterrupt = false
    if shape.isOptical { return executeOptical(command) }
    switch command {
    case 0x00: abort()
    case 0x06: beginTrim()
    case 0x10...0x1F: complete()  // RECALIBRATE
    case 0x20, 0x21: beginSectors(write: false, extended: false, blockSectors: 1)
    case 0x24: beginSectors(write: false, extended: true, blockSectors: 1)
    case 0x25: beginDirect(write: false, extended: true)
    case 0x27: readNativeMaximum(extended: true)
    case 0x29: beginMultiple(write: false, extended: true)
    case 0x30, 0x31, 0x3C: beginSectors(write: true, extended: false, blockSectors: 1)
    case 0x34: beginSectors(write: true, extended: true, blockSectors: 1)
    case 0x35: beginDirect(write: true, extended: true)
    case 0x39: beginMultiple(write: true, extended: true)
    case 0x40, 0x41: verify(extended: false)
    case 0x42: verify(extended: true)
    case 0x70...0x7F: complete()  // SEEK
    case 0x91: setParameters()
    case 0xB0: smart()
    case 0xC4: beginMultiple(write: false, extended: false)
    case 0xC5: beginMultiple(write: true, extended: false)
    case 0xC6: setMultiple()
    case 0xC8, 0xC9: beginDirect(write: false, extended: false)
    case 0xCA, 0xCB: beginDirect(write: true, extended: false)
    case 0xE7, 0xEA: flush()
    case 0xEC: reply(identification)
    case 0xF5: complete()  // SECURITY FREEZE LOCK
    case 0xF8: readNativeMaximum(extended: false)
    default: executeCommon(command)
    }
  }

  /// What disks and packet devices answer alike.
  mutating func executeCommon(_ command: UInt8) {
    switch command {
    case 0x90:
      setSignature()
      status = shape.isOptical ? 0 : ATAStatus.ready | ATAStatus.seek
      error = 1
      wantsInterrupt = true
    case 0x94...0x97, 0x99, 0xE0...0xE3, 0xE6: complete()  // power: all is at once
    case 0x98, 0xE5:
      file.count = 0xFF  // active or idle
      complete()
    case 0xEF: setFeatures()
    default: abort()
    }
  }

  private mutating func beginMultiple(write: Bool, extended: Bool) {
    guard multiple > 0 else { return abort() }
    beginSectors(write: write, extended: extended, blockSectors: multiple)
  }

  private mutating func setMultiple() {
    let wanted = Int(file.count)
    guard wanted <= ATADrive.maximumMultiple, wanted & (wanted - 1) == 0 else { return abort() }
    multiple = wanted
    complete()
  }

  /// INITIALIZE DEVICE PARAMETERS: heads and sectors of the addresses to come.
  private mutating func setParameters() {
    let sectors = UInt32(file.count)
    guard sectors > 0 else { return abort() }
    geometry.heads = UInt32(file.device & 15) + 1
    geometry.sectors = sectors
    let cylinder = UInt64(geometry.heads * sectors)
    geometry.cylinders = UInt32(min(sectorCount / cylinder, 16383))
    complete()
  }

  private mutating func flush() {
    step = .flush
    status = ATAStatus.busy
  }

  private mutating func readNativeMaximum(extended: Bool) {
    guard sectorCount > 0, file.usesBlockNumbers || !extended else { return abort() }
    transfer.isExtended = extended
    let last = sectorCount - 1
    if file.usesBlockNumbers {
      setSector(extended ? last : min(last, 0x0FFF_FFFF))
    } else {
      setSector(
        min(last, UInt64(geometry.cylinders) * UInt64(geometry.heads * geometry.sectors) - 1))
    }
    complete()
  }

  private mutating func setFeatures() {
    switch file.features {
    case 0x02:
      isWriteCacheOn = true
      complete()
    case 0x82:
      isWriteCacheOn = false
      flush()
    case 0x03:
      guard setTransferMode(file.count) else { return abort() }
      complete()
    // Advanced power management, acoustics, read ahead, defaults, interrupts: nothing changes.
    case 0x05, 0x42, 0x55, 0x5D, 0x66, 0x69, 0x67, 0x85, 0x96, 0x9A, 0xAA, 0xC2, 0xCC, 0xDD:
      complete()
    default: abort()
    }
  }

  private mutating func setTransferMode(_ value: UInt8) -> Bool {
    let bit = UInt16(1) << UInt16(value & 7)
    switch value >> 3 {
    case 0, 1:  // PIO
      (singleWordMode, multiWordMode, ultraMode) = (0, 0, 0)
    case 2: (singleWordMode, multiWordMode, ultraMode) = (bit & 7, 0, 0)
    case 4: (singleWordMode, multiWordMode, ultraMode) = (0, bit & 7, 0)
    case 8: (singleWordMode, multiWordMode, ultraMode) = (0, 0, bit & 0x3F)
    default: return false
    }
    return true
  }

  // MARK: - DATA SET MANAGEMENT (ATA8-ACS, 7.10)

  private mutating func beginTrim() {
    let blocks = file.sectorCount(extended: true)
    let count = blocks * ATADrive.sectorSize
    guard file.features & 1 != 0, shape.canTrim, !shape.isReadOnly, count <= ATADrive.bufferSize
    else { return abort() }
    transfer = Transfer()
    transfer.purpose = .trimList
    transfer.end = count
    step = .buffered(count: count, toGuest: false)
    status = ATAStatus.ready | ATAStatus.seek | ATAStatus.dataRequest
  }

  mutating func trimListArrived(_ done: DriveStep) {
    if case .trim = done { return complete() }
    var ranges: [Range<UInt64>] = []
    for at in stride(from: 0, to: transfer.end, by: 8) {
      let entry = buffer.loadBigEndian(UInt64.self, at: at).byteSwapped
      let (start, count) = (entry & 0xFFFF_FFFF_FFFF, entry >> 48)
      if count == 0 { continue }
      guard start <= sectorCount, count <= sectorCount - start else { return abort() }
      let size = UInt64(ATADrive.sectorSize)
      ranges.append(start * size..<(start + count) * size)
    }
    guard !ranges.isEmpty else { return complete() }
    step = .trim(ranges)
    status = ATAStatus.busy
  }

  // MARK: - SMART (ATA/ATAPI-6, 8.55)

  private mutating func smart() {
    guard file.mid == 0x4F, file.high == 0xC2 else { return abort() }
    guard isSmartOn || file.features == 0xD8 else { return abort() }
    switch file.features {
    case 0xD0: reply(smartData)
    case 0xD1: reply(smartThresholds)
    case 0xD2, 0xD4: complete()  // autosave; self tests, which find nothing
    case 0xD5: reply(smartLog(file.low))
    case 0xD8:
      isSmartOn = true
      complete()
    case 0xD9:
      isSmartOn = false
      complete()
    case 0xDA: complete()  // the registers keep their values: no threshold is exceeded
    default: abort()
    }
  }
}
