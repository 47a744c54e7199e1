/// What a user of a node does with it, or lets others do. The bit numbers are those of QEMU's lock bytes.
package struct BlockPermissions: OptionSet, Hashable, Sendable {
  package let rawValue: UInt64
  package init(rawValue: UInt64) { self.rawValue = rawValue }

  /// Reads that must see one consistent state.
  package static let consistentRead = BlockPermissions(rawValue: 1)
  package static let write = BlockPermissions(rawValue: 2)
  /// Writes that leave what is read as it was.
  package static let writeUnchanged = BlockPermissions(rawValue: 4)
  package static let resize = BlockPermissions(rawValue: 8)
  package static let all = BlockPermissions(rawValue: 15)

  /// The name that messages use for permission number `bit`.
  package static func name(ofBit bit: Int) -> String {
    switch bit {
    case 0: "consistent read"
    case 1: "write"
    case 2: "write unchanged"
    case 3: "resize"
    default: "unknown"
    }
  }

  /// The names, with commas between.
  package var names: String {
    (0..<4).filter { contains(BlockPermissions(rawValue: 1 << UInt64($0))) }
      .map { BlockPermissions.name(ofBit: $0) }.joined(separator: ", ")
  }
}
