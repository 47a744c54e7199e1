/// An exception the guest must see is pending in the state (`faultVector`, `faultCode`); the instruction is abandoned.
struct GuestFault: Error {}

/// Exception vectors (Intel SDM vol. 3A, 6.15).
package enum ExceptionVector {
  static let divide: UInt8 = 0
  static let debug: UInt8 = 1
  static let nmi: UInt8 = 2
  static let breakpoint: UInt8 = 3
  static let overflow: UInt8 = 4
  static let bound: UInt8 = 5
  static let undefined: UInt8 = 6
  static let deviceNotAvailable: UInt8 = 7
  static let doubleFault: UInt8 = 8
  static let invalidTSS: UInt8 = 10
  static let segmentNotPresent: UInt8 = 11
  static let stack: UInt8 = 12
  static let generalProtection: UInt8 = 13
  static let pageFault: UInt8 = 14
  static let x87: UInt8 = 16
  static let alignment: UInt8 = 17
  static let simd: UInt8 = 19
}
