import Shm
import Support
import Testing
import Virtio

/// A driver's side of a packed ring (virtio 1.1, 2.7), as a model: it writes descriptors and takes used ones back.
private struct PackedDriver {
  static let ring: UInt64 = 0x1000
  static let driverArea: UInt64 = 0x3000
  static let deviceArea: UInt64 = 0x3100

  let memory: GuestMemory
  let size: Int
  var next = 0
  var wrap = true
  var usedNext = 0
  var usedWrap = true
  var free: Int
  /// Descriptors of each buffer id in flight.
  var counts: [UInt16: Int] = [:]

  init(_ memory: GuestMemory, size: Int) {
    self.memory = memory
    self.size = size
    free = size
  }

  func queue(indirect: Bool, events: Bool) -> VirtQueue {
    var queue = VirtQueue(maximumSize: UInt16(size))
    queue.descriptors = GuestAddress(Self.ring)
    queue.available = GuestAddress(Self.driverArea)
    queue.used = GuestAddress(Self.deviceArea)
    queue.isPacked = true
    queue.isEnabled = true
    queue.allowsIndirect = indirect
    queue.usesEventIndex = events
    return queue
  }

  func store(_ index: Int, _ address: UInt64, _ length: UInt32, _ id: UInt16, _ flags: UInt16) {
    let at = GuestAddress(Self.ring + UInt64(index) * 16)
    _ = memory.store(at, address)
    _ = memory.store(at + 8, length)
    _ = memory.store(at + 12, id)
    _ = memory.store(at + 14, flags)
  }

  /// Flags of availability in the present lap.
  var mark: UInt16 { wrap ? 0x80 : 0x8000 }

  mutating func offer(_ buffers: [(UInt64, UInt32, Bool)], id: UInt16) {
    var places: [(Int, UInt16, Int)] = []
    for (position, buffer) in buffers.enumerated() {
      let more: UInt16 = position + 1 < buffers.count ? 1 : 0
      places.append((next, mark | more | (buffer.2 ? 2 : 0), position))
      next += 1
      if next == size {
        next = 0
        wrap.toggle()
      }
    }
    // The first one last: it makes the chain available.
    for (index, flags, position) in places.reversed() {
      store(index, buffers[position].0, buffers[position].1, id, flags)
    }
    free -= buffers.count
    counts[id] = buffers.count
  }

  /// The next used buffer: its id and length.
  mutating func take() -> (UInt16, UInt32)? {
    let at = GuestAddress(Self.ring + UInt64(usedNext) * 16)
    let flags = memory.load(at + 14, as: UInt16.self) ?? 0
    guard (flags & 0x80 != 0) == usedWrap, (flags & 0x8000 != 0) == usedWrap else { return nil }
    let id = memory.load(at + 12, as: UInt16.self) ?? 0
    let length = memory.load(at + 8, as: UInt32.self) ?? 0
    let count = counts.removeValue(forKey: id) ?? 0
    usedNext += count
    if usedNext >= size {
      usedNext -= size
      usedWrap.toggle()
    }
    free += count
    return (id, length)
  }
}

@Suite struct PackedRingTests {
  private func memory() throws -> GuestMemory {
    let memory = GuestMemory()
    memory.setSlots([
      MemorySlot(
        guest: GuestAddress(0), size: 1 << 20, block: try RAMBlock(name: "ram", size: 1 << 20))
    ])
    return memory
  }

  @Test(arguments: [1, 3, 8, 17, 64])
  func randomBuffersComeOutAsTheyWentInAndAreGivenBackInAnyOrder(size: Int) throws {
    var random = SeededGenerator(seed: UInt64(size))
    let memory = try memory()
    var driver = PackedDriver(memory, size: size)
    var queue = driver.queue(indirect: false, events: false)
    var offered: [(id: UInt16, buffers: [(UInt64, UInt32, Bool)])] = []
    var taken: [VirtQueueElement] = []
    var expected: [UInt16: UInt32] = [:]
    var nextID: UInt16 = 0
    var done = 0
    while done < 4000 {
      switch UInt8.random(in: 0..<4, using: &random) {
      case 0:
        let count = Int.random(in: 1...max(1, min(size, 5)), using: &random)
        guard count <= driver.free else { continue }
        let readable = Int.random(in: 0...count, using: &random)
        let buffers = (0..<count).map { index in
          (
            UInt64.random(in: 0..<1 << 19, using: &random),
            UInt32.random(in: 0..<5000, using: &random), index >= readable
          )
        }
        while driver.counts[nextID] != nil { nextID &+= 1 }
        driver.offer(buffers, id: nextID)
        offered.append((nextID, buffers))
        nextID &+= 1
      case 1:
        #expect(queue.hasAvailable(in: memory) == !offered.isEmpty)
        guard let element = try queue.pop(from: memory) else {
          #expect(offered.isEmpty)
          continue
        }
        let wanted = try #require(offered.first)
        if Bool.random(using: &random) {
          queue.unpop()
          continue
        }
        offered.removeFirst()
        #expect(element.head == wanted.id)
        let seen =
          element.readable.map { ($0.address.rawValue, $0.length, false) }
          + element.writable.map { ($0.address.rawValue, $0.length, true) }
        #expect(seen.count == wanted.buffers.count)
        for (a, b) in zip(seen, wanted.buffers) { #expect(a == b) }
        taken.append(element)
      case 2:
        guard let index = taken.indices.randomElement(using: &random) else { continue }
        let element = taken.remove(at: index)
        let written = UInt32.random(in: 0..<1000, using: &random)
        expected[element.head] = written
        try queue.push(element, written: written, to: memory)
      default:
        while let (id, length) = driver.take() {
          #expect(expected.removeValue(forKey: id) == length)
          done += 1
        }
        #expect(expected.isEmpty)
      }
    }
  }

  @Test func indirectTablesHoldTheirBuffersInOrder() throws {
    let memory = try memory()
    var driver = PackedDriver(memory, size: 4)
    var queue = driver.queue(indirect: true, events: false)
    for (index, entry) in [(0x8000, 10, 0), (0x9000, 20, 2), (0xA000, 30, 3)].enumerated() {
      let at = GuestAddress(0x4000 + UInt64(index) * 16)
      _ = memory.store(at, UInt64(entry.0))
      _ = memory.store(at + 8, UInt32(entry.1))
      _ = memory.store(at + 14, UInt16(entry.2))
    }
    for _ in 0..<9 {
      driver.offer([(0x4000, 48, false)], id: 7)
      let place = (driver.next + 3) % 4
      // The same descriptor as an indirect one.
      let at = GuestAddress(PackedDriver.ring + UInt64(place) * 16 + 14)
      _ = memory.store(at, (memory.load(at, as: UInt16.self) ?? 0) | 4)
      let popped = try queue.pop(from: memory)
      let element = try #require(popped)
      #expect(element.head == 7 && element.readableLength == 10 && element.writableLength == 50)
      try queue.push(element, written: 50, to: memory)
      let back = driver.take()
      let used = try #require(back)
      #expect(used.0 == 7 && used.1 == 50)
    }
  }

  @Test func hostileRingsThrowAndNeverGoOn() throws {
    let breaks: [(String, Bool, (PackedDriver) -> Void)] = [
      (
        "a chain round the whole ring", false,
        { driver in for index in 0..<4 { driver.store(index, 0x8000, 1, 0, 0x81) } }
      ),
      ("indirect that was not negotiated", false, { $0.store(0, 0x8000, 16, 0, 0x84) }),
      ("an indirect table of an odd size", true, { $0.store(0, 0x8000, 17, 0, 0x84) }),
      ("an empty indirect table", true, { $0.store(0, 0x8000, 0, 0, 0x84) }),
      ("an indirect table outside of memory", true, { $0.store(0, 1 << 40, 16, 0, 0x84) }),
      (
        "indirect in indirect", true,
        { driver in
          driver.store(0, 0x8000, 16, 0, 0x84)
          _ = driver.memory.store(GuestAddress(0x800E), UInt16(4))
        }
      ),
      (
        "an indirect descriptor in a chain", true,
        { driver in
          driver.store(1, 0x8000, 16, 0, 0x84)
          driver.store(0, 0x8000, 16, 0, 0x81)
        }
      ),
      ("a huge indirect table", true, { $0.store(0, 0x1_0000, 0x8000, 0, 0x84) }),
      ("a buffer that wraps", false, { $0.store(0, UInt64.max - 3, 16, 0, 0x80) }),
      (
        "readable after writable", false,
        { driver in
          driver.store(1, 0x8000, 16, 0, 0x80)
          driver.store(0, 0x8000, 16, 0, 0x83)
        }
      ),
    ]
    for (name, allowsIndirect, act) in breaks {
      let memory = try memory()
      let driver = PackedDriver(memory, size: 4)
      var queue = driver.queue(indirect: allowsIndirect, events: false)
      act(driver)
      #expect(throws: VirtQueueError.self, "\(name)") { try queue.pop(from: memory) }
    }
  }

  @Test func descriptorsThatAreInUseCannotBeOfferedAgain() throws {
    let memory = try memory()
    var driver = PackedDriver(memory, size: 4)
    var queue = driver.queue(indirect: false, events: false)
    for id in UInt16(0)..<4 { driver.offer([(0x8000, 1, false)], id: id) }
    for _ in 0..<4 {
      let element = try queue.pop(from: memory)
      #expect(element != nil)
    }
    // The next lap, without a single one given back.
    driver.offer([(0x8000, 1, false)], id: 9)
    #expect(throws: VirtQueueError.self) { try queue.pop(from: memory) }
  }

  @Test func ringsOutsideOfMemoryThrow() throws {
    let memory = try memory()
    var queue = PackedDriver(memory, size: 4).queue(indirect: false, events: false)
    queue.descriptors = GuestAddress(1 << 40)
    #expect(!queue.hasAvailable(in: memory))
    #expect(throws: VirtQueueError.self) { try queue.pop(from: memory) }
  }

  @Test func theDriverHearsOfTheDescriptorThatItNamed() throws {
    let memory = try memory()
    var driver = PackedDriver(memory, size: 5)
    var queue = driver.queue(indirect: false, events: true)
    func wants(_ flags: UInt16, _ place: UInt16 = 0) {
      _ = memory.store(GuestAddress(PackedDriver.driverArea), UInt32(flags) << 16 | UInt32(place))
    }
    func once() throws -> Bool {
      driver.offer([(0x8000, 1, false)], id: 1)
      let popped = try queue.pop(from: memory)
      let element = try #require(popped)
      try queue.push(element, written: 0, to: memory)
      _ = driver.take()
      return queue.shouldNotify(memory)
    }
    var hears = false
    wants(0)
    hears = try once()
    #expect(hears)
    wants(1)
    hears = try once()
    #expect(!hears)
    // Used places so far: 0 and 1, in the lap of wrap counter 1.
    wants(2, 0x8003)
    hears = try once()
    #expect(!hears)
    hears = try once()
    #expect(hears)
    hears = try once()
    #expect(!hears)
    // The next lap.
    wants(2, 0x0001)
    hears = try once()
    #expect(!hears)
    hears = try once()
    #expect(hears)
    // What the device asks for follows its own place: 7 taken, so the third of the second lap.
    let area = memory.load(GuestAddress(PackedDriver.deviceArea), as: UInt32.self)
    #expect(area == 0x0002_0002)
    _ = queue.setPolled(true, in: memory)
    #expect(memory.load(GuestAddress(PackedDriver.deviceArea + 2), as: UInt16.self) == 1)
    driver.offer([(0x8000, 1, false)], id: 1)
    let isWaiting = queue.setPolled(false, in: memory)
    #expect(isWaiting)
    #expect(memory.load(GuestAddress(PackedDriver.deviceArea + 2), as: UInt16.self) == 2)
  }

  @Test func aRingOfRandomBytesNeverTraps() throws {
    var random = SeededGenerator(seed: 34)
    // Some of them make no sense, which is an error and no more.
    var broken = 0
    for round in 0..<400 {
      let memory = try memory()
      let size = Int.random(in: 1...16, using: &random)
      var queue = PackedDriver(memory, size: size).queue(
        indirect: round & 1 == 0, events: round & 2 == 0)
      for index in 0..<size * 16 {
        _ = memory.store(
          GuestAddress(PackedDriver.ring + UInt64(index)), UInt8.random(in: 0...255, using: &random)
        )
      }
      var taken: [VirtQueueElement] = []
      do {
        for _ in 0..<64 {
          guard let element = try queue.pop(from: memory) else { break }
          taken.append(element)
          #expect(Int(queue.inUse) <= size)
          if Bool.random(using: &random), let last = taken.popLast() {
            try queue.push(last, written: 1, to: memory)
            _ = queue.shouldNotify(memory)
          }
        }
      } catch { broken += 1 }
    }
    #expect(broken > 0 && broken < 400)
  }
}
