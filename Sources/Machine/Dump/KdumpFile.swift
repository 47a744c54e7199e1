import Host

/// The compressed format of kdump, version 6 (makedumpfile, IMPLEMENTATION; crash, diskdump.h), in makedumpfile's flattened form, which can be
/// written to a pipe: a pure model of where things are and what the records look like.
///
/// In the unflattened file: header (a block), sub-header with the processors' notes, two bitmaps (which pages are memory, which are in the
/// file), a descriptor for each page, the pages. The first page is one of zeros; all zero pages share it.
package struct KdumpFile: Equatable, Sendable {
  package static let blockSize = 4096
  /// Bytes of a page's descriptor.
  package static let descriptorSize = 24

  /// Bytes of notes; with the sub-header's own.
  package let notes: [UInt8]
  /// The first page number behind the last page.
  package let pageLimit: UInt64
  /// How many pages there are.
  package let pageCount: UInt64
  package let cpuCount: Int
  /// Where `vmcoreinfo` is within `notes`: its text.
  package let vmcoreinfo: Range<Int>?
  /// By how much the kernel is moved from its link address.
  package let physicalBase: UInt64

  package init(
    notes: [UInt8], pageLimit: UInt64, pageCount: UInt64, cpuCount: Int,
    vmcoreinfo: Range<Int>? = nil, physicalBase: UInt64 = 0
  ) {
    self.notes = notes
    self.pageLimit = pageLimit
    self.pageCount = pageCount
    self.cpuCount = cpuCount
    self.vmcoreinfo = vmcoreinfo
    self.physicalBase = physicalBase
  }

  private static let block = UInt64(blockSize)
  private static let subHeaderSize: UInt64 = 104

  private var subHeaderBlocks: UInt64 {
    (KdumpFile.subHeaderSize + UInt64(notes.count) + KdumpFile.block - 1) / KdumpFile.block
  }

  /// Bytes of one bitmap: whole blocks.
  package var bitmapSize: UInt64 {
    ((pageLimit + 7) / 8 + KdumpFile.block - 1) / KdumpFile.block * KdumpFile.block
  }

  package var subHeaderOffset: UInt64 { KdumpFile.block }
  private var notesOffset: UInt64 { subHeaderOffset + KdumpFile.subHeaderSize }
  package var bitmapOffset: UInt64 { KdumpFile.block * (1 + subHeaderBlocks) }
  package var descriptorOffset: UInt64 { bitmapOffset + 2 * bitmapSize }
  /// Where the page of zeros is; the others follow it.
  package var pagesOffset: UInt64 {
    descriptorOffset + pageCount * UInt64(KdumpFile.descriptorSize)
  }

  // MARK: - Records

  /// `struct disk_dump_header`.
  package func header(compression: Int32) -> [UInt8] {
    var writer = ByteWriter()
    writer.text("KDUMP   ", width: 8)
    writer.little(UInt32(6))
    // struct new_utsname: only the machine is known.
    writer.zeros(4 * 65)
    writer.text("x86_64", width: 65)
    writer.zeros(65)
    writer.zeros(6 + 16)  // padding, time
    writer.little(UInt32(bitPattern: compression))
    writer.little(UInt32(KdumpFile.blockSize))
    writer.little(UInt32(truncatingIfNeeded: subHeaderBlocks))
    writer.little(UInt32(truncatingIfNeeded: 2 * bitmapSize / KdumpFile.block))
    // The 64-bit one of the sub-header counts where this one is too small.
    writer.little(UInt32(clamping: pageLimit))
    writer.zeros(16)
    writer.little(UInt32(cpuCount))
    return writer.bytes
  }

  /// `struct kdump_sub_header` and the notes behind it.
  package var subHeader: [UInt8] {
    var writer = ByteWriter()
    writer.little(physicalBase)
    writer.little(UInt32(1))  // dump level: pages of zeros are left out
    writer.little(UInt32(0))  // not split
    writer.zeros(16)
    writer.little(vmcoreinfo.map { notesOffset + UInt64($0.lowerBound) } ?? 0)
    writer.little(UInt64(vmcoreinfo?.count ?? 0))
    writer.little(notesOffset)
    writer.little(UInt64(notes.count))
    writer.zeros(32)
    writer.little(pageLimit)
    return writer.bytes + notes
  }

  /// One of the two bitmaps, which are the same.
  package func bitmap(_ ranges: DumpRanges) -> [UInt8] {
    var bits = [UInt8](repeating: 0, count: Int(bitmapSize))
    ranges.forEachPage { page in
      let index = Int(page / 8)
      if bits.indices.contains(index) { bits[index] |= 1 << UInt8(page % 8) }
    }
    return bits
  }

  /// `struct page_desc`.
  static func descriptor(
    offset: UInt64, size: Int, compression: UInt32, into writer: inout ByteWriter
  ) {
    writer.little(offset)
    writer.little(UInt32(truncatingIfNeeded: size))
    writer.little(compression)
    writer.little(UInt64(0))
  }

  // MARK: - Flattened form

  /// What a flattened file begins with: a block.
  package static var flattenedHeader: [UInt8] {
    var writer = ByteWriter()
    writer.text("makedumpfile", width: 16)
    writer.big(Int64(1))  // type
    writer.big(Int64(1))  // version
    writer.zeros(blockSize - writer.bytes.count)
    return writer.bytes
  }

  /// What stands before each piece: where it belongs and how long it is.
  package static func flattened(offset: UInt64, size: Int) -> [UInt8] {
    var writer = ByteWriter()
    writer.big(Int64(bitPattern: offset))
    writer.big(Int64(size))
    return writer.bytes
  }

  /// What a flattened file ends with.
  package static var flattenedEnd: [UInt8] {
    var writer = ByteWriter()
    writer.big(Int64(-1))
    writer.big(Int64(-1))
    return writer.bytes
  }
}
