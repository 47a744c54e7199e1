import Block
import Glibc
import Host
import JSON

extension Images {
  /// Makes an image. What is in the file is lost. Throws without the file's name in front.
  static func create(_ file: String, format: String, _ options: CreateOptions) throws(ToolError) {
    do throws(BlockError) {
      let size = (options.number("size") ?? 0).addingReportingOverflow(511)
      guard !size.overflow, size.partialValue <= UInt64(Int64.max) else {
        throw BlockError(EFBIG, "The image size is too large for file format '\(format)'")
      }
      let rounded = size.partialValue & ~511
      if format == "qcow2" {
        try createQcow2(file, rounded, options)
      } else {
        try createRaw(file, rounded, try preallocation(options))
      }
    } catch {
      throw ToolError(error)
    }
  }

  private static func preallocation(_ options: CreateOptions) throws(BlockError) -> Preallocation {
    let text = options["preallocation"] ?? "off"
    guard let mode = Preallocation(rawValue: text) else {
      throw BlockError(EINVAL, "Parameter 'preallocation' does not accept value '\(text)'")
    }
    return mode
  }

  /// An empty file of that name, open. A device stays as long as it is.
  private static func createFile(_ path: String, _ graph: BlockGraph) throws(BlockError)
    -> any BlockNode
  {
    if !path.hasPrefix("json:"), FileName.scheme(of: path) == nil {
      var options = BlockFile.Options(isWritable: true)
      options.creates = true
      do throws(SystemError) {
        _ = try BlockFile(path, options)
      } catch {
        throw BlockError(error, "Could not create '\(path)'")
      }
    }
    let node = try graph.openFile(path)
    if node.driver == "file", node.length > 0 { try node.truncate(to: 0, .off) }
    return node
  }

  private static func createRaw(
    _ path: String, _ size: UInt64, _ mode: Preallocation
  ) throws(BlockError) {
    let graph = BlockGraph()
    do throws(BlockError) {
      let node = try createFile(path, graph)
      if node.driver == "file" {
        try node.truncate(to: size, mode)
        // The format is told from the first bytes: a hole costs a search each time.
        if size > 0, mode == .off {
          try node.writeZeroes(0, min(size, 4096), [])
        }
      } else if node.length < size {
        throw BlockError(ENOSPC, "The image file '\(path)' is too small")
      }
    } catch {
      try? graph.closeAll()
      throw error
    }
    try graph.closeAll()
  }

  private static func createQcow2(
    _ path: String, _ size: UInt64, _ options: CreateOptions
  ) throws(BlockError) {
    var image = Qcow2CreateOptions(size: size)
    switch options["compat"] ?? "1.1" {
    case "0.10", "v2": image.version = 2
    case "1.1", "v3": image.version = 3
    case let other:
      throw BlockError(EINVAL, "Parameter 'version' does not accept value '\(other)'")
    }
    if let value = options.number("cluster_size") { image.clusterSize = value }
    image.backingFile = options["backing_file"]
    image.backingFormat = options["backing_fmt"]
    image.preallocation = try preallocation(options)
    image.lazyRefcounts = options.flag("lazy_refcounts") ?? false
    if let value = options.number("refcount_bits") { image.refcountBits = value }
    switch options["compression_type"] ?? "zlib" {
    case "zlib": image.compressionType = .zlib
    case "zstd": image.compressionType = .zstd
    case let other:
      throw BlockError(EINVAL, "Parameter 'compression-type' does not accept value '\(other)'")
    }
    image.extendedL2 = options.flag("extended_l2") ?? false
    image.dataFile = options["data_file"]
    image.dataFileRaw = options.flag("data_file_raw") ?? false
    image.encryption =
      options["encrypt.format"] ?? (options.flag("encryption") == true ? "aes" : nil)
    let graph = BlockGraph()
    do throws(BlockError) {
      let file = try createFile(path, graph)
      var dataFile: (any BlockNode)?
      if let name = image.dataFile { dataFile = try createFile(name, graph) }
      try Qcow2Image.create(on: file, dataFile: dataFile, image)
    } catch {
      try? graph.closeAll()
      throw error
    }
    try graph.closeAll()
  }
}
