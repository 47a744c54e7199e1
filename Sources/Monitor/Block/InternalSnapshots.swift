import Block
import Glibc
import Host
import QAPI

/// Snapshots inside an image that a device uses.
struct InternalSnapshots {
  private let image: Qcow2Node
  private let file: any BlockNode

  /// Of the image that a device has, also through filters. Throws QEMU's sentence for formats without snapshots.
  init(_ node: any BlockNode, device: String) throws(BlockError) {
    var node = node
    while BlockGraph.filterDrivers.contains(node.driver), let below = node.children.first?.node,
      below.driver != "file", below.driver != "host_device"
    {
      node = below
    }
    guard let image = node as? Qcow2Node, let file = image.child("file"),
      image.child("data-file") == nil
    else {
      throw BlockError(
        ENOTSUP,
        "Block format '\(node.driver)' used by device '\(device)' does not support internal"
          + " snapshots")
    }
    self.image = image
    self.file = file
  }

  private func table() throws(BlockError) -> Qcow2SnapshotTable {
    try Qcow2SnapshotTable(reading: file, header: image.header)
  }

  /// The snapshot with that id and name, as far as they are given.
  func find(id: String?, name: String?) throws(BlockError) -> SnapshotInfo? {
    let table = try table()
    return table.index(id: id, name: name).map { SnapshotInfo(table.snapshots[$0]) }
  }

  /// Takes a snapshot. No request is in flight.
  func create(_ name: String, vmClock: UInt64) throws(BlockError) -> SnapshotInfo {
    let now = HostClock.realtime
    var new = Qcow2Maintenance.NewSnapshot(
      name: name, seconds: UInt32(truncatingIfNeeded: now / 1_000_000_000),
      nanoseconds: UInt32(now % 1_000_000_000))
    new.vmClockNanoseconds = vmClock
    let wanted = new
    return SnapshotInfo(
      try image.maintain { (image) throws(BlockError) in try image.createSnapshot(wanted) })
  }

  /// Deletes a snapshot. No request is in flight.
  func delete(id: String?, name: String?) throws(BlockError) {
    guard let index = try table().index(id: id, name: name) else { return }
    try image.maintain { (image) throws(BlockError) in try image.deleteSnapshot(index) }
  }
}
