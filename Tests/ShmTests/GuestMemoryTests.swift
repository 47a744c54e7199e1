import Shm
import Synchronization
import Testing

@Suite struct GuestMemoryTests {
  private func memory(size: Int = 64 << 10) throws -> (GuestMemory, RAMBlock) {
    let block = try RAMBlock(name: "ram", size: size)
    let memory = GuestMemory()
    memory.setSlots([MemorySlot(guest: GuestAddress(0x1000), size: UInt64(size), block: block)])
    return (memory, block)
  }

  @Test func accessesAreAnsweredInsideSlotsOnly() throws {
    let (memory, _) = try memory()
    #expect(memory.store(GuestAddress(0x1FFE), UInt32(0x1234_5678)))
    #expect(memory.load(GuestAddress(0x1FFE), as: UInt32.self) == 0x1234_5678)
    #expect(memory.read(GuestAddress(0x1FFE), count: 4) == [0x78, 0x56, 0x34, 0x12])
    #expect(memory.load(GuestAddress(0xFFF), as: UInt16.self) == nil)
    #expect(!memory.write(GuestAddress(0x1000 + (64 << 10) - 1), [1, 2]))
    #expect(memory.read(GuestAddress(UInt64.max - 1), count: 4) == nil)
  }

  @Test func readOnlySlotsTakeLoadersWritesOnly() throws {
    let block = try RAMBlock(name: "rom", size: 4096)
    let memory = GuestMemory()
    memory.setSlots([
      MemorySlot(guest: GuestAddress(0), size: 4096, block: block, isReadOnly: true)
    ])
    #expect(!memory.store(GuestAddress(8), UInt8(1)))
    #expect(memory.write(GuestAddress(8), [7], toROM: true))
    #expect(memory.load(GuestAddress(8), as: UInt8.self) == 7)
  }

  @Test func observersHearOfEveryLayout() throws {
    let (memory, block) = try memory()
    let seen = Mutex<[Int]>([])
    memory.observeSlots { slots in seen.withLock { $0.append(slots.count) } }
    memory.setSlots([])
    memory.setSlots([MemorySlot(guest: GuestAddress(0), size: 4096, block: block)])
    #expect(seen.withLock { $0 } == [1, 0, 1])
  }

  /// A guest decides how often: what is kept for the call must not grow with it.
  @Test func writesToCodeAreToldAnyNumberOfTimes() throws {
    let (memory, block) = try memory()
    let count = Atomic<Int>(0)
    memory.observeCodeWrites { _, _ in count.wrappingAdd(1, ordering: .relaxed) }
    #expect(memory.store(GuestAddress(0x1000), UInt8(1)))
    #expect(count.load(ordering: .relaxed) == 0)
    block.setPageFlags(.code, at: 0)
    for _ in 0..<400_000 { memory.noteWrite(GuestAddress(0x1004), 4) }
    #expect(count.load(ordering: .relaxed) == 400_000)
  }
}
