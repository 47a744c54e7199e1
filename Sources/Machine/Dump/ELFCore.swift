/// The parts of an ELF core file around the memory (ELF gABI 4.1; elf(5)): a pure model.
///
/// In the file: header, section headers, program headers, notes, memory, names of sections. So all of it can be written in order.
package struct ELFCore: Equatable, Sendable {
  /// One `PT_LOAD`.
  package struct Segment: Equatable, Sendable {
    package var physical: UInt64
    package var virtual: UInt64
    package var size: UInt64
    /// Where its bytes are, from the first byte of memory in the file.
    package var offset: UInt64

    package init(physical: UInt64, virtual: UInt64, size: UInt64, offset: UInt64) {
      self.physical = physical
      self.virtual = virtual
      self.size = size
      self.offset = offset
    }
  }

  package let segments: [Segment]
  package let notes: [UInt8]
  /// EM_X86_64, else EM_386.
  package let isLongMode: Bool
  /// Bytes of memory.
  package let memorySize: UInt64

  package init(segments: [Segment], notes: [UInt8], isLongMode: Bool, memorySize: UInt64) {
    self.segments = segments
    self.notes = notes
    self.isLongMode = isLongMode
    self.memorySize = memorySize
  }

  private static let headerSize = 64
  private static let sectionSize = 64
  private static let programSize = 56
  /// More program headers than the header can count: their number is in the first section header.
  private static let extendedCount: UInt16 = 0xFFFF

  private var programCount: Int { segments.count + 1 }
  private var programOffset: Int { ELFCore.headerSize + 2 * ELFCore.sectionSize }
  private var notesOffset: Int { programOffset + programCount * ELFCore.programSize }
  /// Where the first byte of memory is in the file.
  package var memoryOffset: UInt64 { UInt64(notesOffset + notes.count) }

  /// Everything before the memory, in pieces whose names failures tell.
  package var header: [UInt8] {
    var writer = ByteWriter()
    writer.append([0x7F, 0x45, 0x4C, 0x46, 2, 1, 1])  // 64-bit, little-endian, version 1
    writer.zeros(9)
    writer.little(UInt16(4))  // ET_CORE
    writer.little(UInt16(isLongMode ? 62 : 3))
    writer.little(UInt32(1))
    writer.little(UInt64(0))
    writer.little(UInt64(programOffset))
    writer.little(UInt64(ELFCore.headerSize))  // section headers
    writer.little(UInt32(0))
    writer.little(UInt16(ELFCore.headerSize))
    writer.little(UInt16(ELFCore.programSize))
    let fits = programCount < Int(ELFCore.extendedCount)
    writer.little(fits ? UInt16(programCount) : ELFCore.extendedCount)
    writer.little(UInt16(ELFCore.sectionSize))
    writer.little(UInt16(2))
    writer.little(UInt16(1))  // the section with names
    // Section 0: all zero but for the count of program headers.
    writer.zeros(44)
    writer.little(fits ? UInt32(0) : UInt32(truncatingIfNeeded: programCount))
    writer.zeros(16)
    // Section 1: the names of sections.
    writer.little(UInt32(1))
    writer.little(UInt32(3))  // SHT_STRTAB
    writer.zeros(16)
    writer.little(memoryOffset &+ memorySize)
    writer.little(UInt64(ELFCore.names.count))
    writer.zeros(24)
    return writer.bytes
  }

  /// The program headers.
  package var programHeaders: [UInt8] {
    var writer = ByteWriter()
    func program(
      _ type: UInt32, _ offset: UInt64, _ virtual: UInt64, _ physical: UInt64, _ size: UInt64
    ) {
      writer.little(type)
      writer.little(UInt32(0))  // flags
      for value in [offset, virtual, physical, size, size, 0] { writer.little(value) }
    }
    program(4, UInt64(notesOffset), 0, 0, UInt64(notes.count))
    for segment in segments {
      program(
        1, memoryOffset &+ segment.offset, segment.virtual, segment.physical, segment.size)
    }
    return writer.bytes
  }

  /// What follows the memory: the names of sections.
  package var trailer: [UInt8] { ELFCore.names }

  private static let names: [UInt8] = [0] + Array(".shstrtab".utf8) + [0]
}
