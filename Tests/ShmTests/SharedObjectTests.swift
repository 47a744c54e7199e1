import Glibc
import Host
import Shm
import Synchronization
import Testing

/// The object that processes of a machine share, seen by two that have it open.
@Suite struct SharedObjectTests {
  private static func layout(_ blocks: [UInt64] = [1 << 20, 8192], vcpus: Int = 2) throws
    -> SharedLayout
  {
    try #require(SharedLayout(blocks: blocks, vcpuCount: vcpus))
  }

  private static func name(_ test: String) -> String { "goliath-test-\(test)-\(getpid())" }

  @Test func partsOfALayoutDoNotOverlap() throws {
    let layout = try Self.layout([1 << 20, 8192, 3 << 20], vcpus: 3)
    var places: [(UInt64, UInt64)] = []
    for (index, size) in layout.blocks.enumerated() {
      places.append((layout.block(index), size))
      places.append((layout.flags(index), (size / 4096 + 4095) & ~4095))
    }
    places.append((layout.engines, layout.size - layout.engines))
    places.sort { $0.0 < $1.0 }
    #expect(places[0].0 >= 4096)
    for (a, b) in zip(places, places.dropFirst()) { #expect(a.0 + a.1 <= b.0) }
    for place in places { #expect(place.0 % 4096 == 0) }
    #expect(SharedLayout(blocks: [], vcpuCount: 1) == nil)
    #expect(SharedLayout(blocks: [100], vcpuCount: 1) == nil)
    #expect(SharedLayout(blocks: [UInt64.max & ~4095], vcpuCount: 1) == nil)
    #expect(SharedLayout(blocks: [4096], vcpuCount: 0) == nil)
  }

  @Test func bytesAndFlagsAreBothSides() throws {
    let layout = try Self.layout()
    let name = Self.name("both")
    let made = try SharedObject.create(name: name, layout: layout)
    let opened = try SharedObject.open(name: "/" + name, layout: layout)
    made.unlink()
    let blocks = try [made, opened].map {
      try RAMBlock(name: "ram", size: 8192, backing: .object($0, block: 1))
    }
    blocks[0].base.storeBytes(of: 7, toByteOffset: 5000, as: UInt32.self)
    #expect(blocks[1].base.loadUnaligned(fromByteOffset: 5000, as: UInt32.self) == 7)
    blocks[1].setPageFlags(.code, at: 4096)
    #expect(blocks[0].pageFlags[1].load(ordering: .relaxed) == PageFlags.code.rawValue)
    #expect(blocks[0].pageFlags[0].load(ordering: .relaxed) == 0)
    // A device's write finds the flag that the other side has set.
    let memory = GuestMemory()
    memory.setSlots([MemorySlot(guest: GuestAddress(0), size: 8192, block: blocks[0])])
    let seen = Mutex<[UInt64]>([])
    memory.observeCodeWrites { address, _ in seen.withLock { $0.append(address.rawValue) } }
    memory.store(GuestAddress(0), UInt8(1))
    memory.store(GuestAddress(4096), UInt8(1))
    #expect(seen.withLock { $0 } == [4096])
  }

  @Test func mailboxesAreTheSameMemoryForAll() throws {
    let layout = try Self.layout(vcpus: 3)
    let made = try SharedObject.create(name: nil, layout: layout)
    let opened = try SharedObject.adopt(dup(made.descriptor), layout: layout)
    let engines = try [made, opened].map { try SharedEngines($0) }
    for vcpu in 0..<3 {
      let mine = try #require(engines[0].mailbox(vcpu))
      mine.storeBytes(of: UInt64(vcpu + 1), toByteOffset: 64, as: UInt64.self)
    }
    for vcpu in 0..<3 {
      let theirs = try #require(engines[1].mailbox(vcpu))
      #expect(theirs.load(fromByteOffset: 64, as: UInt64.self) == UInt64(vcpu + 1))
    }
    #expect(engines[0].mailbox(3) == nil)
    #expect(engines[0].ownMailbox(-1) == nil)
  }

  @Test func anObjectInUseIsNotTaken() throws {
    let layout = try Self.layout()
    let name = Self.name("busy")
    let first = try SharedObject.create(name: name, layout: layout)
    defer { first.unlink() }
    #expect(throws: SharedObjectError.inUse(name)) {
      try SharedObject.create(name: name, layout: layout)
    }
    #expect(try SharedObject.open(name: name, layout: layout).layout == layout)
  }

  @Test func whatACrashedMachineLeftIsReplaced() throws {
    let layout = try Self.layout()
    let name = Self.name("left")
    // Nobody has it open any more, but its name is there.
    _ = try SharedObject.create(name: name, layout: layout)
    let again = try SharedObject.create(name: name, layout: try Self.layout(vcpus: 4))
    again.unlink()
    #expect(throws: SharedObjectError.system(SystemError(call: "shm_open", code: ENOENT))) {
      try SharedObject.open(name: name, layout: layout)
    }
  }

  @Test func anObjectOfAnotherMachineIsRefused() throws {
    let name = Self.name("other")
    let made = try SharedObject.create(name: name, layout: try Self.layout())
    defer { made.unlink() }
    for other in [
      try Self.layout(vcpus: 3), try Self.layout([2 << 20, 8192]),
      try Self.layout([8192, 1 << 20]),
    ] {
      #expect(throws: SharedObjectError.differs) {
        try SharedObject.open(name: name, layout: other)
      }
    }
  }

  @Test func anObjectThatIsNotCompleteIsToBeTriedAgain() throws {
    let layout = try Self.layout()
    let name = Self.name("early")
    let number = shm_open("/" + name, O_RDWR | O_CREAT | O_EXCL, 0o600)
    defer {
      shm_unlink("/" + name)
      close(number)
    }
    #expect(throws: SharedObjectError.notReady) {
      try SharedObject.open(name: name, layout: layout)
    }
    _ = ftruncate(number, Int(layout.size))
    #expect(throws: SharedObjectError.notReady) {
      try SharedObject.open(name: name, layout: layout)
    }
  }

  @Test func nobodyElseMayOpenIt() throws {
    let name = Self.name("mode")
    let made = try SharedObject.create(name: name, layout: try Self.layout())
    defer { made.unlink() }
    var status = stat()
    fstat(made.descriptor, &status)
    #expect(status.st_mode & 0o777 == 0o600)
  }
}
