import CPU
import Glibc
import Host
import Synchronization

/// The counters of one machine or vCPU, opened when they are first asked for.
final class StatisticsSource: Sendable {
  private let opened = Mutex<StatisticsFile?>(nil)

  /// The present values; nil when the kernel has none for `descriptor`, the machine's or vCPU's own.
  func counters(of descriptor: Int32) -> [AcceleratorStatistic]? {
    opened.withLock { file in
      if file == nil { file = StatisticsFile.open(of: descriptor) }
      return file?.counters()
    }
  }
}

/// The kernel's counters about a machine or a vCPU (Linux `Documentation/virt/kvm/api.rst`, KVM_GET_STATS_FD): a descriptor with a
/// header, descriptions, and values that are read anew each time.
struct StatisticsFile: ~Copyable {
  /// `_IO(KVMIO, 0xCE)`.
  private static let request: UInt = 0xAECE

  private let file: FileDescriptor
  private let entries: [Entry]
  /// Where the values begin and how many bytes they are.
  private let dataOffset: Int
  private let dataSize: Int

  private struct Entry {
    let statistic: AcceleratorStatistic
    /// Into the values, in words of eight bytes.
    let firstWord: Int
    let count: Int
  }

  /// Most bytes of descriptions and of values that are believed; far above what kernels have.
  private static let limit = 1 << 20

  /// Of a machine's or vCPU's descriptor. Nil when the kernel has no such counters (before Linux 5.14).
  static func open(of descriptor: Int32) -> StatisticsFile? {
    guard
      let number = try? kvmCall("KVM_GET_STATS_FD", descriptor, StatisticsFile.request),
      let own = Int32(exactly: number)
    else { return nil }
    let file = FileDescriptor(owning: own)
    guard let header = read(own, at: 0, count: 24) else { return nil }
    let nameSize = word(header, 4)
    let count = word(header, 8)
    let start = word(header, 16)
    let size = 16 + nameSize
    guard nameSize > 0, nameSize < 4096, count < 65536, count * size <= limit,
      let text = read(own, at: start, count: count * size)
    else { return nil }
    let list = (0..<count).compactMap { index in
      entry(Array(text[(index * size)..<(index * size + size)]))
    }
    let end = list.map { ($0.firstWord + $0.count) * 8 }.max() ?? 0
    guard end <= limit else { return nil }
    return StatisticsFile(
      file: file, entries: list, dataOffset: word(header, 20), dataSize: end)
  }

  private init(
    file: consuming FileDescriptor, entries: [Entry], dataOffset: Int, dataSize: Int
  ) {
    self.file = file
    self.entries = entries
    self.dataOffset = dataOffset
    self.dataSize = dataSize
  }

  /// All counters with their present values, the last described first, as QEMU lists them.
  func counters() -> [AcceleratorStatistic]? {
    guard let data = StatisticsFile.read(file.rawValue, at: dataOffset, count: dataSize) else {
      return nil
    }
    return entries.reversed().map { entry in
      var values: [UInt64] = []
      for index in entry.firstWord..<(entry.firstWord + entry.count) {
        var value: UInt64 = 0
        for byte in (0..<8).reversed() { value = value << 8 | UInt64(data[index * 8 + byte]) }
        values.append(value)
      }
      return entry.statistic.with(values)
    }
  }

  /// Where the first value of a counter is in the file; nil when the kernel has no such one.
  func offset(of name: String) -> Int? {
    entries.first { $0.statistic.name == name }.map { dataOffset + $0.firstWord * 8 }
  }

  /// The value at an offset. Any thread.
  func value(at offset: Int) -> UInt64? {
    var value: UInt64 = 0
    let number = file.rawValue
    // SAFETY: the kernel fills at most the eight bytes.
    let result = unsafe withUnsafeMutableBytes(of: &value) {
      unsafe pread(number, $0.baseAddress, 8, off_t(offset))
    }
    return result == 8 ? value : nil
  }

  /// One description: flags, exponent, size, offset, bucket size, name.
  private static func entry(_ bytes: [UInt8]) -> Entry? {
    let flags = word(bytes, 0)
    let kinds: [AcceleratorStatistic.Kind] = [
      .cumulative, .instant, .peak, .linearHistogram, .logarithmicHistogram,
    ]
    let units: [AcceleratorStatistic.Unit] = [.none, .bytes, .seconds, .cycles, .boolean]
    let bases: [Int8] = [10, 2]
    // What later kernels add is left out, as QEMU does it.
    guard flags & 15 < kinds.count, flags >> 4 & 15 < units.count, flags >> 8 & 15 < bases.count
    else { return nil }
    let offset = word(bytes, 8)
    let count = Int(bytes[6]) | Int(bytes[7]) << 8
    guard offset % 8 == 0, offset < limit, count > 0 else { return nil }
    let statistic = AcceleratorStatistic(
      name: String(decoding: bytes[16...].prefix { $0 != 0 }, as: UTF8.self),
      kind: kinds[flags & 15], unit: units[flags >> 4 & 15], base: bases[flags >> 8 & 15],
      exponent: Int16(truncatingIfNeeded: Int(bytes[4]) | Int(bytes[5]) << 8),
      bucketSize: UInt32(truncatingIfNeeded: word(bytes, 12)), values: [])
    return Entry(statistic: statistic, firstWord: offset / 8, count: count)
  }

  private static func word(_ bytes: [UInt8], _ offset: Int) -> Int {
    (0..<4).reduce(0) { $0 | Int(bytes[offset + $1]) << ($1 * 8) }
  }

  private static func read(_ descriptor: Int32, at offset: Int, count: Int) -> [UInt8]? {
    var bytes = [UInt8](repeating: 0, count: count)
    // SAFETY: the kernel fills at most the array's size.
    let result = unsafe bytes.withUnsafeMutableBytes {
      unsafe pread(descriptor, $0.baseAddress, $0.count, off_t(offset))
    }
    return result == count ? bytes : nil
  }
}
