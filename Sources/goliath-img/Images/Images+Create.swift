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

  private static func createRaw(
    _ path: String, _ size: UInt64, _ mode: Preallocation
  ) throws(BlockError) {
    let graph = BlockGraph()
    try graph.createFile(path, size: size, mode)
    guard mode == .off, size > 0 else { return }
    // The first block is there from the beginning: whoever looks for the format then reads data, not a hole.
    let node = try graph.openFile(path)
    if node.driver == "file" {
      try node.write(0, from: IOBuffer(count: Int(min(size, 4096))).vector, [])
    }
    try graph.closeAll()
  }

  /// What `-o` says of a qcow2 image.
  static func qcow2Options(
    _ size: UInt64, _ options: CreateOptions
  ) throws(BlockError) -> Qcow2CreateOptions {
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
    if let format = image.backingFormat, !driverNames.contains(format) {
      throw BlockError(EINVAL, "Parameter 'backing-fmt' does not accept value '\(format)'")
    }
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
    return image
  }

  private static func createQcow2(
    _ path: String, _ size: UInt64, _ options: CreateOptions
  ) throws(BlockError) {
    let image = try qcow2Options(size, options)
    let graph = BlockGraph()
    do throws(BlockError) {
      try graph.createFile(path, size: 0)
      let file = try graph.openFile(path)
      var dataFile: (any BlockNode)?
      if let name = image.dataFile {
        try graph.createFile(name, size: 0)
        dataFile = try graph.openFile(name)
      }
      try Qcow2Image.create(on: file, dataFile: dataFile, image)
    } catch {
      try? graph.closeAll()
      throw error
    }
    try graph.closeAll()
  }

  /// Formats that a header may name (QAPI's `BlockdevDriver`), whether they can be read here or not.
  private static let driverNames: Set<String> = [
    "blkdebug", "blklogwrites", "blkreplay", "blkverify", "bochs", "cloop", "compress",
    "copy-before-write", "copy-on-read", "dmg", "file", "ftp", "ftps", "gluster", "host_cdrom",
    "host_device", "http", "https", "iscsi", "luks", "nbd", "nfs", "null-aio", "null-co",
    "nvme", "parallels", "preallocate", "qcow", "qcow2", "qed", "quorum", "raw", "rbd",
    "replication", "snapshot-access", "ssh", "throttle", "vdi", "vhdx", "vmdk", "vpc", "vvfat",
  ]
}
