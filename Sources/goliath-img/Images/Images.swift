import Block
import Glibc
import Host
import JSON

/// An image that is open.
struct OpenImage: Sendable {
  let node: any BlockNode
  /// The name by which people know it.
  let filename: String
  /// The driver of the topmost node.
  let format: String
  let graph: BlockGraph

  /// Ends the use of an image whose content need not be made safe, such as one that was only read.
  func drop() {
    do throws(ToolError) { try close() } catch {}
  }

  /// Writes what is cached and closes. Throws when that fails.
  func close() throws(ToolError) {
    do throws(BlockError) { try graph.closeAll() } catch { throw ToolError(error) }
  }
}

/// Where verbs meet the block graph.
enum Images {
  /// Opens the one image that a verb is about.
  static func open(_ arguments: Arguments, isWritable: Bool) throws(ToolError) -> OpenImage {
    var request = try OpenRequest(arguments, try Common.file(arguments))
    request.isWritable = isWritable
    return try open(request)
  }

  /// Opens an image. Throws with its name in front.
  static func open(_ request: OpenRequest) throws(ToolError) -> OpenImage {
    do throws(BlockError) {
      return try openPlain(request)
    } catch {
      throw ToolError(error, "Could not open '\(request.text)': ")
    }
  }

  /// What the system says about a failure.
  static func reason(_ error: BlockError) -> String {
    SystemError(call: "", code: error.code).reason
  }

  static func isKnown(_ format: String) -> Bool { HelpPage.formats.contains(format) }

  /// The path of a backing file that is named relative to its overlay.
  static func path(of backing: String, relativeTo file: String) -> String {
    FileName.resolve(backing, against: file)
  }

  /// The unit of allocation; 0: none.
  static func clusterSize(of node: any BlockNode) -> UInt64 {
    let node = Chain.skippingFilters(node)
    guard let qcow2 = node as? Qcow2Node else { return 0 }
    return UInt64(qcow2.header.clusterSize)
  }

  /// Whether a node stands on a device, which holds what it held before.
  static func isDevice(_ node: any BlockNode) -> Bool {
    var node = node
    while let below = node.child("file") { node = below }
    return node.driver == "host_device"
  }

  /// How many threads of those allowed are of use: with the host's cache, one for each processor and one that waits.
  static func usefulThreads(_ count: Int, _ source: CacheOption, _ target: CacheOption) -> Int {
    if source.bypassesHostCache || target.bypassesHostCache { return count }
    return min(count, HostThread.processorCount + 1)
  }

  static func hasBackingFiles(_ image: OpenImage) -> Bool {
    Chain.skippingFilters(image.node) is Qcow2Node
  }
}
