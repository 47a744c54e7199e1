import Cluster
import DistIRQ

/// Interrupts as frames (distributed.md, section 4). For one vCPU, which is nearly always, everything is in the header's argument.
///
/// | bits of the argument | content |
/// | --- | --- |
/// | 0 to 47 | the message's wire form without its two zero bytes |
/// | 48 to 63 | the vCPU, or 0xFFFF: the body holds a `VCPUSet`, eight words of eight bytes, lowest first |
enum InterruptFrames {
  /// Stands for a set in the body.
  static let several: UInt16 = 0xFFFF
  /// Bytes of a set.
  static let setSize = 64

  static func argument(_ message: InterruptMessage, vcpu: UInt16) -> UInt64 {
    let bytes = message.wireBytes
    var value: UInt64 = UInt64(vcpu) << 48
    for index in 0..<6 { value |= UInt64(bytes[index]) << UInt64(index &* 8) }
    return value
  }

  /// Nil when the argument is no message.
  static func message(_ argument: UInt64) -> InterruptMessage? {
    var bytes: [8 of UInt8] = .init(repeating: 0)
    for index in 0..<6 {
      bytes[index] = UInt8(truncatingIfNeeded: argument >> UInt64(index &* 8))
    }
    return InterruptMessage(wireBytes: bytes)
  }

  static func vcpu(_ argument: UInt64) -> UInt16 { UInt16(truncatingIfNeeded: argument >> 48) }

  static func bytes(_ set: VCPUSet) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(setSize)
    for index in set.words.indices { bytes.append64(set.words[index]) }
    return bytes
  }

  static func set(_ bytes: [UInt8]) -> VCPUSet? {
    guard bytes.count == setSize else { return nil }
    var set = VCPUSet()
    let reader = LittleEndian(bytes)
    for index in set.words.indices { set.words[index] = reader.u64(index &* 8) }
    return set
  }

  /// An APIC's route and its vCPU: 47 bits and 16.
  static func argument(_ route: APICRoute, vcpu: UInt32) -> UInt64 {
    route.rawValue & routeMask | UInt64(vcpu) << 47
  }

  static func route(_ argument: UInt64) -> (vcpu: UInt32, route: APICRoute) {
    (UInt32(truncatingIfNeeded: argument >> 47), APICRoute(rawValue: argument & routeMask))
  }

  private static let routeMask: UInt64 = 1 << 47 - 1
}
