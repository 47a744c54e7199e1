package import Host
import JSON

/// Delays requests as its group's limits say (driver `throttle`).
package final class ThrottleNode: BlockNode, BlockParent {
  package let driver = "throttle"
  package let name: String
  package let isReadOnly: Bool
  package let group: ThrottleGroup
  private let groups: ThrottleGroups
  private let file: ChildSlot

  /// Uses a group that the caller took from `groups`; closing gives it back.
  package init(
    name: String, file: any BlockNode, group: ThrottleGroup, of groups: ThrottleGroups,
    isReadOnly: Bool
  ) {
    self.name = name
    self.group = group
    self.groups = groups
    self.isReadOnly = isReadOnly
    self.file = ChildSlot(file)
  }

  package var length: UInt64 { file.node.length }
  package var limits: BlockLimits { file.node.limits }
  package var children: [BlockChild] { [BlockChild(role: "file", node: file.node)] }
  package var allocatedSize: UInt64? { file.node.allocatedSize }

  package func replaceChild(_ role: String, with node: any BlockNode) -> Bool {
    guard role == "file" else { return false }
    file.node = node
    return true
  }

  package func read(_ offset: UInt64, into target: IOVector) throws(BlockError) {
    group.waitToStart(isWrite: false, bytes: UInt64(target.count))
    try file.node.read(offset, into: target)
  }

  package func readNow(_ offset: UInt64, into target: IOVector) throws(BlockError) -> Bool {
    if group.isEnabled { return false }
    return try file.node.readNow(offset, into: target)
  }

  package func write(
    _ offset: UInt64, from source: IOVector, _ flags: WriteFlags
  ) throws(BlockError) {
    group.waitToStart(isWrite: true, bytes: UInt64(source.count))
    try file.node.write(offset, from: source, flags)
  }

  package func writeZeroes(
    _ offset: UInt64, _ count: UInt64, _ flags: WriteFlags
  ) throws(BlockError) {
    group.waitToStart(isWrite: true, bytes: count)
    try file.node.writeZeroes(offset, count, flags)
  }

  package func discard(_ offset: UInt64, _ count: UInt64) throws(BlockError) {
    group.waitToStart(isWrite: true, bytes: count)
    try file.node.discard(offset, count)
  }

  package func flush() throws(BlockError) { try file.node.flush() }

  package func truncate(
    to length: UInt64, _ preallocation: Preallocation
  ) throws(BlockError) { try file.node.truncate(to: length, preallocation) }

  package func status(_ offset: UInt64, _ count: UInt64) throws(BlockError) -> BlockStatus {
    try file.node.status(offset, count)
  }

  package func close() throws(BlockError) { groups.release(group.name) }
}

extension BlockGraph {
  func openThrottle(
    _ name: String, over file: any BlockNode, _ request: inout Request, _ settings: NodeSettings
  ) throws(BlockError) -> any BlockNode {
    let given = request.options.rest
    guard let group = try request.options.string("throttle-group") else {
      throw BlockError(22, "Please specify a throttle group")
    }
    try checkLeftovers("throttle", request.options, isProtocol: false)
    guard throttleGroups.find(group) != nil else {
      throw BlockError(22, "Throttle group '\(group)' does not exist")
    }
    let node = ThrottleNode(
      name: name, file: file, group: throttleGroups.use(group), of: throttleGroups,
      isReadOnly: settings.isReadOnly || file.isReadOnly)
    return try finish(node, settings, filename: filename(of: file), options: given)
  }
}
