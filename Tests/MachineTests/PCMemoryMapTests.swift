import Machine
import Testing

@Suite struct PCMemoryMapTests {
  private let gigabyte: UInt64 = 1 << 30

  @Test(
    arguments: [
      // RAM, limit, RAM below 4 GiB, in MiB; as QEMU's board divides it.
      (128, nil, 128), (3583, nil, 3583), (3584, nil, 3072), (8192, nil, 3072),
      (4096, 2048, 2048), (1024, 2048, 1024), (8192, 3584, 3072), (3500, 4096, 3500),
      (8192, 4096, 3072), (512, 256, 256),
    ] as [(UInt64, UInt64?, UInt64)])
  func ramIsDividedAtTheLimit(ram: UInt64, limit: UInt64?, low: UInt64) {
    let map = PCMemoryMap(ramSize: ram << 20, limit: limit.map { $0 << 20 })
    #expect(map.lowSize == low << 20)
    #expect(map.lowSize + map.highSize == ram << 20)
  }

  @Test func ramNeverReachesTheInterruptControllers() {
    let map = PCMemoryMap(ramSize: 4 * gigabyte - 65536, limit: 4 * gigabyte)
    #expect(map.lowSize <= 0xFEC0_0000)
  }
}
