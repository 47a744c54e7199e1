import DeviceModel
import Devices
import Machine
import Shm
import Testing

@Suite struct NUMATests {
  private static let size: UInt64 = 6 << 30

  private func number(_ bytes: ArraySlice<UInt8>, _ offset: Int, _ width: Int) -> UInt64 {
    let start = bytes.startIndex + offset
    return bytes[start..<start + width].reversed().reduce(0) { $0 << 8 | UInt64($1) }
  }

  /// The body of the table of that signature, placed.
  private func table(_ signature: String, _ configuration: FirmwareConfiguration) -> [UInt8]? {
    let base: UInt64 = 0x1FF0_0000
    let bytes = FirmwareTables(configuration).placed(at: GuestAddress(base)).bytes[...]
    let xsdt = Int(number(bytes, 24, 8) - base)
    let count = (Int(number(bytes, xsdt + 4, 4)) - 36) / 8
    for index in 0..<count {
      let at = Int(number(bytes, xsdt + 36 + index * 8, 8) - base)
      guard String(decoding: bytes[at..<at + 4], as: UTF8.self) == signature else { continue }
      let length = Int(number(bytes, at + 4, 4))
      #expect(bytes[at..<at + length].reduce(0, &+) == 0)
      return Array(bytes[at + 36..<at + length])
    }
    return nil
  }

  private func configuration(_ numa: NUMATopology?) -> FirmwareConfiguration {
    var configuration = FirmwareConfiguration(
      memory: MemoryLayout(ramSize: Self.size),
      processors: [0, 1, 300].enumerated().map { .init(uid: UInt32($0), apicID: $1) })
    configuration.numa = numa
    return configuration
  }

  @Test func slicesCoverRAMOnceAndAreAligned() {
    for (size, count) in [(512 << 20, 2), (Self.size, 3), (5 << 20, 4), (1 << 20, 64)]
      as [(UInt64, Int)]
    {
      let slices = NUMATopology.slices(ramSize: size, count: count)
      #expect(slices.count == count)
      #expect(slices.first?.lowerBound == 0)
      #expect(slices.last?.upperBound == size)
      for (a, b) in zip(slices, slices.dropFirst()) {
        #expect(a.upperBound == b.lowerBound)
        #expect(b.lowerBound % (size / UInt64(count) >= 4 << 20 ? 2 << 20 : 4096) == 0)
      }
    }
  }

  @Test func affinitiesNameEveryProcessorAndAllOfRAM() throws {
    let numa = NUMATopology(vcpus: [[0], [1, 2]], ramSize: Self.size)
    let srat = try #require(table("SRAT", configuration(numa)))
    var processors: [UInt64: UInt64] = [:]
    var memory: [(node: UInt64, start: UInt64, length: UInt64)] = []
    var at = 12
    while at < srat.count {
      let entry = srat[at..<at + Int(srat[at + 1])]
      switch entry[at] {
      case 0:
        #expect(number(entry, 4, 4) == 1)
        processors[number(entry, 3, 1)] = number(entry, 2, 1)
      case 1:
        #expect(number(entry, 28, 4) == 1)
        memory.append((number(entry, 2, 4), number(entry, 8, 8), number(entry, 16, 8)))
      case 2: processors[number(entry, 8, 4)] = number(entry, 4, 4)
      default: Issue.record("type \(entry[at])")
      }
      at += entry.count
    }
    #expect(processors == [0: 0, 1: 1, 300: 1])
    // Both slices are 3 GiB: the first ends where the hole begins.
    #expect(memory.map(\.node) == [0, 0, 1])
    #expect(memory.map(\.start) == [0, 0x10_0000, 1 << 32])
    #expect(memory.map(\.length) == [0xA0000, (3 << 30) - 0x10_0000, 3 << 30])
    #expect(table("SLIT", configuration(numa)) == [2, 0, 0, 0, 0, 0, 0, 0, 10, 20, 20, 10])
    #expect(numa.text.contains("node 1 cpus: 1 2\nnode 1 size: 3072 MB\n"))
  }

  @Test func withoutNodesThereAreNoTables() {
    #expect(table("SRAT", configuration(nil)) == nil)
    #expect(table("SLIT", configuration(nil)) == nil)
  }
}
