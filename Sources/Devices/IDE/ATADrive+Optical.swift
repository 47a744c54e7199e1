/// The packet commands of a CD or DVD drive (MMC-5; SPC-3 for the general ones).
extension ATADrive {
  private enum Sense {
    static let notReady: UInt8 = 2
    static let illegalRequest: UInt8 = 5
    static let unitAttention: UInt8 = 6
  }
  private enum Code {
    static let invalidCommand: UInt8 = 0x20
    static let outOfRange: UInt8 = 0x21
    static let invalidField: UInt8 = 0x24
    static let mediumChanged: UInt8 = 0x28
    static let incompatible: UInt8 = 0x30
    static let noSaving: UInt8 = 0x39
    static let noMedium: UInt8 = 0x3A
    static let removalPrevented: UInt8 = 0x53
  }
  /// More sectors than a CD has make it a DVD.
  private static let largestCD: UInt64 = 80 * 60 * 75

  private var total: UInt64 { mediumSize / UInt64(ATADrive.opticalSectorSize) }
  private var isDVD: Bool { total > ATADrive.largestCD }

  mutating func executePacket(_ bytes: [UInt8]) {
    func big16(_ at: Int) -> Int { Int(bytes[at]) << 8 | Int(bytes[at + 1]) }
    func big32(_ at: Int) -> UInt64 { UInt64(big16(at)) << 16 | UInt64(big16(at + 2)) }
    let code = bytes[0]
    // These say what they say whatever happened to the medium (SPC-3, 4.5.6).
    let isUnaffected = [0x03, 0x12, 0x46, 0x4A].contains(code)
    if packet.isMediumChanged, !isUnaffected, hasMedium {
      packet.isMediumChanged = false
      return packetFail(Sense.unitAttention, Code.mediumChanged)
    }
    let needsMedium = [
      0x00, 0x25, 0x28, 0x2B, 0x43, 0x51, 0xA8, 0xAD, 0xBE,
    ].contains(code)
    if needsMedium, !hasMedium { return packetFail(Sense.notReady, Code.noMedium) }
    switch code {
    case 0x00, 0x2B, 0xBB: packetComplete()  // TEST UNIT READY, SEEK, SET CD SPEED
    case 0x03: requestSense(allocation: Int(bytes[4]))
    case 0x12: inquiry(bytes)
    case 0x1B: startStop(load: bytes[4] & 2 != 0, start: bytes[4] & 1 != 0)
    case 0x1E:
      packet.isLocked = bytes[4] & 1 != 0
      packetComplete()
    case 0x25: packetReply(big([(total - 1, 4), (2048, 4)]), allocation: 8)
    case 0x28: packetRead(big32(2), UInt64(big16(7)), raw: false)
    case 0xA8: packetRead(big32(2), big32(6), raw: false)
    case 0xBE: readCD(bytes, start: big32(2))
    case 0x43: readTOC(bytes, allocation: big16(7))
    case 0x46: getConfiguration(bytes[1] & 3, first: big16(2), allocation: big16(7))
    case 0x4A: getEvents(bytes, allocation: big16(7))
    case 0x51: packetReply(discInformation, allocation: big16(7))
    case 0x5A: modeSense(bytes, allocation: big16(7))
    case 0xAD: readStructure(bytes, allocation: big16(8))
    case 0xBD: packetReply([0, 0, 0, 0, 0, 1, 0, 0], allocation: big16(8))
    default: packetFail(Sense.illegalRequest, Code.invalidCommand)
    }
  }

  /// Numbers of so many bytes each, the highest first.
  private func big(_ fields: [(UInt64, Int)]) -> [UInt8] {
    fields.flatMap { value, width in
      (0..<width).map { UInt8(truncatingIfNeeded: value >> UInt64((width - 1 - $0) * 8)) }
    }
  }

  // MARK: - The drive

  private mutating func requestSense(allocation: Int) {
    var reply = [UInt8](repeating: 0, count: 18)
    reply[0] = 0xF0
    reply[2] = packet.senseKey
    reply[7] = 10
    reply[12] = packet.senseCode
    reply[13] = packet.senseQualifier
    if packet.senseKey == 0, packet.isMediumChanged, hasMedium {
      packet.isMediumChanged = false
      reply[2] = Sense.unitAttention
      reply[12] = Code.mediumChanged
    }
    (packet.senseKey, packet.senseCode, packet.senseQualifier) = (0, 0, 0)
    packetReply(reply, allocation: allocation)
  }

  private mutating func inquiry(_ bytes: [UInt8]) {
    func padded(_ text: String, _ count: Int) -> [UInt8] {
      let start = Array(text.utf8.prefix(count))
      return start + [UInt8](repeating: 0x20, count: count - start.count)
    }
    let allocation = Int(bytes[3]) << 8 | Int(bytes[4])
    guard bytes[1] & 1 != 0 else {
      guard bytes[2] == 0 else { return packetFail(Sense.illegalRequest, Code.invalidField) }
      return packetReply(
        [5, 0x80, 0, 0x21, 31, 0, 0, 0] + padded("QEMU", 8) + padded("QEMU DVD-ROM", 16)
          + padded(shape.firmware, 4), allocation: allocation)
    }
    switch bytes[2] {
    case 0x00: packetReply([5, 0, 0, 2, 0, 0x83], allocation: allocation)
    case 0x83:
      var names: [UInt8] = []
      let serial = Array(shape.serial.utf8.prefix(20))
      if !serial.isEmpty { names += [2, 0, 0, UInt8(serial.count)] + serial }
      let model = padded("ATA", 8) + padded(shape.model, 40) + padded(shape.serial, 20)
      names += [2, 1, 0, UInt8(model.count)] + model
      if shape.worldWideName != 0 { names += [1, 3, 0, 8] + big([(shape.worldWideName, 8)]) }
      packetReply([5, 0x83, 0, UInt8(names.count)] + names, allocation: allocation)
    default: packetFail(Sense.illegalRequest, Code.invalidField)
    }
  }

  private mutating func startStop(load: Bool, start: Bool) {
    guard load else { return packetComplete() }
    if !start, !packet.isTrayOpen, packet.isLocked {
      return packetFail(
        mediumSize > 0 ? Sense.notReady : Sense.illegalRequest, Code.removalPrevented)
    }
    guard packet.isTrayOpen == start else { return packetComplete() }
    packet.isTrayOpen = !start
    packet.isEjectRequested = false
    step = .tray(open: !start)
    status = ATAStatus.busy
  }

  private mutating func getConfiguration(_ kind: UInt8, first: Int, allocation: Int) {
    guard kind < 3 else { return packetFail(Sense.illegalRequest, Code.invalidField) }
    let profile: UInt64 = hasMedium ? (isDVD ? 0x10 : 0x08) : 0
    var features: [(number: Int, bytes: [UInt8])] = []
    features.append(
      (0, [0, 0, 3, 8, 0, 0x10, profile == 0x10 ? 1 : 0, 0, 0, 8, profile == 0x08 ? 1 : 0, 0]))
    features.append((1, [0, 1, 0x0B, 8, 0, 0, 0, 2, 1, 0, 0, 0]))  // over ATAPI
    features.append((3, [0, 3, 3, 4, 0x29, 0, 0, 0]))  // a tray that locks and ejects
    let wanted = features.filter { kind == 2 ? $0.number == first : $0.number >= first }
    let body = wanted.flatMap(\.bytes)
    packetReply(
      big([(UInt64(body.count + 4), 4), (0, 2), (profile, 2)]) + body, allocation: allocation)
  }

  private mutating func getEvents(_ bytes: [UInt8], allocation: Int) {
    // Only asked for, never waiting (MMC-5, 6.6).
    guard bytes[1] & 1 != 0 else { return packetFail(Sense.illegalRequest, Code.invalidField) }
    guard bytes[4] & 0x10 != 0 else {
      return packetReply([0, 2, 0x80, 0x10], allocation: allocation)
    }
    var event: UInt8 = 0
    if packet.hasNewMedium {
      event = 2
      packet.hasNewMedium = false
    } else if packet.hasLostMedium {
      event = 3
      packet.hasLostMedium = false
    } else if packet.isEjectRequested {
      event = 1
      packet.isEjectRequested = false
    }
    let state: UInt8 = packet.isTrayOpen ? 1 : mediumSize > 0 ? 2 : 0
    packetReply([0, 6, 4, 0x10, event, state, 0, 0], allocation: allocation)
  }

  private mutating func modeSense(_ bytes: [UInt8], allocation: Int) {
    switch bytes[2] >> 6 {
    case 0, 2: break
    case 3: return packetFail(Sense.illegalRequest, Code.noSaving)
    default: return packetFail(Sense.illegalRequest, Code.invalidField)
    }
    let recovery: [UInt8] = [0x01, 0x06, 0, 5, 0, 0, 0, 0]
    let audio: [UInt8] = [0x0E, 0x0E] + [UInt8](repeating: 0, count: 14)
    // Reads CD-R and CD-RW; a tray that locks and ejects; 4 times the speed of a CD, 512 KiB of buffer.
    let abilities: [UInt8] =
      [0x2A, 0x14, 0x3B, 0, 0x70, 0x60, 0x29 | (packet.isLocked ? 2 : 0), 0]
      + big([(704, 2), (2, 2), (512, 2), (704, 2)]) + [UInt8](repeating: 0, count: 6)
    let pages: [UInt8]
    switch bytes[2] & 0x3F {
    case 0x01: pages = recovery
    case 0x0E: pages = audio
    case 0x2A: pages = abilities
    case 0x3F: pages = recovery + audio + abilities
    default: return packetFail(Sense.illegalRequest, Code.invalidField)
    }
    packetReply(
      big([(UInt64(pages.count + 6), 2)]) + [0x70, 0, 0, 0, 0, 0] + pages, allocation: allocation)
  }

  // MARK: - The medium

  /// Data of one kind or whole sectors; the parts in between are not kept.
  private mutating func readCD(_ bytes: [UInt8], start: UInt64) {
    let count = UInt64(bytes[6]) << 16 | UInt64(bytes[7]) << 8 | UInt64(bytes[8])
    switch bytes[9] & 0xF8 {
    case 0x00: packetComplete()
    case 0x10: packetRead(start, count, raw: false)
    case 0xF8: packetRead(start, count, raw: true)
    default: packetFail(Sense.illegalRequest, Code.invalidField)
    }
  }

  private mutating func readTOC(_ bytes: [UInt8], allocation: Int) {
    let usesTime = bytes[1] & 2 != 0
    func address(_ block: UInt64) -> [UInt8] {
      usesTime ? [0] + ATADrive.minuteSecondFrame(block + 150) : big([(block, 4)])
    }
    func reply(_ body: [UInt8]) -> [UInt8] { big([(UInt64(body.count + 2), 2)]) + [1, 1] + body }
    let format = bytes[2] & 15 != 0 ? bytes[2] & 15 : bytes[9] >> 6
    switch format {
    case 0:
      guard bytes[6] <= 1 || bytes[6] == 0xAA else {
        return packetFail(Sense.illegalRequest, Code.invalidField)
      }
      var body: [UInt8] = []
      if bytes[6] <= 1 { body += [0, 0x14, 1, 0] + address(0) }
      body += [0, 0x16, 0xAA, 0] + address(total)
      packetReply(reply(body), allocation: allocation)
    case 1:
      packetReply(reply([0, 0x14, 1, 0] + address(0)), allocation: allocation)
    case 2:
      var body: [UInt8] = []
      let times: [(UInt8, [UInt8])] = [
        (0xA0, [0, 1, 0, 0]), (0xA1, [0, 1, 0, 0]),
        (0xA2, [0] + ATADrive.minuteSecondFrame(total + 150)),
        (1, [0] + ATADrive.minuteSecondFrame(150)),
      ]
      for (point, time) in times { body += [1, 0x14, 0, point, 0, 0, 0] + time }
      packetReply(reply(body), allocation: allocation)
    default: packetFail(Sense.illegalRequest, Code.invalidField)
    }
  }

  /// One complete session with one track (MMC-5, 6.22.3.1).
  private var discInformation: [UInt8] {
    var reply = [UInt8](repeating: 0, count: 34)
    reply[1] = 32
    reply[2] = 0x0E
    reply[3] = 1
    reply[4] = 1
    reply[5] = 1
    reply[6] = 1
    reply[7] = 0x20
    return reply
  }

  private mutating func readStructure(_ bytes: [UInt8], allocation: Int) {
    guard isDVD else { return packetFail(Sense.illegalRequest, Code.incompatible) }
    guard bytes[1] & 15 == 0 else { return packetFail(Sense.illegalRequest, Code.invalidField) }
    let body: [UInt8]
    switch bytes[7] {
    case 0x00:
      guard bytes[6] == 0 else { return packetFail(Sense.illegalRequest, Code.invalidField) }
      var layer = [UInt8](repeating: 0, count: 2048)
      layer.replaceSubrange(
        0..<16,
        with: [0x01, 0x0F, 0x01, 0x00, 0, 0x03, 0, 0, 0] + big([(0x30000 + total - 1, 3)])
          + [0, 0, 0, 0])
      body = layer
    case 0x01: body = [0, 0, 0, 0]  // no copy protection, all regions
    case 0x04: body = [UInt8](repeating: 0, count: 2048)
    case 0xFF:
      body =
        [0x00, 0x40] + big([(2052, 2)]) + [0x01, 0x40, 0, 8] + [0x04, 0x40] + big([(2052, 2)])
        + [0xFF, 0x40, 0, 16]
    default: return packetFail(Sense.illegalRequest, Code.invalidField)
    }
    packetReply(
      big([(UInt64(body.count + 2), 2)]) + [0, 0] + body, allocation: allocation)
  }
}
