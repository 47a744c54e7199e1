import Block
import Host
import JSON

extension Images {
  /// Opens an image without its name in front of what goes wrong.
  static func openPlain(_ request: OpenRequest) throws(BlockError) -> OpenImage {
    let isQuiet = request.isQuiet
    let graph = BlockGraph { text in
      if !isQuiet { Standard.note(text.hasSuffix("\n") ? text : text + "\n") }
    }
    var settings = NodeSettings()
    settings.isReadOnly = !request.isWritable
    settings.cache = request.cache.mode
    settings.unmaps = request.unmaps
    settings.forceShare = request.sharesByForce
    settings.isForChecking = request.isForChecking
    settings.opensBacking = request.hasBacking && !request.isForChecking
    settings.metadataOnly = request.isMetadataOnly
    var options = JSONObject()
    if request.isOptions {
      for (name, value, _) in CreateOptions.split(request.text) { options[name] = .string(value) }
    }
    let node = try graph.open(
      request.isOptions ? nil : request.text, format: request.format, options: options,
      settings: settings)
    let filename = graph.entry(of: node)?.filename ?? request.text
    return OpenImage(
      node: node, filename: filename.isEmpty ? request.text : filename, format: node.driver,
      graph: graph)
  }

  /// The name of the file that holds a layer's data.
  static func fileName(of node: any BlockNode, in graph: BlockGraph) -> String {
    graph.entry(of: node)?.filename ?? ""
  }

  /// What is known about an image.
  static func info(about image: OpenImage) -> ImageInfo {
    var info = ImageInfo()
    info.filename = image.filename
    info.format = image.format
    info.virtualSize = image.node.length
    info.actualSize = image.node.allocatedSize
    let entry = image.graph.entry(of: image.node)
    if let backing = entry?.backingFile, !backing.isEmpty {
      info.backingFile = backing
      info.fullBackingFile = path(of: backing, relativeTo: image.filename)
      info.backingFormat = entry?.backingFormat
    }
    info.isDirty = false
    if let qcow2 = Chain.skippingFilters(image.node) as? Qcow2Node { describe(qcow2, &info) }
    return info
  }

  private static func describe(_ node: Qcow2Node, _ info: inout ImageInfo) {
    let header = node.header
    info.clusterSize = UInt64(header.clusterSize)
    info.isDirty = header.incompatible.contains(.dirty)
    info.isEncrypted = node.isEncrypted
    info.snapshots = snapshots(of: node)
    if info.backingFile == nil, let backing = header.backingFile, !backing.isEmpty {
      info.backingFile = backing
      info.fullBackingFile = path(of: backing, relativeTo: info.filename)
      info.backingFormat = header.extensions.backingFormat
    }
    var members = JSONObject()
    members["compat"] = .string(header.version < 3 ? "0.10" : "1.1")
    if header.version >= 3 {
      members["lazy-refcounts"] = .bool(header.compatible.contains(.lazyRefcounts))
      members["corrupt"] = .bool(node.isCorrupt)
      members["extended-l2"] = .bool(header.hasExtendedL2)
      if header.hasDataFile {
        if let name = header.extensions.dataFile { members["data-file"] = .string(name) }
        members["data-file-raw"] = .bool(header.autoclear.contains(.dataFileRaw))
      }
    }
    members["refcount-bits"] = JSONValue(header.refcountBits)
    members["compression-type"] = .string(header.compressionType.name)
    info.specific = members
  }
}
