package import Block
package import DeviceModel
package import Host
import JSON
package import QAPI

/// `throttle-group`: limits that several disks share.
@MainLoop
package final class ThrottleGroupObject: UserObject {
  package let typeName = "throttle-group"
  private let name: String
  private let groups: ThrottleGroups
  private var limits: Block.ThrottleLimits
  private var group: ThrottleGroup?

  /// Throws when the limits contradict each other, in QEMU's words.
  package init(
    id: String, _ options: ThrottleGroupProperties, _ groups: ThrottleGroups
  ) throws(QAPIError) {
    name = id
    self.groups = groups
    limits = Block.ThrottleLimits()
    if let given = options.limits { try ThrottleGroupObject.apply(given, to: &limits) }
    for (field, value) in ThrottleGroupObject.older(options) {
      guard let value else { continue }
      guard value >= 0 else { throw QAPIError("Property values cannot be negative") }
      field.store(UInt64(value), in: &limits)
    }
    try check(limits)
  }

  package func complete(in registry: ObjectRegistry) throws(QAPIError) {
    if groups.find(name) != nil { throw QAPIError("A group with this name already exists") }
    let group = groups.use(name)
    self.group = group
    try configure(group, limits)
  }

  package var canBeDeleted: Bool { groups.userCount(name) <= 1 }

  package func deleted() {
    if group != nil { groups.release(name) }
    group = nil
  }

  private var current: Block.ThrottleLimits { group?.limits ?? limits }

  package var objectProperties: [ObjectProperty] {
    var list = [
      ObjectProperty.value("limits", "ThrottleLimits") {
        [unowned self] () throws(QAPIError) -> QAPI.ThrottleLimits in
        ThrottleGroupObject.described(current)
      } set: { [unowned self] (value: QAPI.ThrottleLimits) throws(QAPIError) in
        var limits = current
        try ThrottleGroupObject.apply(value, to: &limits)
        try check(limits)
        if let group { try configure(group, limits) }
      }
    ]
    for field in ThrottleField.all {
      list.append(
        ObjectProperty(
          "x-\(field.name)", "int",
          get: { [unowned self] () throws(QAPIError) in JSONValue(field.load(from: current)) },
          set: { _ throws(QAPIError) in
            throw QAPIError("Property cannot be set after initialization")
          }))
    }
    return list
  }

  private func configure(_ group: ThrottleGroup, _ limits: Block.ThrottleLimits) throws(QAPIError) {
    do throws(BlockError) { try group.configure(limits) } catch { throw QAPIError(error.message) }
  }

  private func check(_ limits: Block.ThrottleLimits) throws(QAPIError) {
    do throws(BlockError) { try limits.check() } catch { throw QAPIError(error.message) }
  }

  /// Takes over what is given.
  private static func apply(
    _ given: QAPI.ThrottleLimits, to limits: inout Block.ThrottleLimits
  ) throws(QAPIError) {
    guard case .object(let members) = given.encoded else { return }
    for field in ThrottleField.all {
      guard case .int(let value)? = members[field.name] else { continue }
      guard value >= 0 else {
        throw QAPIError("bps/iops/max values must be within [0, \(Block.ThrottleLimits.largest)]")
      }
      field.store(UInt64(value), in: &limits)
    }
  }

  private static func older(_ options: ThrottleGroupProperties) -> [(ThrottleField, Int64?)] {
    guard case .object(let members) = options.encoded else { return [] }
    return ThrottleField.all.map { field in
      if case .int(let value)? = members["x-\(field.name)"] { return (field, value) }
      return (field, nil)
    }
  }

  private static func described(_ limits: Block.ThrottleLimits) -> QAPI.ThrottleLimits {
    func int(_ value: UInt64) -> Int { Int(clamping: value) }
    let (all, reads, writes) = (
      limits.operationsTotal, limits.operationsRead, limits.operationsWrite
    )
    let (bytes, readBytes, writtenBytes) = (
      limits.bytesTotal, limits.bytesRead, limits.bytesWrite
    )
    return QAPI.ThrottleLimits(
      iopsTotal: int(all.average), iopsTotalMax: int(all.maximum),
      iopsTotalMaxLength: int(all.burstLength), iopsRead: int(reads.average),
      iopsReadMax: int(reads.maximum), iopsReadMaxLength: int(reads.burstLength),
      iopsWrite: int(writes.average), iopsWriteMax: int(writes.maximum),
      iopsWriteMaxLength: int(writes.burstLength), bpsTotal: int(bytes.average),
      bpsTotalMax: int(bytes.maximum), bpsTotalMaxLength: int(bytes.burstLength),
      bpsRead: int(readBytes.average), bpsReadMax: int(readBytes.maximum),
      bpsReadMaxLength: int(readBytes.burstLength), bpsWrite: int(writtenBytes.average),
      bpsWriteMax: int(writtenBytes.maximum),
      bpsWriteMaxLength: int(writtenBytes.burstLength), iopsSize: int(limits.operationSize))
  }
}
