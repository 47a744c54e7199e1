/// Status register (ATA/ATAPI-6, 7.15).
enum ATAStatus {
  static let busy: UInt8 = 0x80
  static let ready: UInt8 = 0x40
  static let fault: UInt8 = 0x20
  /// Seek complete; service for packet devices.
  static let seek: UInt8 = 0x10
  static let dataRequest: UInt8 = 0x08
  static let error: UInt8 = 0x01
}

/// Error register (7.9).
enum ATAError {
  static let uncorrectable: UInt8 = 0x40
  static let notFound: UInt8 = 0x10
  static let aborted: UInt8 = 0x04
}

/// Why a packet device interrupts, in the sector count register (ATA/ATAPI-6, 9.8).
enum PacketReason {
  static let commandOrStatus: UInt8 = 1
  static let toHost: UInt8 = 2
}

/// The command block registers that software writes parameters to (ATA/ATAPI-6, 7). Each of the first five remembers what it held before its
/// last write: the upper half of 48-bit parameters (6.20).
struct TaskFile: Equatable, Sendable {
  var features: UInt8 = 0
  var count: UInt8 = 1
  var low: UInt8 = 1
  var mid: UInt8 = 0
  var high: UInt8 = 0
  var previousFeatures: UInt8 = 0
  var previousCount: UInt8 = 0
  var previousLow: UInt8 = 0
  var previousMid: UInt8 = 0
  var previousHigh: UInt8 = 0
  /// Bit 6: addresses are block numbers; bits 0 to 3: head, or the number's top.
  var device: UInt8 = 0xA0

  mutating func write(_ register: Int, _ value: UInt8) {
    switch register {
    case 1: (previousFeatures, features) = (features, value)
    case 2: (previousCount, count) = (count, value)
    case 3: (previousLow, low) = (low, value)
    case 4: (previousMid, mid) = (mid, value)
    case 5: (previousHigh, high) = (high, value)
    case 6: device = value | 0xA0
    default: break
    }
  }

  /// `previous` when the high order bit of the control register is set.
  func read(_ register: Int, previous: Bool) -> UInt8 {
    switch register {
    case 2: previous ? previousCount : count
    case 3: previous ? previousLow : low
    case 4: previous ? previousMid : mid
    case 5: previous ? previousHigh : high
    case 6: device
    default: 0
    }
  }

  var usesBlockNumbers: Bool { device & 0x40 != 0 }

  /// How many sectors: 0 stands for the most that can be said.
  func sectorCount(extended: Bool) -> Int {
    if extended {
      let value = Int(previousCount) << 8 | Int(count)
      return value == 0 ? 65536 : value
    }
    return count == 0 ? 256 : Int(count)
  }

  var number28: UInt64 {
    UInt64(device & 15) << 24 | UInt64(high) << 16 | UInt64(mid) << 8 | UInt64(low)
  }
  var number48: UInt64 {
    UInt64(previousHigh) << 40 | UInt64(previousMid) << 32 | UInt64(previousLow) << 24
      | UInt64(high) << 16 | UInt64(mid) << 8 | UInt64(low)
  }
  mutating func set28(_ number: UInt64) {
    low = UInt8(truncatingIfNeeded: number)
    mid = UInt8(truncatingIfNeeded: number >> 8)
    high = UInt8(truncatingIfNeeded: number >> 16)
    device = device & 0xF0 | UInt8(truncatingIfNeeded: number >> 24 & 15)
  }
  mutating func set48(_ number: UInt64) {
    low = UInt8(truncatingIfNeeded: number)
    mid = UInt8(truncatingIfNeeded: number >> 8)
    high = UInt8(truncatingIfNeeded: number >> 16)
    previousLow = UInt8(truncatingIfNeeded: number >> 24)
    previousMid = UInt8(truncatingIfNeeded: number >> 32)
    previousHigh = UInt8(truncatingIfNeeded: number >> 40)
  }
}
