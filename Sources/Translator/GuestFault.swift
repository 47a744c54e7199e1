/// An exception the guest must see is pending in the state (`faultVector`, `faultCode`); the instruction is abandoned.
package struct GuestFault: Error {}

/// Exception vectors (Intel SDM vol. 3A, 6.15).
package enum ExceptionVector {
  package static let divide: UInt8 = 0
  package static let debug: UInt8 = 1
  package static let nmi: UInt8 = 2
  package static let breakpoint: UInt8 = 3
  package static let overflow: UInt8 = 4
  package static let bound: UInt8 = 5
  package static let undefined: UInt8 = 6
  package static let deviceNotAvailable: UInt8 = 7
  package static let doubleFault: UInt8 = 8
  package static let invalidTSS: UInt8 = 10
  package static let segmentNotPresent: UInt8 = 11
  package static let stack: UInt8 = 12
  package static let generalProtection: UInt8 = 13
  package static let pageFault: UInt8 = 14
  package static let x87: UInt8 = 16
  package static let alignment: UInt8 = 17
  package static let machineCheck: UInt8 = 18
  package static let simd: UInt8 = 19
}
