/// Who uses a node, as what, and what they do and let others do with it.
package struct NodeUse: Equatable, Sendable {
  /// The user.
  package enum Holder: Hashable, Sendable {
    case node(String)
    /// A device's or tool's backend, by a number of its own.
    case backend(UInt64)
  }

  package let holder: Holder
  /// `file`, `backing`, `data-file`, `image`; `root` for backends.
  package let role: String
  /// For messages: `node 'x'`, `block device 'x'`.
  package let description: String
  package var used: BlockPermissions
  package var shared: BlockPermissions

  package init(
    holder: Holder, role: String, description: String, used: BlockPermissions = [],
    shared: BlockPermissions = .all
  ) {
    self.holder = holder
    self.role = role
    self.description = description
    self.used = used
    self.shared = shared
  }

  /// What the users of a node whose driver is `driver` need of the node that is below it as `role`.
  static func below(
    driver: String, role: String, isWritable: Bool, metadataOnly: Bool,
    used: BlockPermissions, shared: BlockPermissions
  ) -> (used: BlockPermissions, shared: BlockPermissions) {
    if role == "backing" {
      // Backing files are read only; whoever lets others change the disk lets them change these.
      let below: BlockPermissions = shared.contains(.write) ? [.write, .resize] : []
      return (
        used.intersection(.consistentRead), below.union([.consistentRead, .writeUnchanged])
      )
    }
    if BlockGraph.filterDrivers.contains(driver) { return (used, shared.union(.writeUnchanged)) }
    var (used, shared) = (used, shared)
    if role == "file" {
      if isWritable { used.formUnion([.write, .resize]) }
      if !metadataOnly { used.formUnion(.consistentRead) }
      shared.subtract([.write, .resize])
    }
    if used.contains(.writeUnchanged) { used.formUnion(.write) }
    if used.contains(.write) { used.formUnion(.resize) }
    shared.subtract(.resize)
    return (used, shared.union(.writeUnchanged))
  }
}
