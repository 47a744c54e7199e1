import Devices
import Host
import Shm
import Support
import Testing

/// A channel with drives over memory, and the guest's side of its registers.
private final class Bench {
  var channel = IDEChannel()
  var media: [[UInt8]]
  let memory = GuestMemory()
  var flushes = 0
  var trims: [Range<UInt64>] = []
  var trays: [Bool] = []
  /// Offsets at which the medium fails.
  var badOffset: UInt64?

  init(disk: Int = 4096, optical: Int? = nil) throws {
    media = [[UInt8](repeating: 0, count: disk * 512)]
    for index in 0..<disk { media[0][index * 512] = UInt8(truncatingIfNeeded: index) }
    var shape = DriveShape()
    shape.serial = "QM00001"
    shape.model = "QEMU HARDDISK"
    shape.canTrim = true
    shape.geometry = DriveShape.Geometry(sectorCount: UInt64(disk))
    channel.drives[0] = ATADrive(shape, mediumSize: UInt64(disk * 512), isWriteCacheOn: true)
    if let optical {
      media.append([UInt8](repeating: 0, count: optical * 2048))
      for index in 0..<optical { media[1][index * 2048] = UInt8(truncatingIfNeeded: index + 1) }
      shape.isOptical = true
      shape.model = "QEMU DVD-ROM"
      shape.canTrim = false
      channel.drives[1] = ATADrive(shape, mediumSize: UInt64(optical * 2048), isWriteCacheOn: true)
    }
    memory.setSlots([
      MemorySlot(
        guest: GuestAddress(0), size: 1 << 20, block: try RAMBlock(name: "ram", size: 1 << 20))
    ])
  }

  /// Carries out all steps that can be.
  func settle() {
    while let (index, step, epoch) = channel.beginStep() {
      var result = StepResult.done
      switch step {
      case .transfer(let access):
        let buffer = channel.drives[index]?.buffer
        if badOffset == access.offset {
          result = .failed
        } else if access.isWrite {
          let bytes = buffer?.bytes(0..<access.count) ?? []
          media[index].replaceSubrange(
            Int(access.offset)..<Int(access.offset) + access.count, with: bytes)
        } else {
          buffer?.store(
            Array(media[index][Int(access.offset)..<Int(access.offset) + access.count]), at: 0)
        }
      case .direct(let access):
        var vector = IOVector()
        var pieces: [(address: GuestAddress, count: Int)] = []
        var pins = MemoryPins()
        let count = channel.master.gather(
          access.count, toMemory: !access.isWrite, memory, into: &vector, pieces: &pieces,
          pinning: &pins)
        guard let count else {
          result = .failed
          break
        }
        let range = Int(access.offset)..<Int(access.offset) + count
        if access.isWrite {
          media[index].replaceSubrange(range, with: vector.bytes())
        } else {
          vector.store(Array(media[index][range]))
        }
        if count < access.count { result = .short }
      case .buffered(let wanted, let toGuest):
        var vector = IOVector()
        var pieces: [(address: GuestAddress, count: Int)] = []
        var pins = MemoryPins()
        let count = channel.master.gather(
          wanted, toMemory: toGuest, memory, into: &vector, pieces: &pieces,
          pinning: &pins)
        guard let count, let buffer = channel.drives[index]?.buffer else {
          result = .failed
          break
        }
        if toGuest {
          vector.copy(from: buffer.vector(0..<count))
        } else {
          buffer.store(vector.bytes(), at: 0)
        }
        if count < wanted { result = .short }
      case .flush: flushes += 1
      case .trim(let ranges): trims += ranges
      case .tray(let open): trays.append(open)
      }
      channel.finishStep(index, result, epoch: epoch)
    }
  }

  func out(_ register: Int, _ value: UInt32) {
    channel.write(register, value)
    settle()
  }
  func read(_ register: Int, width: Int = 1) -> UInt32 { channel.read(register, width: width) }
  func control(_ value: UInt8) -> Bool { channel.writeControl(value) }
  func status() -> UInt32 { channel.read(7) }

  /// Writes a 28-bit block number, count and command.
  func command(_ code: UInt32, block: UInt32 = 0, count: UInt32 = 1, drive: UInt32 = 0) {
    out(6, 0xE0 | drive << 4 | block >> 24 & 15)
    out(2, count)
    out(3, block & 0xFF)
    out(4, block >> 8 & 0xFF)
    out(5, block >> 16 & 0xFF)
    out(7, code)
  }
  func command48(_ code: UInt32, block: UInt64, count: UInt32) {
    out(6, 0xE0)
    for shift in [8, 0] as [UInt64] {
      out(2, count >> UInt32(shift) & 0xFF)
      out(3, UInt32(truncatingIfNeeded: block >> (shift == 8 ? 24 : 0) & 0xFF))
      out(4, UInt32(truncatingIfNeeded: block >> (shift == 8 ? 32 : 8) & 0xFF))
      out(5, UInt32(truncatingIfNeeded: block >> (shift == 8 ? 40 : 16) & 0xFF))
    }
    out(7, code)
  }

  /// Reads while data is offered.
  func takeData(width: Int = 2) -> [UInt8] {
    var bytes: [UInt8] = []
    while channel.alternateStatus & 0x88 == 0x08 {
      let value = channel.read(0, width: width)
      for index in 0..<width { bytes.append(UInt8(truncatingIfNeeded: value >> UInt32(index * 8))) }
      settle()
    }
    return bytes
  }
  func giveData(_ bytes: [UInt8]) {
    for index in stride(from: 0, to: bytes.count, by: 2) {
      channel.write(0, width: 2, UInt32(bytes[index]) | UInt32(bytes[index + 1]) << 8)
      settle()
    }
  }
  /// Lays a table for the bus master and starts it.
  func startMaster(_ entries: [(UInt32, UInt32)], toMemory: Bool) {
    for (index, (address, count)) in entries.enumerated() {
      let last: UInt64 = index == entries.count - 1 ? 1 << 63 : 0
      _ = memory.store(
        GuestAddress(0x1000 + UInt64(index * 8)),
        UInt64(address) | UInt64(count & 0xFFFF) << 32 | last)
    }
    channel.master.table = 0x1000
    _ = channel.writeMasterCommand(toMemory ? 9 : 1)
    settle()
  }
  /// Sends a packet and answers what it delivers through the data register.
  func packet(_ bytes: [UInt8], limit: UInt32 = 0xFFFE, dma: Bool = false) -> [UInt8] {
    out(6, 0xB0)
    out(1, dma ? 1 : 0)
    out(4, limit & 0xFF)
    out(5, limit >> 8)
    out(7, 0xA0)
    giveData(bytes + [UInt8](repeating: 0, count: 12 - bytes.count))
    return dma ? [] : takeData()
  }
  func sense() -> [UInt8] {
    let reply = packet([3, 0, 0, 0, 18, 0])
    return reply.count == 18 ? [reply[2], reply[12], reply[13]] : reply
  }
}

/// Whether the bytes are the same, without a difference of thousands of lines when not.
private func same(_ one: [UInt8], _ other: [UInt8]) -> Bool { one == other }

@Suite struct IDEChannelTests {
  @Test func drivesShowTheirSignatureAfterReset() throws {
    let bench = try Bench(optical: 16)
    #expect(bench.control(4))
    #expect(bench.channel.alternateStatus == 0x80)
    #expect(!bench.control(0))
    #expect(bench.status() == 0x50)
    #expect((1...5).map { bench.read($0) } == [1, 1, 1, 0, 0])
    bench.out(6, 0xB0)
    #expect((1...5).map { bench.read($0) } == [1, 1, 1, 0x14, 0xEB])
    #expect(bench.status() == 0)
  }

  @Test func anAbsentDriveAnswersNothing() throws {
    let bench = try Bench()
    bench.command(0xEC, drive: 1)
    #expect(bench.status() == 0)
    #expect(bench.read(2) == 0)
    #expect(!bench.channel.interruptLevel)
  }

  @Test func identificationNamesSizeAndAbilities() throws {
    let bench = try Bench()
    bench.command(0xEC)
    #expect(bench.channel.interruptLevel)
    #expect(bench.status() == 0x58)
    #expect(!bench.channel.interruptLevel)
    let page = bench.takeData(width: 4)
    #expect(page.count == 512)
    func word(_ index: Int) -> Int { Int(page[index * 2]) | Int(page[index * 2 + 1]) << 8 }
    #expect(word(60) == 4096 && word(100) == 4096)
    #expect(word(83) & 0x0400 != 0 && word(169) == 1)
    #expect(String(decoding: [page[55], page[54], page[57], page[56]], as: UTF8.self) == "QEMU")
    #expect(bench.status() == 0x50)
  }

  @Test func sectorsAreReadOneInterruptEach() throws {
    let bench = try Bench()
    bench.command(0x20, block: 5, count: 3)
    var interrupts = 0
    var bytes: [UInt8] = []
    for _ in 0..<3 {
      if bench.channel.interruptLevel { interrupts += 1 }
      #expect(bench.status() == 0x58)
      for _ in 0..<128 {
        let value = bench.read(0, width: 4)
        bytes += (0..<4).map { UInt8(truncatingIfNeeded: value >> UInt32($0 * 8)) }
        bench.settle()
      }
    }
    #expect(interrupts == 3 && !bench.channel.interruptLevel)
    #expect(bench.status() == 0x50)
    #expect(same(bytes, Array(bench.media[0][5 * 512..<8 * 512])))
  }

  @Test func multipleSectorsComeInBlocksAndLongReadsRefillTheBuffer() throws {
    let bench = try Bench()
    bench.command(0xC6, count: 8)
    bench.command48(0x29, block: 7, count: 600)
    #expect(same(bench.takeData(), Array(bench.media[0][7 * 512..<607 * 512])))
    #expect(bench.status() == 0x50)
    bench.command(0xC6, count: 3)
    #expect(bench.status() & 1 == 1 && bench.read(1) == 4)
  }

  @Test func writesArriveByEveryAddressing() throws {
    let bench = try Bench()
    let sector = [UInt8](repeating: 0x5A, count: 512)
    bench.command(0x30, block: 9)
    #expect(!bench.channel.interruptLevel)
    bench.giveData(sector)
    #expect(bench.channel.interruptLevel && bench.status() == 0x50)
    #expect(same(Array(bench.media[0][9 * 512..<10 * 512]), sector))
    // Cylinder 1, head 2, sector 3 of 16 heads and 63 sectors.
    bench.out(6, 0xA2)
    for (register, value) in [(2, 1), (3, 3), (4, 1), (5, 0), (7, 0x30)] as [(Int, UInt32)] {
      bench.out(register, value)
    }
    bench.giveData(sector)
    let block = (1 * 16 + 2) * 63 + 2
    #expect(same(Array(bench.media[0][block * 512..<(block + 1) * 512]), sector))
    bench.command48(0x39, block: 4000, count: 20)
    bench.giveData([UInt8](repeating: 7, count: 20 * 512))
    #expect(bench.media[0][4000 * 512..<4020 * 512].count { $0 != 7 } == 0)
    #expect(bench.media[0][4020 * 512] == UInt8(truncatingIfNeeded: 4020))
  }

  @Test func addressesBeyondTheEndAreRefused() throws {
    let bench = try Bench()
    for (block, count) in [(4096, 1), (4095, 2), (0x0FFF_FFFF, 0)] as [(UInt32, UInt32)] {
      for code in [0x20, 0x30, 0xC8, 0xCA, 0x40] as [UInt32] {
        bench.command(code, block: block, count: count)
        #expect(bench.status() == 0x41, "\(code) \(block)")
      }
    }
    bench.command48(0x25, block: 0xFFFF_FFFF_FFFF, count: 1)
    #expect(bench.status() == 0x41)
    bench.badOffset = 10 * 512
    bench.command(0x20, block: 10)
    #expect(bench.status() == 0x41 && bench.read(1) == 0x40)
  }

  @Test func theBusMasterMovesDataBothWays() throws {
    let bench = try Bench()
    bench.command(0xC8, block: 100, count: 8)
    #expect(bench.channel.alternateStatus == 0x58 && !bench.channel.interruptLevel)
    bench.startMaster([(0x8000, 1024), (0xA000, 3072)], toMemory: true)
    #expect(bench.channel.interruptLevel && bench.status() == 0x50)
    #expect(bench.channel.master.status & 7 == 4)
    let first = try #require(bench.memory.read(GuestAddress(0x8000), count: 1024))
    let second = try #require(bench.memory.read(GuestAddress(0xA000), count: 3072))
    #expect(same(first + second, Array(bench.media[0][100 * 512..<108 * 512])))
    _ = bench.channel.writeMasterCommand(0)
    bench.channel.master.writeStatus(4)
    #expect(bench.channel.master.status & 7 == 0)
    bench.memory.write(GuestAddress(0x8000), [UInt8](repeating: 0xEE, count: 1024))
    bench.command(0xCA, block: 200, count: 2)
    bench.startMaster([(0x8000, 4096)], toMemory: false)
    #expect(bench.media[0][200 * 512..<202 * 512].count { $0 != 0xEE } == 0)
    // The table goes on: still active, and the interrupt has come.
    #expect(bench.channel.master.status & 7 == 5)
  }

  @Test func aShortTableStopsWithoutInterruptAndAWildOneFails() throws {
    let bench = try Bench()
    bench.command(0xC8, block: 0, count: 8)
    bench.startMaster([(0x8000, 1024)], toMemory: true)
    #expect(!bench.channel.interruptLevel && bench.channel.master.status & 5 == 0)
    #expect(bench.status() == 0x50)
    _ = bench.channel.writeMasterCommand(0)
    bench.command(0xC8, block: 0, count: 8)
    bench.startMaster([(0xFFFF_0000, 4096)], toMemory: true)
    #expect(bench.channel.interruptLevel && bench.status() == 0x41)
  }

  @Test func interruptsCanBeTurnedOff() throws {
    let bench = try Bench()
    _ = bench.control(2)
    bench.command(0xEC)
    #expect(!bench.channel.interruptLevel && bench.channel.master.status & 4 == 0)
    _ = bench.control(0)
    #expect(bench.channel.interruptLevel)
  }

  @Test func flushTrimAndFeatures() throws {
    let bench = try Bench()
    bench.command(0xE7)
    bench.command(0xEA)
    #expect(bench.flushes == 2)
    bench.out(1, 0x82)
    bench.command(0xEF)
    #expect(bench.channel.drives[0]?.isWriteCacheOn == false && bench.flushes == 3)
    var list = [UInt8](repeating: 0, count: 512)
    list[0] = 16
    list[6] = 8
    bench.memory.write(GuestAddress(0x8000), list)
    bench.out(1, 1)
    bench.command48(0x06, block: 0, count: 1)
    bench.startMaster([(0x8000, 512)], toMemory: false)
    #expect(bench.trims == [16 * 512..<24 * 512])
    #expect(bench.status() == 0x50)
    bench.out(1, 0xDA)
    bench.command(0xB0, block: 0xC24F00)
    #expect(
      bench.status() == 0x50 && bench.read(4) == 0x4F && bench.read(5) == 0xC2)
    bench.command(0xF8)
    #expect(bench.read(3) == 0xFF && bench.read(4) == 0x0F)
    bench.command(0xE5)
    #expect(bench.read(2) == 0xFF)
    bench.command(0x01)
    #expect(bench.status() == 0x41 && bench.read(1) == 4)
  }

  // MARK: Packets

  @Test func aDiscIsReadThroughTheRegisterAndByDMA() throws {
    let bench = try Bench(optical: 64)
    #expect(bench.packet([0]).isEmpty)
    #expect(bench.packet([0x25]) == [0, 0, 0, 63, 0, 0, 8, 0])
    let read = bench.packet([0x28, 0, 0, 0, 0, 3, 0, 0, 5], limit: 2048)
    #expect(same(read, Array(bench.media[1][3 * 2048..<8 * 2048])))
    #expect(bench.read(2) == 3 && bench.status() == 0x50)
    _ = bench.packet([0xA8, 0, 0, 0, 0, 9, 0, 0, 0, 4], dma: true)
    bench.startMaster([(0x8000, 8192)], toMemory: true)
    #expect(
      same(
        bench.memory.read(GuestAddress(0x8000), count: 8192) ?? [],
        Array(bench.media[1][9 * 2048..<13 * 2048])))
    #expect(bench.channel.interruptLevel && bench.channel.master.status & 7 == 4)
    let raw = bench.packet([0xBE, 0, 0, 0, 0, 2, 0, 0, 1, 0xF8])
    #expect(raw.count == 2352 && Array(raw[12..<16]) == [0, 2, 2, 1])
    #expect(same(Array(raw[16..<2064]), Array(bench.media[1][2 * 2048..<3 * 2048])))
    #expect(bench.packet([0x28, 0, 0, 0, 0, 60, 0, 0, 5]).isEmpty)
    #expect(bench.sense() == [5, 0x21, 0])
  }

  @Test func blocksKeepToTheByteLimit() throws {
    let bench = try Bench(optical: 64)
    bench.out(6, 0xB0)
    bench.out(1, 0)
    bench.out(4, 11)
    bench.out(5, 0)
    bench.out(7, 0xA0)
    bench.giveData([0x12, 0, 0, 0, 36, 0, 0, 0, 0, 0, 0, 0])
    var sizes: [UInt32] = []
    var bytes: [UInt8] = []
    while bench.channel.alternateStatus & 8 != 0 {
      let size = bench.read(4) | bench.read(5) << 8
      sizes.append(size)
      for _ in 0..<size / 2 {
        let word = bench.read(0, width: 2)
        bytes += [UInt8(truncatingIfNeeded: word), UInt8(truncatingIfNeeded: word >> 8)]
      }
      bench.settle()
    }
    #expect(sizes == [10, 10, 10, 6])
    #expect(String(decoding: bytes[16..<28], as: UTF8.self) == "QEMU DVD-ROM")
  }

  @Test func theTrayAndTheMedium() throws {
    let bench = try Bench(optical: 64)
    #expect(bench.packet([0x1E, 0, 0, 0, 1]).isEmpty)
    #expect(bench.channel.drives[1]?.isLocked == true)
    #expect(bench.packet([0x1B, 0, 0, 0, 2]).isEmpty)
    #expect(bench.sense() == [2, 0x53, 0])
    bench.channel.drives[1]?.requestEject()
    #expect(bench.packet([0x4A, 1, 0, 0, 0x10, 0, 0, 0, 8]) == [0, 6, 4, 0x10, 1, 2, 0, 0])
    _ = bench.packet([0x1E])
    _ = bench.packet([0x1B, 0, 0, 0, 2])
    #expect(bench.trays == [true])
    _ = bench.packet([0])
    #expect(bench.sense() == [2, 0x3A, 0])
    bench.channel.drives[1]?.changeMedium(size: 32 * 2048, isTrayOpen: false)
    _ = bench.packet([0])
    #expect(bench.sense() == [6, 0x28, 0])
    #expect(bench.packet([0x4A, 1, 0, 0, 0x10, 0, 0, 0, 8]) == [0, 6, 4, 0x10, 2, 2, 0, 0])
    #expect(bench.packet([0x25]) == [0, 0, 0, 31, 0, 0, 8, 0])
    bench.channel.drives[1]?.changeMedium(size: 0, isTrayOpen: false)
    _ = bench.packet([0x25])
    #expect(bench.sense() == [2, 0x3A, 0])
  }

  @Test func informationIsWhatTheStandardsSay() throws {
    let bench = try Bench(optical: 64)
    #expect(
      bench.packet([0x43, 0, 0, 0, 0, 0, 0, 0, 64]) == [
        0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0, 0, 0x16, 0xAA, 0, 0, 0, 0, 64,
      ])
    let configuration = bench.packet([0x46, 0, 0, 0, 0, 0, 0, 0, 64])
    #expect(Array(configuration[6..<8]) == [0, 8] && configuration.count == 40)
    #expect(bench.packet([0xBD, 0, 0, 0, 0, 0, 0, 0, 0, 8]) == [0, 0, 0, 0, 0, 1, 0, 0])
    let mode = bench.packet([0x5A, 0, 0x2A, 0, 0, 0, 0, 0, 64])
    #expect(mode[8] == 0x2A && Int(mode[1]) == mode.count - 2)
    #expect(bench.packet([0x51, 0, 0, 0, 0, 0, 0, 0, 64]).count == 34)
    #expect(bench.packet([0xAD, 0, 0, 0, 0, 0, 0, 0, 0, 64]).isEmpty)
    #expect(bench.sense() == [5, 0x30, 0])
    #expect(bench.packet([0xFE]).isEmpty)
    #expect(bench.sense() == [5, 0x20, 0])
    bench.command(0xA1, drive: 1)
    let page = bench.takeData()
    #expect(page.count == 512 && page[0] == 0xC0 && page[1] == 0x85)
    bench.command(0xEC, drive: 1)
    #expect(
      bench.status() & 1 == 1 && bench.read(4) == 0x14 && bench.read(5) == 0xEB)
  }

  @Test func randomRegistersNeverTrap() throws {
    var random = SeededGenerator(seed: 0x1DE)
    for _ in 0..<40 {
      let bench = try Bench(disk: 512, optical: 32)
      for _ in 0..<4000 {
        let value = UInt32(truncatingIfNeeded: random.next())
        switch random.next() % 12 {
        case 0...4: bench.out(Int(random.next() % 6 + 1), value & 0xFF)
        case 5:
          bench.out(
            7, [0x20, 0x30, 0xC8, 0xCA, 0xA0, 0xEC, 0xEF, 0x06, 0xC4, 0x39, 0x25][Int(value % 11)])
        case 6: bench.out(7, value & 0xFF)
        case 7: for _ in 0..<200 { _ = bench.read(0, width: value & 1 == 0 ? 2 : 4) }
        case 8:
          for _ in 0..<200 { bench.channel.write(0, width: value & 1 == 0 ? 2 : 4, value &* 7) }
        case 9:
          if value & 7 == 0 {
            _ = bench.control(UInt8(truncatingIfNeeded: value >> 8))
          }
          _ = bench.read(Int(value % 8))
        case 10:
          bench.startMaster(
            [(value & 0x1F_FFFE, value >> 16), (0x8000, 0)], toMemory: value & 1 == 0)
        default:
          _ = bench.channel.writeMasterCommand(UInt8(truncatingIfNeeded: value))
          bench.channel.drives[1]?.changeMedium(
            size: UInt64(value % 32) * 2048, isTrayOpen: value & 32 != 0)
        }
        bench.settle()
      }
    }
  }
}
