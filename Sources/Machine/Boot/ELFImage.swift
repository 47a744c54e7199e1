import Shm

/// What loading an uncompressed kernel needs of an ELF file (System V ABI, ELF-64 and ELF-32 object file formats): segments, entry, notes.
struct ELFImage {
  struct Segment {
    let address: UInt64
    /// Range of the file's bytes.
    let file: Range<Int>
    /// Bytes in memory; what the file does not fill is zero.
    let size: UInt64
  }
  let entry: UInt64
  let segments: [Segment]
  private let notes: [Range<Int>]
  private let file: BootFile

  private static let loadable: UInt32 = 1
  private static let note: UInt32 = 4

  /// Parses headers; every range is checked against the file.
  init(_ file: BootFile) throws(BootError) {
    func fail(_ what: String) -> BootError {
      BootError(.malformed, "could not load kernel '\(file.name)': \(what)")
    }
    self.file = file
    let bytes = LittleEndian(file.bytes)
    let is64 = bytes.u8(4) == 2
    guard is64 || bytes.u8(4) == 1, bytes.u8(5) == 1 else {
      throw fail("an ELF file, but not a little-endian one")
    }
    let machine = bytes.u16(18)
    guard machine == 62 || machine == 3 else {
      throw fail("an ELF file for another machine (type \(machine))")
    }
    entry = is64 ? bytes.u64(24) : UInt64(bytes.u32(24))
    let table = is64 ? bytes.u64(32) : UInt64(bytes.u32(28))
    let entrySize = Int(bytes.u16(is64 ? 54 : 42))
    let count = Int(bytes.u16(is64 ? 56 : 44))
    guard entrySize >= (is64 ? 56 : 32), count > 0, let start = Int(exactly: table),
      start <= file.bytes.count, entrySize * count <= file.bytes.count - start
    else { throw fail("its program headers lie outside the file (truncated?)") }

    var segments: [Segment] = []
    var notes: [Range<Int>] = []
    for index in 0..<count {
      let at = start + index * entrySize
      let kind = bytes.u32(at)
      guard kind == ELFImage.loadable || kind == ELFImage.note else { continue }
      let offset = is64 ? bytes.u64(at + 8) : UInt64(bytes.u32(at + 4))
      let address = is64 ? bytes.u64(at + 24) : UInt64(bytes.u32(at + 12))
      let fileSize = is64 ? bytes.u64(at + 32) : UInt64(bytes.u32(at + 16))
      let size = is64 ? bytes.u64(at + 40) : UInt64(bytes.u32(at + 20))
      guard let from = Int(exactly: offset), let length = Int(exactly: fileSize),
        from <= file.bytes.count, length <= file.bytes.count - from
      else { throw fail("segment \(index) lies outside the file (truncated?)") }
      if kind == ELFImage.note {
        notes.append(from..<from + length)
      } else if size > 0 {
        guard fileSize <= size else {
          throw fail("segment \(index) is larger in the file than in memory")
        }
        segments.append(Segment(address: address, file: from..<from + length, size: size))
      }
    }
    guard !segments.isEmpty else { throw fail("it has nothing to load") }
    self.segments = segments
    self.notes = notes
  }

  /// The physical 32-bit entry of Xen's note 18 (XEN_ELFNOTE_PHYS32_ENTRY); nil without such a note.
  var pvhEntry: UInt32? {
    let bytes = LittleEndian(file.bytes)
    for range in notes {
      var at = range.lowerBound
      while at + 12 <= range.upperBound {
        let nameSize = Int(bytes.u32(at))
        let dataSize = Int(bytes.u32(at + 4))
        let data = at + 12 + (nameSize + 3) & ~3
        guard nameSize <= range.count, dataSize <= range.count,
          data + dataSize <= range.upperBound
        else { break }
        let name = file.bytes[at + 12..<at + 12 + nameSize]
        if bytes.u32(at + 8) == 18, name.elementsEqual(Array("Xen".utf8) + [0]), dataSize >= 4 {
          return bytes.u32(data)
        }
        at = data + (dataSize + 3) & ~3
      }
    }
    return nil
  }

  /// The loads, and the first free address behind them. Segments must lie in RAM below 4 GiB, above what loaders use themselves.
  func writes(
    _ memory: MemoryLayout
  ) throws(BootError) -> (writes: [BootPlan.MemoryWrite], end: UInt64) {
    var writes: [BootPlan.MemoryWrite] = []
    var end: UInt64 = 0
    for segment in segments {
      let (last, overflow) = segment.address.addingReportingOverflow(segment.size)
      guard !overflow, last <= memory.below4G else {
        throw BootError(
          .tooLarge,
          "could not load kernel '\(file.name)': its segment of \(segment.size) bytes at "
            + "0x\(String(segment.address, radix: 16)) does not fit into "
            + "\(memory.below4G >> 20) MiB of RAM")
      }
      guard segment.address >= 0x3_0000 else {
        throw BootError(
          .unsupported,
          "could not load kernel '\(file.name)': its segment at "
            + "0x\(String(segment.address, radix: 16)) lies where boot information goes")
      }
      var bytes = Array(file.bytes[segment.file])
      // RAM keeps its contents over a reset, so zeros are written, not assumed.
      let zeros = Int(segment.size) - bytes.count
      if zeros > 0 { bytes += [UInt8](repeating: 0, count: zeros) }
      writes.append(.init(GuestAddress(segment.address), bytes))
      end = max(end, last)
    }
    return (writes, end)
  }
}
