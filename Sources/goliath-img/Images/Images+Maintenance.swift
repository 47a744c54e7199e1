import Block
import Glibc
import Host

extension Images {
  static func canCheck(_ image: OpenImage) -> Bool {
    Chain.skippingFilters(image.node) is Qcow2Node
  }

  static func check(_ image: OpenImage, _ repair: CheckRepair) throws(BlockError) -> CheckResult {
    throw BlockError(ENOTSUP, "")
  }

  static func snapshots(of node: any BlockNode) -> [SnapshotInfo] { [] }

  static func snapshotView(of image: OpenImage, _ text: String) throws(ToolError) -> OpenImage {
    throw ToolError("Failed to load snapshot: Can't find snapshot")
  }

  static func createSnapshot(_ image: OpenImage, _ name: String) throws(ToolError) {
    throw ToolError("Could not create snapshot '\(name)': -95 (Operation not supported)")
  }

  static func applySnapshot(_ image: OpenImage, _ name: String) throws(ToolError) {
    throw ToolError("Could not apply snapshot '\(name)': Block driver does not support snapshots")
  }

  static func deleteSnapshot(_ image: OpenImage, _ name: String) throws(ToolError) {
    throw ToolError("Could not delete snapshot '\(name)': snapshot not found")
  }

  static func amend(_ image: OpenImage, _ options: CreateOptions) throws(ToolError) {
    throw ToolError("Format driver '\(image.format)' does not support option amendment")
  }

  static func empty(_ image: OpenImage) throws(ToolError) {}

  static func changeBacking(
    _ image: OpenImage, _ backing: String?, _ format: String?
  ) throws(BlockError) {
    throw BlockError(ENOTSUP, "Operation not supported")
  }

  /// What a new image takes on the host, in bytes.
  struct Measurement {
    var required: UInt64
    var fullyAllocated: UInt64
    var bitmaps: UInt64?
  }

  static func measure(
    _ format: String, _ options: CreateOptions, _ source: (any BlockNode)?
  ) throws(ToolError) -> Measurement {
    let size = ((options.number("size") ?? 0) &+ 511) & ~511
    return Measurement(required: size, fullyAllocated: size)
  }
}
