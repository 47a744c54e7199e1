import Host

/// The tray, sense data and the transfer of a packet device.
struct PacketState: Equatable, Sendable {
  var isTrayOpen = false
  var isLocked = false
  /// The next command that looks at the medium is told that it is another.
  var isMediumChanged = false
  /// The user asks for the medium while the guest holds it.
  var isEjectRequested = false
  /// A medium came or went since the guest last asked for events.
  var hasNewMedium = false
  var hasLostMedium = false

  var senseKey: UInt8 = 0
  var senseCode: UInt8 = 0
  var senseQualifier: UInt8 = 0

  var usesDMA = false
  /// Most bytes of one block through the data register.
  var byteLimit = 0
  var nextSector: UInt64 = 0
  var sectorsLeft = 0
  /// Whole sectors of 2,352 bytes, with synchronisation and header.
  var isRaw = false

  /// The drive is reset; what lies in the tray stays.
  mutating func reset() {
    isLocked = false
    usesDMA = false
    sectorsLeft = 0
    (senseKey, senseCode, senseQualifier) = (0, 0, 0)
  }
}

/// A drive that takes commands in packets: the protocol (ATA/ATAPI-6, 9.8). Commands are in `ATADrive+Optical`.
extension ATADrive {
  /// Bytes of a sector of a CD or DVD.
  package static let opticalSectorSize = 2048
  static let rawSectorSize = 2352
  static let packetSize = 12

  mutating func executeOptical(_ command: UInt8) {
    switch command {
    case 0x08:  // DEVICE RESET ends without an interrupt
      reset()
      wantsInterrupt = false
    case 0xA0: beginPacket()
    case 0xA1: reply(packetIdentification)
    // IDENTIFY DEVICE and READ SECTORS tell by the signature what is here (ATA/ATAPI-6, 8.15.5.2).
    case 0xEC, 0x20:
      setSignature()
      abort()
    default: executeCommon(command)
    }
  }

  private mutating func beginPacket() {
    guard file.features & 2 == 0 else { return abort() }
    packet.usesDMA = file.features & 1 != 0
    let limit = Int(file.high) << 8 | Int(file.mid)
    packet.byteLimit = limit == 0xFFFF ? 0xFFFE : limit
    packet.sectorsLeft = 0
    transfer = Transfer()
    transfer.purpose = .packetCommand
    transfer.end = ATADrive.packetSize
    transfer.blockEnd = ATADrive.packetSize
    file.count = PacketReason.commandOrStatus
    status = ATAStatus.ready | ATAStatus.seek | ATAStatus.dataRequest
  }

  mutating func packetArrived() {
    executePacket((0..<ATADrive.packetSize).map { buffer.loadBigEndian(UInt8.self, at: $0) })
  }

  // MARK: - Ends

  mutating func packetComplete() {
    transfer = Transfer()
    packet.sectorsLeft = 0
    (packet.senseKey, packet.senseCode, packet.senseQualifier) = (0, 0, 0)
    status = ATAStatus.ready | ATAStatus.seek
    error = 0
    file.count = PacketReason.commandOrStatus | PacketReason.toHost
    wantsInterrupt = true
  }

  mutating func packetFail(_ key: UInt8, _ code: UInt8, _ qualifier: UInt8 = 0) {
    transfer = Transfer()
    packet.sectorsLeft = 0
    (packet.senseKey, packet.senseCode, packet.senseQualifier) = (key, code, qualifier)
    step = nil
    status = ATAStatus.ready | ATAStatus.error
    error = key << 4
    file.count = PacketReason.commandOrStatus | PacketReason.toHost
    wantsInterrupt = true
  }

  // MARK: - Data to the host

  /// Delivers the first `allocation` bytes of `bytes`.
  mutating func packetReply(_ bytes: [UInt8], allocation: Int) {
    let count = min(bytes.count, allocation)
    guard count > 0 else { return packetComplete() }
    guard packet.usesDMA || packet.byteLimit > 0 else { return abort() }
    buffer.store(bytes, at: 0)
    deliver(count, .packetReply)
  }

  /// Delivers sectors of the medium.
  mutating func packetRead(_ start: UInt64, _ count: UInt64, raw: Bool) {
    let total = mediumSize / UInt64(ATADrive.opticalSectorSize)
    guard count > 0 else { return packetComplete() }
    guard start < total, count <= total - start else { return packetFail(5, 0x21) }
    guard packet.usesDMA || packet.byteLimit > 0 else { return abort() }
    packet.nextSector = start
    packet.sectorsLeft = Int(count)
    packet.isRaw = raw
    transfer = Transfer()
    transfer.purpose = .packetRead
    loadPacketSectors()
  }

  private mutating func loadPacketSectors() {
    let size = ATADrive.opticalSectorSize
    let offset = packet.nextSector * UInt64(size)
    if packet.usesDMA, !packet.isRaw {
      // All of it at once.
      step = .direct(
        MediumAccess(isWrite: false, offset: offset, count: packet.sectorsLeft * size))
      packet.nextSector += UInt64(packet.sectorsLeft)
      packet.sectorsLeft = 0
      file.count = PacketReason.toHost
      status = ATAStatus.ready | ATAStatus.seek | ATAStatus.dataRequest
      return
    }
    let count = packet.isRaw ? 1 : min(packet.sectorsLeft, ATADrive.bufferSize / size)
    step = .transfer(MediumAccess(isWrite: false, offset: offset, count: count * size))
    packet.nextSector += UInt64(count)
    packet.sectorsLeft -= count
    transfer.end = count * size
    status = ATAStatus.busy
  }

  /// The first `count` bytes of the buffer go to the host, one way or the other.
  private mutating func deliver(_ count: Int, _ purpose: Transfer.Purpose) {
    transfer = Transfer()
    transfer.purpose = purpose
    transfer.end = count
    if packet.usesDMA {
      step = .buffered(count: count, toGuest: true)
      file.count = PacketReason.toHost
      status = ATAStatus.ready | ATAStatus.seek | ATAStatus.dataRequest
    } else {
      offerPacketBlock()
    }
  }

  private mutating func offerPacketBlock() {
    let left = transfer.end - transfer.position
    var count = min(left, packet.byteLimit)
    // Only the last block may be odd.
    if count < left, count & 1 != 0 { count -= 1 }
    guard count > 0 else { return abort() }
    // The data register moves two bytes at a time.
    transfer.blockEnd = transfer.position + (count + 1) & ~1
    file.mid = UInt8(truncatingIfNeeded: count)
    file.high = UInt8(truncatingIfNeeded: count >> 8)
    file.count = PacketReason.toHost
    status = ATAStatus.ready | ATAStatus.seek | ATAStatus.dataRequest
    wantsInterrupt = true
  }

  mutating func packetBlockEnded() {
    if transfer.position < transfer.end { return offerPacketBlock() }
    if packet.sectorsLeft > 0 { return loadPacketSectors() }
    packetComplete()
  }

  /// What was to be done for a packet command is done.
  mutating func finishPacketStep(_ done: DriveStep, _ result: StepResult) {
    switch (done, result) {
    case (_, .short):
      transfer = Transfer()
      packet.sectorsLeft = 0
      status = ATAStatus.ready | ATAStatus.seek
    case (.flush, _): complete()
    case (_, .failed): packetFail(3, 0x11)  // unrecovered read error
    case (.transfer, .done):
      if packet.isRaw { wrapSector() }
      deliver(packet.isRaw ? ATADrive.rawSectorSize : transfer.end, .packetRead)
    case (.buffered, .done):
      if packet.sectorsLeft > 0 { loadPacketSectors() } else { packetComplete() }
    default: packetComplete()
    }
  }

  /// Makes a whole sector of mode 1 of the data in the buffer (ECMA-130, 14). Error correction is left zero, as nothing here needs it.
  private mutating func wrapSector() {
    let data = buffer.bytes(0..<ATADrive.opticalSectorSize)
    let address = ATADrive.minuteSecondFrame(packet.nextSector - 1 + 150)
    let header = [UInt8](address.map { ($0 / 10) << 4 | $0 % 10 }) + [1]
    let sync: [UInt8] = [0] + [UInt8](repeating: 0xFF, count: 10) + [0]
    buffer.store(sync + header + data + [UInt8](repeating: 0, count: 288), at: 0)
  }

  static func minuteSecondFrame(_ block: UInt64) -> [UInt8] {
    [
      UInt8(truncatingIfNeeded: block / 75 / 60), UInt8(block / 75 % 60), UInt8(block % 75),
    ]
  }

  // MARK: - The user's side

  package var isTrayOpen: Bool { packet.isTrayOpen }
  package var isLocked: Bool { packet.isLocked }

  /// The user moves the tray, or puts another medium in (`size` bytes; 0 takes it out).
  package mutating func changeMedium(size: UInt64, isTrayOpen: Bool) {
    let hadMedium = hasMedium
    mediumSize = size
    packet.isTrayOpen = isTrayOpen
    guard shape.isOptical else { return }
    if hasMedium {
      packet.isMediumChanged = true
      packet.hasNewMedium = true
      packet.hasLostMedium = false
    } else if hadMedium {
      packet.hasLostMedium = true
      packet.hasNewMedium = false
    }
    packet.isEjectRequested = false
  }

  /// The user presses the button on a locked drive: the guest learns of it when it asks.
  package mutating func requestEject() { packet.isEjectRequested = true }

  var hasMedium: Bool { mediumSize > 0 && !packet.isTrayOpen }
}

extension ATADrive {
  /// The user takes the medium against the guest's will.
  mutating func unlock() { packet.isLocked = false }
}
