/// The number of a node of the cluster, from 0. Node 0 has the devices, the I/O APIC and the PIC.
package struct NodeID: RawRepresentable, Hashable, Comparable, Sendable, BitwiseCopyable {
  /// Most nodes of a cluster: what a word of sharers holds.
  package static let limit = 64
  /// The node with the devices.
  package static let devices = NodeID(rawValue: 0)

  package let rawValue: UInt8
  package init(rawValue: UInt8) { self.rawValue = rawValue }

  package static func < (a: NodeID, b: NodeID) -> Bool { a.rawValue < b.rawValue }
}

extension NodeID: CustomStringConvertible {
  package var description: String { "node \(rawValue)" }
}
