import Block
import Support
import Testing

@Suite(.enabled(if: QemuImg.isThere)) struct Qcow2CreateTests {
  private struct Case: Sendable, CustomTestStringConvertible {
    var text: String
    var size: String
    var bytes: UInt64
    /// The layout is the same to the byte.
    var exact = true
    var change: @Sendable (inout Qcow2CreateOptions) -> Void

    var testDescription: String { "\(text) \(size)" }
  }

  private static let cases: [Case] = [
    Case(text: "compat=1.1", size: "0", bytes: 0) { _ in },
    Case(text: "compat=1.1", size: "1G", bytes: 1 << 30) { _ in },
    Case(text: "compat=1.1", size: "100G", bytes: 100 << 30) { _ in },
    Case(text: "compat=0.10", size: "3G", bytes: 3 << 30) { $0.version = 2 },
    Case(text: "cluster_size=512", size: "10M", bytes: 10 << 20) { $0.clusterSize = 512 },
    Case(text: "cluster_size=2M,lazy_refcounts=on", size: "64G", bytes: 64 << 30) {
      $0.clusterSize = 2 << 20
      $0.lazyRefcounts = true
    },
    Case(text: "refcount_bits=1", size: "5G", bytes: 5 << 30) { $0.refcountBits = 1 },
    Case(text: "refcount_bits=64,compression_type=zstd", size: "5G", bytes: 5 << 30) {
      $0.refcountBits = 64
      $0.compressionType = .zstd
    },
    Case(text: "extended_l2=on,cluster_size=128k", size: "5G", bytes: 5 << 30) {
      $0.extendedL2 = true
      $0.clusterSize = 131072
    },
    Case(text: "preallocation=metadata", size: "5G", bytes: 5 << 30) {
      $0.preallocation = .metadata
    },
    Case(
      text: "preallocation=metadata,cluster_size=4k,refcount_bits=8", size: "64M", bytes: 64 << 20
    ) {
      $0.preallocation = .metadata
      $0.clusterSize = 4096
      $0.refcountBits = 8
    },
    Case(text: "preallocation=metadata,extended_l2=on", size: "1G", bytes: 1 << 30) {
      $0.preallocation = .metadata
      $0.extendedL2 = true
    },
    Case(text: "preallocation=falloc", size: "64M", bytes: 64 << 20, exact: false) {
      $0.preallocation = .falloc
    },
    Case(text: "preallocation=full", size: "10M", bytes: 10 << 20, exact: false) {
      $0.preallocation = .full
    },
    Case(
      text: "cluster_size=512,refcount_bits=64,preallocation=metadata", size: "40M",
      bytes: 40 << 20, exact: false
    ) {
      $0.clusterSize = 512
      $0.refcountBits = 64
      $0.preallocation = .metadata
    },
    Case(text: "cluster_size=512,refcount_bits=64", size: "8G", bytes: 8 << 30, exact: false) {
      $0.clusterSize = 512
      $0.refcountBits = 64
    },
  ]

  @Test(arguments: cases) private func imagesAreLaidOutAsQemuImgsAre(_ item: Case) throws {
    let folder = ScratchFolder()
    let theirs = folder.file("theirs.qcow2")
    let made = try QemuImg.run(
      "create", "-q", "-f", "qcow2", "-o", item.text, theirs, item.size)
    #expect(made.status == 0, "\(made.text)")
    var options = Qcow2CreateOptions(size: item.bytes)
    item.change(&options)
    let disk = MemoryDisk()
    try Qcow2Image.create(on: disk, options)
    if item.exact {
      #expect(disk.firstDifference(from: MemoryDisk.load(theirs)) == nil)
    }
    let ours = folder.file("ours.qcow2")
    disk.save(ours)
    let checked = try QemuImg.run("check", ours)
    #expect(checked.status == 0, "\(checked.text)")
  }

  @Test func aBackingFileAndADataFileAreWrittenAsQemuImgDoes() throws {
    let folder = ScratchFolder()
    _ = try QemuImg.run("create", "-q", "-f", "raw", folder.file("base"), "10M")
    _ = try QemuImg.run(
      "create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", folder.file("theirs"))
    var options = Qcow2CreateOptions(size: 10 << 20)
    options.backingFile = "base"
    options.backingFormat = "raw"
    var disk = MemoryDisk()
    try Qcow2Image.create(on: disk, options)
    #expect(disk.firstDifference(from: MemoryDisk.load(folder.file("theirs"))) == nil)

    for raw in [false, true] {
      let text = "data_file=\(folder.file("data")),data_file_raw=\(raw ? "on" : "off")"
      _ = try QemuImg.run("create", "-q", "-f", "qcow2", "-o", text, folder.file("two"), "10M")
      options = Qcow2CreateOptions(size: 10 << 20)
      options.dataFile = folder.file("data")
      options.dataFileRaw = raw
      disk = MemoryDisk()
      let data = MemoryDisk()
      try Qcow2Image.create(on: disk, dataFile: data, options)
      #expect(disk.firstDifference(from: MemoryDisk.load(folder.file("two"))) == nil)
      #expect(data.length == 10 << 20)
    }
  }

  @Test(arguments: [
    "cluster_size=3000", "cluster_size=4M", "extended_l2=on,cluster_size=8k",
    "extended_l2=on,compat=0.10", "lazy_refcounts=on,compat=0.10", "refcount_bits=3",
    "refcount_bits=128", "refcount_bits=8,compat=0.10", "data_file_raw=on",
    "compression_type=zstd,compat=0.10", "backing_fmt=raw", "data_file=x,compat=0.10",
    "size=200G,cluster_size=512",
  ]) func combinationsAreRefusedInQemusWords(_ text: String) throws {
    let folder = ScratchFolder()
    let refused = try Support.Process.output(
      ["qemu-img", "create", "-q", "-f", "qcow2", "-o", text, "x", "1G"].filter {
        !(text.hasPrefix("size") && $0 == "1G")
      }, folder: folder.path)
    #expect(refused.status == 1)
    var options = Qcow2CreateOptions(size: 1 << 30)
    for part in text.split(separator: ",") {
      let (name, value) = (part.prefix { $0 != "=" }, String(part.drop { $0 != "=" }.dropFirst()))
      switch name {
      case "cluster_size":
        options.clusterSize = value.hasSuffix("k") ? 8192 : value == "4M" ? 4 << 20 : UInt64(value)!
      case "extended_l2": options.extendedL2 = true
      case "compat": options.version = 2
      case "lazy_refcounts": options.lazyRefcounts = true
      case "refcount_bits": options.refcountBits = UInt64(value)!
      case "data_file_raw": options.dataFileRaw = true
      case "data_file": options.dataFile = value
      case "compression_type": options.compressionType = .zstd
      case "backing_fmt": options.backingFormat = value
      default: options.size = 200 << 30
      }
    }
    do {
      try Qcow2Image.create(on: MemoryDisk(), options)
      Issue.record("accepted")
    } catch {
      #expect(refused.text.contains("qemu-img: x: \(error.message)\n"), "\(refused.text)\(error)")
    }
  }
}
