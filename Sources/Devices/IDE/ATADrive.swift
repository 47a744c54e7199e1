package import Host

/// One access to a drive's medium, in bytes.
package struct MediumAccess: Equatable, Sendable {
  package var isWrite: Bool
  package var offset: UInt64
  package var count: Int
}

/// What a drive needs before it can go on. `ATADrive.finish` tells it that it is done.
package enum DriveStep: Equatable, Sendable {
  /// Between the medium and the drive's buffer.
  case transfer(MediumAccess)
  /// Between the medium and the guest's memory, once the bus master runs.
  case direct(MediumAccess)
  /// So many bytes between the drive's buffer and the guest's memory, once the bus master runs.
  case buffered(count: Int, toGuest: Bool)
  case flush
  /// Bytes that may be forgotten.
  case trim([Range<UInt64>])
  /// The guest moves the tray.
  case tray(open: Bool)

  /// Whether it begins only when software starts the bus master.
  var needsBusMaster: Bool {
    switch self {
    case .direct, .buffered: true
    default: false
    }
  }
}

/// How a step ended.
package enum StepResult: Equatable, Sendable {
  case done
  case failed
  /// The table of the bus master ended before the data.
  case short
}

/// What a drive is, apart from what the guest does with it.
package struct DriveShape: Equatable, Sendable {
  /// Cylinders, heads, sectors of a track: what it says about itself.
  package struct Geometry: Equatable, Sendable {
    package var cylinders: UInt32
    package var heads: UInt32
    package var sectors: UInt32

    package init(cylinders: UInt32, heads: UInt32, sectors: UInt32) {
      self.cylinders = cylinders
      self.heads = heads
      self.sectors = sectors
    }

    /// The usual one for a disk of so many sectors: 16 heads of 63 sectors, and cylinders up to what the old interface can say.
    package init(sectorCount: UInt64) {
      self.init(
        cylinders: UInt32(min(max(sectorCount / (16 * 63), 2), 16383)), heads: 16, sectors: 63)
    }
  }

  package var isOptical = false
  package var serial = ""
  package var model = ""
  package var firmware = "2.5+"
  /// World wide name; 0 for none.
  package var worldWideName: UInt64 = 0
  /// As word 217 has it; 0 does not say, 1 does not rotate.
  package var rotationRate: UInt16 = 0
  package var geometry = Geometry(cylinders: 2, heads: 16, sectors: 63)
  /// Sectors of 512 bytes in a physical block, as a power of two.
  package var physicalBlockExponent: UInt16 = 0
  package var canTrim = false
  package var isReadOnly = false

  package init() {}
}

/// A drive behind its registers, hard disk or CD-ROM (ATA/ATAPI-6): a pure model. What it needs of the outside it leaves in `step`.
package struct ATADrive: Sendable {
  /// Bytes of a sector of a disk.
  package static let sectorSize = 512
  /// The most bytes that the buffer holds at a time.
  package static let bufferSize = 128 << 10
  /// Sectors in one block of READ and WRITE MULTIPLE.
  static let maximumMultiple = 16

  package var shape: DriveShape
  /// Bytes of the medium; 0 without one.
  package var mediumSize: UInt64
  /// Where data waits on its way. Only the one who carries out a step touches it beside the model.
  package let buffer = IOBuffer(count: ATADrive.bufferSize)

  var file = TaskFile()
  package internal(set) var status: UInt8 = 0
  var error: UInt8 = 0
  /// The geometry that software set (INITIALIZE DEVICE PARAMETERS).
  var geometry: DriveShape.Geometry
  var multiple = ATADrive.maximumMultiple
  package internal(set) var isWriteCacheOn: Bool
  var isSmartOn = true
  /// Transfer modes as words 62, 63 and 88 show the choice.
  var singleWordMode: UInt16 = 0
  var multiWordMode: UInt16 = 0
  var ultraMode: UInt16 = 0x20

  /// What must happen before it goes on.
  package internal(set) var step: DriveStep?
  /// It wants the interrupt line; the channel takes it.
  var wantsInterrupt = false
  /// The transfer that is under way.
  var transfer = Transfer()
  var packet = PacketState()

  /// Data between the host and the buffer, in blocks with an interrupt each.
  struct Transfer: Equatable, Sendable {
    enum Purpose: Equatable, Sendable {
      case none
      /// The buffer is all: nothing follows.
      case reply
      case readSectors, writeSectors
      case directRead, directWrite
      case verify
      case packetCommand, packetReply, packetRead
      case trimList
    }
    var purpose = Purpose.none
    /// Next byte of the buffer, the end of the present block, the end of what the buffer holds.
    var position = 0
    var blockEnd = 0
    var end = 0
    var sector: UInt64 = 0
    var sectorsLeft = 0
    var isExtended = false
    /// Sectors in one block.
    var blockSectors = 1
  }

  package init(_ shape: DriveShape, mediumSize: UInt64, isWriteCacheOn: Bool) {
    self.shape = shape
    self.mediumSize = mediumSize
    self.isWriteCacheOn = isWriteCacheOn
    geometry = shape.geometry
    reset()
  }

  package var sectorCount: UInt64 { mediumSize / UInt64(ATADrive.sectorSize) }

  /// Power-on or software reset: nothing under way, the signature in the registers (ATA/ATAPI-6, 9.12).
  package mutating func reset() {
    let device = file.device & 0x10
    file = TaskFile()
    file.device = 0xA0 | device
    step = nil
    transfer = Transfer()
    wantsInterrupt = false
    packet.reset()
    setSignature()
    // A packet device is not ready until it has been asked what it is.
    status = shape.isOptical ? 0 : ATAStatus.ready | ATAStatus.seek
    error = 1
  }

  mutating func setSignature() {
    file.count = 1
    file.low = 1
    file.mid = shape.isOptical ? 0x14 : 0
    file.high = shape.isOptical ? 0xEB : 0
    file.device &= 0xF0
  }

  // MARK: - The data register

  /// Reads 2 or 4 bytes; zero when there is nothing to be had.
  mutating func readData(_ width: Int) -> UInt32 {
    guard status & ATAStatus.dataRequest != 0, step == nil, !isHostSending,
      transfer.position + width <= transfer.blockEnd
    else {
      guard width == 4, transfer.position + 2 <= transfer.blockEnd, !isHostSending else { return 0 }
      return readData(2)
    }
    let value: UInt32
    if width == 4 {
      value = buffer.loadBigEndian(UInt32.self, at: transfer.position).byteSwapped
    } else {
      value = UInt32(buffer.loadBigEndian(UInt16.self, at: transfer.position).byteSwapped)
    }
    transfer.position += width
    if transfer.position >= transfer.blockEnd { blockEnded() }
    return value
  }

  mutating func writeData(_ width: Int, _ value: UInt32) {
    guard status & ATAStatus.dataRequest != 0, step == nil, isHostSending,
      transfer.position + width <= transfer.blockEnd
    else { return }
    if width == 4 {
      buffer.storeBigEndian(value.byteSwapped, at: transfer.position)
    } else {
      buffer.storeBigEndian(
        UInt16(truncatingIfNeeded: value).byteSwapped, at: transfer.position)
    }
    transfer.position += width
    if transfer.position >= transfer.blockEnd { blockEnded() }
  }

  var isHostSending: Bool {
    switch transfer.purpose {
    case .writeSectors, .packetCommand, .trimList: true
    default: false
    }
  }

  private mutating func blockEnded() {
    switch transfer.purpose {
    case .reply: complete()
    case .readSectors:
      if transfer.position < transfer.end { offerBlock() } else { continueSectors() }
    case .writeSectors: storeSectors()
    case .packetCommand: packetArrived()
    case .packetReply, .packetRead: packetBlockEnded()
    default: complete()
    }
  }

  // MARK: - Ends

  /// The command is over without error.
  mutating func complete(interrupt: Bool = true) {
    transfer = Transfer()
    status = ATAStatus.ready | ATAStatus.seek
    error = 0
    if interrupt { wantsInterrupt = true }
  }

  /// The command is over with an error.
  mutating func fail(_ code: UInt8) {
    transfer = Transfer()
    step = nil
    status = ATAStatus.ready | ATAStatus.error
    error = code
    wantsInterrupt = true
  }

  /// The command is not one of this drive's, or cannot be done.
  mutating func abort() { fail(ATAError.aborted) }

  /// Lets the host read `bytes`, in one block.
  mutating func reply(_ bytes: [UInt8]) {
    buffer.store(bytes, at: 0)
    transfer = Transfer()
    transfer.purpose = .reply
    transfer.end = bytes.count
    transfer.blockEnd = bytes.count
    status = ATAStatus.ready | ATAStatus.seek | ATAStatus.dataRequest
    error = 0
    wantsInterrupt = true
  }

  /// The step is over: goes on with the command.
  package mutating func finish(_ result: StepResult) {
    guard let done = step else { return }
    step = nil
    if shape.isOptical { return finishPacketStep(done, result) }
    if result == .short {
      // The bus master stops; no interrupt (as the controllers of old do).
      transfer = Transfer()
      status = ATAStatus.ready | ATAStatus.seek
      return
    }
    guard result == .done else {
      if transfer.sectorsLeft > 0 { setSector(transfer.sector) }
      return fail(isReading ? ATAError.uncorrectable : ATAError.aborted)
    }
    switch transfer.purpose {
    case .readSectors:
      offerBlock()
    case .writeSectors:
      advance(transfer.end / ATADrive.sectorSize)
      continueSectors()
    case .directRead, .directWrite:
      advance(transfer.sectorsLeft)
      complete()
    case .trimList: trimListArrived(done)
    default: complete()
    }
  }

  private var isReading: Bool {
    transfer.purpose == .readSectors || transfer.purpose == .directRead
  }

  // MARK: - Sectors through the data register

  /// Begins READ or WRITE SECTORS and MULTIPLE.
  mutating func beginSectors(write: Bool, extended: Bool, blockSectors: Int) {
    guard prepare(extended: extended), !write || !shape.isReadOnly else { return abort() }
    transfer.purpose = write ? .writeSectors : .readSectors
    transfer.blockSectors = blockSectors
    if write { awaitBlock() } else { loadSectors() }
    // The first block of a write is asked for without an interrupt.
  }

  /// Begins READ or WRITE DMA.
  mutating func beginDirect(write: Bool, extended: Bool) {
    guard prepare(extended: extended), !write || !shape.isReadOnly else { return abort() }
    transfer.purpose = write ? .directWrite : .directRead
    step = .direct(
      MediumAccess(
        isWrite: write, offset: transfer.sector * UInt64(ATADrive.sectorSize),
        count: transfer.sectorsLeft * ATADrive.sectorSize))
    status = ATAStatus.ready | ATAStatus.seek | ATAStatus.dataRequest
  }

  /// Begins READ VERIFY SECTORS: what lies on the medium is there.
  mutating func verify(extended: Bool) {
    guard prepare(extended: extended) else { return abort() }
    advance(transfer.sectorsLeft)
    complete()
  }

  /// Takes address and count from the registers; false when they are not on the disk.
  private mutating func prepare(extended: Bool) -> Bool {
    let count = file.sectorCount(extended: extended)
    guard let start = sector(extended: extended), start <= sectorCount,
      UInt64(count) <= sectorCount - start
    else { return false }
    transfer = Transfer()
    transfer.sector = start
    transfer.sectorsLeft = count
    transfer.isExtended = extended
    error = 0
    return true
  }

  private mutating func loadSectors() {
    let most = ATADrive.bufferSize / ATADrive.sectorSize
    let count = min(
      transfer.sectorsLeft, max(most / transfer.blockSectors, 1) * transfer.blockSectors)
    transfer.position = 0
    transfer.blockEnd = 0
    transfer.end = count * ATADrive.sectorSize
    step = .transfer(
      MediumAccess(
        isWrite: false, offset: transfer.sector * UInt64(ATADrive.sectorSize), count: transfer.end))
    status = ATAStatus.busy
  }

  /// The next block of what the buffer holds may be read.
  private mutating func offerBlock() {
    let rest = (transfer.end - transfer.position) / ATADrive.sectorSize
    let sectors = min(transfer.blockSectors, rest)
    transfer.blockEnd = transfer.position + sectors * ATADrive.sectorSize
    advance(sectors)
    status = ATAStatus.ready | ATAStatus.seek | ATAStatus.dataRequest
    wantsInterrupt = true
  }

  private mutating func awaitBlock() {
    transfer.position = 0
    transfer.end = min(transfer.blockSectors, transfer.sectorsLeft) * ATADrive.sectorSize
    transfer.blockEnd = transfer.end
    status = ATAStatus.ready | ATAStatus.seek | ATAStatus.dataRequest
  }

  private mutating func storeSectors() {
    step = .transfer(
      MediumAccess(
        isWrite: true, offset: transfer.sector * UInt64(ATADrive.sectorSize), count: transfer.end))
    status = ATAStatus.busy
  }

  private mutating func continueSectors() {
    guard transfer.sectorsLeft > 0 else {
      // The last block of a read was announced when it was ready; a write ends with an interrupt.
      return complete(interrupt: transfer.purpose == .writeSectors)
    }
    if transfer.purpose == .writeSectors {
      awaitBlock()
      wantsInterrupt = true
    } else {
      loadSectors()
    }
  }

  private mutating func advance(_ sectors: Int) {
    transfer.sector += UInt64(sectors)
    transfer.sectorsLeft -= min(sectors, transfer.sectorsLeft)
    setSector(transfer.sector)
  }

  // MARK: - Addresses

  /// The sector that the registers name; nil for one that cannot be.
  func sector(extended: Bool) -> UInt64? {
    if file.usesBlockNumbers { return extended ? file.number48 : file.number28 }
    guard !extended, file.low > 0 else { return nil }
    let cylinder = UInt64(file.high) << 8 | UInt64(file.mid)
    return (cylinder * UInt64(geometry.heads) + UInt64(file.device & 15))
      * UInt64(geometry.sectors) + UInt64(file.low - 1)
  }

  /// Puts a sector's address into the registers.
  mutating func setSector(_ sector: UInt64) {
    if transfer.isExtended { return file.set48(sector) }
    if file.usesBlockNumbers { return file.set28(sector) }
    let track = UInt64(max(geometry.sectors, 1))
    let cylinder = track * UInt64(max(geometry.heads, 1))
    let rest = sector % cylinder
    let number = sector / cylinder
    file.high = UInt8(truncatingIfNeeded: number >> 8)
    file.mid = UInt8(truncatingIfNeeded: number)
    file.device = file.device & 0xF0 | UInt8(truncatingIfNeeded: rest / track & 15)
    file.low = UInt8(truncatingIfNeeded: rest % track + 1)
  }
}
