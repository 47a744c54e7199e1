/// A guest-physical address.
package struct GuestAddress: RawRepresentable, Hashable, Comparable, Sendable,
  CustomStringConvertible
{
  package var rawValue: UInt64
  package init(rawValue: UInt64) { self.rawValue = rawValue }
  package init(_ rawValue: UInt64) { self.rawValue = rawValue }

  package static func < (a: GuestAddress, b: GuestAddress) -> Bool { a.rawValue < b.rawValue }

  /// Wraps at the end of the address space, as an address adder does.
  package static func + (a: GuestAddress, offset: UInt64) -> GuestAddress {
    GuestAddress(a.rawValue &+ offset)
  }

  package var description: String { "0x" + String(rawValue, radix: 16) }

  /// The size of the smallest page, in bytes.
  package static let pageSize: UInt64 = 4096
}
