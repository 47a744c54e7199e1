package import CPU
package import Host
package import Jobs
package import QAPI
package import Shm
import Synchronization

/// What `dump-guest-memory` asks for.
package struct DumpRequest: Sendable {
  package var format: DumpGuestMemoryFormat
  /// Segments by the guest's page tables.
  package var usesPageTables: Bool
  /// Only these guest-physical addresses.
  package var filter: Range<UInt64>?
  package let output: OutputFile
  /// What the dump is called when the file is left unfinished.
  package let name: String

  package init(
    format: DumpGuestMemoryFormat = .elf, usesPageTables: Bool = false,
    filter: Range<UInt64>? = nil, output: OutputFile, name: String
  ) {
    self.format = format
    self.usesPageTables = usesPageTables
    self.filter = filter
    self.output = output
    self.name = name
  }
}

extension DumpGuestMemoryFormat {
  /// The compression of the kdump formats.
  package var compression: PageCompressor.Kind? {
    switch self {
    case .kdumpZlib: .zlib
    case .kdumpLzo: .lzo
    case .kdumpSnappy: .snappy
    case .elf, .winDmp: nil
    }
  }

  /// Whether this host can write it.
  package var isAvailable: Bool { self == .elf || compression?.isAvailable == true }
}

/// One dump while it is written, on a thread of its own: the guest's memory, which must stand still, to a file.
package final class GuestDump: Sendable {
  let memory: GuestMemory
  let ranges: DumpRanges
  let output: OutputFile
  let name: String
  /// Bytes of memory.
  package let progress: JobProgress
  private let format: DumpGuestMemoryFormat
  private let usesPageTables: Bool
  private let states: [CPUState]
  private let vmcoreinfo: VMCoreInfoNote?

  private let isHeld = Atomic<Bool>(false)
  private let isStanding = Atomic<Bool>(false)
  private let holding = WaitWord()
  private let onHeld: @Sendable () -> Void

  /// - Parameter states: the processors, which stand still.
  /// - Parameter onHeld: called on the dump's threads when it stands at a pause point.
  package init(
    _ request: DumpRequest, memory: GuestMemory, states: [CPUState],
    vmcoreinfo: VMCoreInfoNote? = nil, onHeld: @escaping @Sendable () -> Void = {}
  ) {
    self.memory = memory
    self.states = states
    self.vmcoreinfo = vmcoreinfo
    self.onHeld = onHeld
    ranges = DumpRanges(memory, filter: request.filter)
    output = request.output
    name = request.name
    format = request.format
    usesPageTables = request.usesPageTables
    progress = JobProgress(total: Int64(clamping: ranges.size))
  }

  // MARK: - Any thread

  /// Ends the dump soon, with `DumpFailure.isCancelled`.
  package func cancel() {
    output.cancel()
    release()
  }

  /// The dump stands at its next pause point.
  package func hold() { isHeld.store(true, ordering: .releasing) }

  /// Takes back `hold`.
  package func release() {
    isHeld.store(false, ordering: .releasing)
    isStanding.store(false, ordering: .releasing)
    holding.advance()
  }

  /// A pause point. Throws `DumpFailure` when the dump was cancelled.
  func checkPoint() throws(DumpFailure) {
    while true {
      do { try output.checkCancelled() } catch {
        throw DumpFailure("dump: failed to save memory", error)
      }
      let seen = holding.value
      guard isHeld.load(ordering: .acquiring) else { return }
      if !isStanding.exchange(true, ordering: .acquiringAndReleasing) { onHeld() }
      holding.wait(while: seen, nanoseconds: 100_000_000)
    }
  }

  // MARK: - The dump's thread

  /// Writes everything. Throws `DumpFailure` with QEMU's sentence. Blocks as long as the file does.
  package func run() throws(DumpFailure) {
    if let kind = format.compression {
      try runKdump(kind)
    } else {
      try runELF()
    }
    do { try output.finish() } catch { throw DumpFailure("dump: failed to save memory", error) }
  }

  private func runELF() throws(DumpFailure) {
    let core = ELFCore(
      segments: try segments(), notes: CPUNotes.encode(states) + (vmcoreinfo?.bytes ?? []),
      isLongMode: CPUNotes.isLongMode(states), memorySize: ranges.size)
    try write(core.header, "elf header")
    try write(core.programHeaders, "program header table")
    try write(core.notes, "elf notes")
    let presence = PagePresence()
    for range in ranges.ranges {
      var at = range.lowerBound
      while at < range.upperBound {
        try checkPoint()
        let step = min(range.upperBound - at, GuestDump.pieceSize - at % GuestDump.pieceSize)
        do {
          try memory.send(GuestAddress(at), count: Int(step), to: output, presence: presence)
        } catch { throw DumpFailure("dump: failed to save memory", error) }
        progress.advance(by: Int64(step))
        at += step
      }
    }
    try write(core.trailer, "string table data")
  }

  /// Bytes between two pause points.
  private static let pieceSize: UInt64 = 4 << 20

  private func segments() throws(DumpFailure) -> [ELFCore.Segment] {
    guard usesPageTables, states.contains(where: { $0.cr0 & 1 << 31 != 0 }) else {
      return ranges.parts(of: 0..<UInt64.max).map { part in
        ELFCore.Segment(
          physical: part.range.lowerBound, virtual: part.range.lowerBound,
          size: UInt64(part.range.count), offset: part.offset)
      }
    }
    let memory = memory
    var tables = PageTableMappings { memory.read(GuestAddress($0), count: $1) }
    for state in states {
      tables.add(state)
      try checkPoint()
    }
    guard tables.isComplete else {
      throw DumpFailure("dump: the guest's page tables map too much to describe; use paging=false")
    }
    var segments: [ELFCore.Segment] = []
    for mapping in tables.sorted {
      let (end, overflow) = mapping.physical.addingReportingOverflow(mapping.size)
      guard !overflow else { continue }
      for part in ranges.parts(of: mapping.physical..<end) {
        segments.append(
          ELFCore.Segment(
            physical: part.range.lowerBound,
            virtual: mapping.virtual &+ (part.range.lowerBound - mapping.physical),
            size: UInt64(part.range.count), offset: part.offset))
      }
    }
    return segments
  }

  private func runKdump(_ kind: PageCompressor.Kind) throws(DumpFailure) {
    let cpuNotes = CPUNotes.encode(states)
    var pages: UInt64 = 0
    ranges.forEachPage { _ in pages += 1 }
    let file = KdumpFile(
      notes: cpuNotes + (vmcoreinfo?.bytes ?? []),
      pageLimit: (ranges.end + UInt64(KdumpFile.blockSize) - 1) / UInt64(KdumpFile.blockSize),
      pageCount: pages, cpuCount: states.count,
      vmcoreinfo: vmcoreinfo.map {
        $0.text.lowerBound + cpuNotes.count..<$0.text.upperBound + cpuNotes.count
      }, physicalBase: vmcoreinfo?.physicalBase ?? 0)
    try write(KdumpFile.flattenedHeader, "start flat header")
    func piece(_ offset: UInt64, _ bytes: [UInt8], _ what: String) throws(DumpFailure) {
      try write(KdumpFile.flattened(offset: offset, size: bytes.count) + bytes, what)
    }
    try piece(0, file.header(compression: kind.rawValue), "disk dump header")
    try piece(file.subHeaderOffset, file.subHeader, "kdump sub header")
    let bitmap = file.bitmap(ranges)
    try piece(file.bitmapOffset, bitmap, "dump_bitmap")
    try piece(file.bitmapOffset + file.bitmapSize, bitmap, "dump_bitmap")
    let zeros = [UInt8](repeating: 0, count: KdumpFile.blockSize)
    try piece(file.pagesOffset, zeros, "page data (zero page)")
    try KdumpPages(self, file, kind).run()
    try write(KdumpFile.flattenedEnd, "end flat header")
  }

  func write(_ bytes: [UInt8], _ what: String) throws(DumpFailure) {
    do { try output.write(bytes) } catch {
      throw DumpFailure("dump: failed to write \(what)", error)
    }
  }
}

/// Why there is no dump, or only a part.
package struct DumpFailure: Error, Equatable, Sendable {
  /// The sentence for the user.
  package let message: String
  /// Somebody ended it.
  package let isCancelled: Bool

  package init(_ message: String) {
    self.message = message
    isCancelled = false
  }

  package init(_ message: String, _ cause: SystemError) {
    self.message = "\(message): \(cause.reason)"
    isCancelled = cause.code == 125  // ECANCELED
  }
}

/// The note in which the guest's kernel describes itself (`VMCOREINFO`), found through the `vmcoreinfo` device.
package struct VMCoreInfoNote: Equatable, Sendable {
  /// The whole note, padded.
  package let bytes: [UInt8]
  /// Where its text is.
  package let text: Range<Int>
  /// By how much the kernel is moved, as its text says.
  package let physicalBase: UInt64

  /// Reads a note as the guest left it; nil when it is none.
  package init?(_ note: [UInt8]) {
    guard note.count >= 12 else { return nil }
    func word(_ at: Int) -> Int { (0..<4).reduce(0) { $0 | Int(note[at + $1]) << ($1 * 8) } }
    let name = (word(0) + 3) & ~3
    let size = word(4)
    guard name > 0, name < 4096, size > 0, 12 + name + size <= note.count else { return nil }
    let end = 12 + name + size
    text = 12 + name..<end
    bytes = note[..<end] + [UInt8](repeating: 0, count: (4 - end % 4) % 4)
    let lines = String(decoding: note[text], as: UTF8.self).split(separator: "\n")
    let base = lines.first { $0.hasPrefix("NUMBER(phys_base)=") }
    physicalBase = base.flatMap { UInt64(bitPattern: Int64($0.dropFirst(18)) ?? 0) } ?? 0
  }
}
