import Cluster
import DeviceModel

/// Device accesses as frames (distributed.md, section 4): all of a request but the value of a memory write is in the header's argument.
///
/// Ports: bits 0 to 15 port, 16 and 17 binary logarithm of the width, 18 to 30 vCPU, 31 string, 32 to 63 value. Of a string instruction, the
/// value is the number of elements; a write's body are the elements, the reply's argument is how many of them are done, and its body begins
/// with those read.
/// Memory: bits 0 to 51 address, 52 and 53 binary logarithm of the width, 54 to 63 vCPU; a write's body is the value, eight bytes. A write
/// that is a doorbell's has no reply.
/// Otherwise the reply's argument is the value read. Four bytes at the end of its body are the number of a hold: the vCPUs of the node stop
/// before their next instruction until node 0 takes it back.
enum DeviceFrames {
  /// One access, as the frame says it.
  struct Access: Equatable {
    var address: UInt64
    var width: Int
    var vcpu: UInt32
    /// Of a port write.
    var value: UInt32 = 0
    /// `value` counts the elements of a string instruction.
    var isString = false
  }

  /// Most bytes of one frame's elements.
  static let longestString = 4096

  static func port(
    _ port: UInt16, width: Int, vcpu: VCPUID, value: UInt32 = 0, isString: Bool = false
  ) -> UInt64 {
    UInt64(port) | logarithm(width) << 16 | UInt64(vcpu.rawValue & 0x1FFF) << 18
      | (isString ? 1 << 31 : 0) | UInt64(value) << 32
  }

  /// Nil for a width that ports do not have.
  static func port(_ argument: UInt64) -> Access? {
    let width = 1 << Int(argument >> 16 & 3)
    guard width <= 4 else { return nil }
    return Access(
      address: argument & 0xFFFF, width: width,
      vcpu: UInt32(truncatingIfNeeded: argument >> 18 & 0x1FFF),
      value: UInt32(truncatingIfNeeded: argument >> 32), isString: argument & 1 << 31 != 0)
  }

  /// Appends the low `width` bytes of an element, little endian.
  static func append(_ value: UInt64, width: Int, to bytes: inout [UInt8]) {
    for index in 0..<width {
      bytes.append(UInt8(truncatingIfNeeded: value >> UInt64(index &* 8)))
    }
  }

  /// The element of that number in `bytes`.
  static func element(_ index: Int, width: Int, of bytes: [UInt8]) -> UInt32 {
    var value: UInt32 = 0
    for offset in 0..<width {
      value |= UInt32(bytes[index &* width &+ offset]) << UInt32(offset &* 8)
    }
    return value
  }

  static func memory(_ address: UInt64, width: Int, vcpu: VCPUID) -> UInt64 {
    address & (1 << 52 - 1) | logarithm(width) << 52 | UInt64(vcpu.rawValue & 0x3FF) << 54
  }

  static func memory(_ argument: UInt64) -> Access {
    Access(
      address: argument & (1 << 52 - 1), width: 1 << Int(argument >> 52 & 3),
      vcpu: UInt32(truncatingIfNeeded: argument >> 54))
  }

  private static func logarithm(_ width: Int) -> UInt64 {
    UInt64(truncatingIfNeeded: max(width, 1).trailingZeroBitCount & 3)
  }
}
