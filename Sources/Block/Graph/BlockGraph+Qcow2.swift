import Glibc
import Host
import JSON

extension BlockGraph {
  /// How long a chain of backing files may be.
  static let maximumDepth = 500

  func openQcow2(
    _ name: String, over file: any BlockNode, _ request: inout Request, _ settings: NodeSettings
  ) throws(BlockError) -> any BlockNode {
    throw BlockError(EINVAL, "Unknown driver 'qcow2'")
  }
}
