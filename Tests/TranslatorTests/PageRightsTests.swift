import CPU
import DeviceModel
import Glibc
import Guests
import Host
import Shm
import Synchronization
import Testing
import Translator

/// Pages whose right belongs to another node: the vCPU asks, waits, goes on; a right can be taken from it while it runs.
@Suite(.serialized) struct PageRightsTests {
  /// Another node that gives a right when the test says so.
  private final class Elsewhere: PageRightsPolicy {
    private let memory: GuestMemory
    private let isOpen = Atomic<Bool>(true)
    private let log = Mutex<[(page: UInt64, right: PageRight)]>([])

    init(_ memory: GuestMemory) { self.memory = memory }

    private let lost = Mutex<Set<UInt64>>([])
    let settled = Atomic<Int>(0)

    func acquire(page: GuestAddress, _ right: PageRight) -> PageAccess {
      log.withLock { $0.append((page.rawValue, right)) }
      if lost.withLock({ $0.contains(page.rawValue) }) { return .lost }
      if isFrozen.load(ordering: .acquiring) { return .frozen }
      _ = waitUntil { isOpen.load(ordering: .acquiring) }
      memory.grant(page, right)
      return .granted
    }

    func settle(page: GuestAddress) { settled.add(1, ordering: .relaxed) }

    let isFrozen = Atomic<Bool>(false)
    func lose(_ page: UInt64) { lost.withLock { _ = $0.insert(page) } }

    func close() { isOpen.store(false, ordering: .releasing) }
    func open() { isOpen.store(true, ordering: .releasing) }
    var requests: [(page: UInt64, right: PageRight)] { log.withLock { $0 } }
  }

  private static let data: UInt64 = 0x30_0000
  private static let stop: UInt64 = 0x8000

  /// A vCPU that counts at `data` (and reads there) until the word at `stop` is set.
  private func counting(_ machine: TwoCPUs, isUser: Bool = false) throws -> HostThread {
    try machine.load(0, at: 0x1000, isUser: isUser) { code in
      code.load(.di, UInt32(Self.data))
      code.load(.si, UInt32(Self.stop))
      code.label("loop")
      code.emit(0x48, 0xFF, 0x07)  // inc qword [rdi]
      code.emit(0x48, 0x8B, 0x07)  // mov rax, [rdi]
      code.emit(0x83, 0x3E, 0x00)  // cmp dword [rsi], 0
      code.jump(if: .equal, "loop")
      code.hlt()
    }
    return try machine.start(0)
  }

  /// Whether the count stands still, for as long as the vCPU would need for many rounds.
  private func standsStill(_ machine: TwoCPUs) -> Bool {
    let count = machine.raw(Self.data)
    for n in 0..<5000 {
      if n % 1000 == 0 { _ = sched_yield() }
      if machine.raw(Self.data) != count { return false }
    }
    return true
  }

  /// Accesses of user code remember their pages apart from the TLB.
  @Test(
    arguments: [(PageRight.write, data), (.read, data), (.read, UInt64(0x1000))], [false, true])
  func revokedPageIsNoLongerUsed(_ what: (right: PageRight, page: UInt64), isUser: Bool) throws {
    let (right, page) = what
    let machine = try TwoCPUs()
    let policy = Elsewhere(machine.memory)
    machine.memory.setRightsPolicy(policy)
    let thread = try counting(machine, isUser: isUser)
    var latencies: [UInt64] = []
    for round in 0..<20 {
      let count = machine.raw(Self.data)
      #expect(waitUntil { machine.raw(Self.data) != count }, "round \(round) does not go on")
      policy.close()
      let before = HostClock.monotonic
      machine.vm.revoke(GuestAddress(page), right)
      latencies.append(UInt64(HostClock.monotonic - before))
      #expect(standsStill(machine), "round \(round)")
      // What the other node puts there is what the vCPU goes on from.
      if page == Self.data {
        machine.ram.base.storeBytes(
          of: UInt64(round) << 32, toByteOffset: Int(Self.data), as: UInt64.self)
      }
      policy.open()
    }
    let last = machine.raw(Self.data)
    #expect(waitUntil { machine.raw(Self.data) != last })
    if page == Self.data { #expect(machine.raw(Self.data) >> 32 == 19) }
    machine.memory.store(GuestAddress(Self.stop), UInt32(1))
    thread.join()
    let asked = policy.requests
    #expect(asked.count >= 20)
    #expect(asked.allSatisfy { $0.page == page })
    if page == 0x1000 { #expect(asked.allSatisfy { $0.right == .read }) }
    latencies.sort()
    print("revoke \(right) of \(page): median \(latencies[10]) ns, worst \(latencies[19]) ns")
  }

  /// Code of a page that came back is decoded again: the other node may have changed it.
  @Test func codeGoesWithTheRightToRead() throws {
    let machine = try TwoCPUs()
    let policy = Elsewhere(machine.memory)
    machine.memory.setRightsPolicy(policy)
    machine.memory.write(GuestAddress(0x20_0000), [0xB8, 1, 0, 0, 0, 0xC3])  // mov eax, 1; ret
    try machine.load(0, at: 0x1000) { code in
      code.load(.di, 0x20_0000)
      code.load(.si, UInt32(Self.stop))
      code.label("loop")
      code.emit(0xFF, 0xD7)  // call rdi
      code.emit(0x89, 0x46, 0x08)  // mov [rsi+8], eax
      code.emit(0x83, 0xF8, 0x02)  // cmp eax, 2
      code.jump(if: .notEqual, "loop")
      code.hlt()
    }
    let thread = try machine.start(0)
    #expect(waitUntil { machine.raw(Self.stop + 8) == 1 })
    policy.close()
    machine.vm.revoke(GuestAddress(0x20_0000), .read)
    machine.ram.base.storeBytes(of: 2, toByteOffset: 0x20_0001, as: UInt8.self)
    policy.open()
    thread.join()
    #expect(machine.raw(Self.stop + 8) == 2)
  }

  @Test func vCPUThatWaitsForAPageDelaysNoOtherRevocation() throws {
    let machine = try TwoCPUs()
    let policy = Elsewhere(machine.memory)
    machine.memory.setRightsPolicy(policy)
    policy.close()
    machine.vm.revoke(GuestAddress(Self.data), .read)
    let thread = try counting(machine)
    #expect(waitUntil { !policy.requests.isEmpty })
    // Returns although the vCPU is inside an instruction, and has a tag of this page's.
    machine.vm.revoke(GuestAddress(Self.stop), .write)
    machine.vm.revoke(GuestAddress(0x1000), .read)
    machine.memory.grant(GuestAddress(Self.stop), .write)
    policy.open()
    #expect(waitUntil { machine.raw(Self.data) > 1000 })
    machine.memory.store(GuestAddress(Self.stop), UInt32(1))
    thread.join()
    #expect(Set(policy.requests.map(\.page)) == [Self.data, 0x1000])
  }

  /// The tables themselves may be elsewhere: reading them needs one right, accessed and dirty bits the other.
  @Test func pageTablesAreAskedForToo() throws {
    let machine = try TwoCPUs(count: 1)
    let policy = Elsewhere(machine.memory)
    machine.memory.setRightsPolicy(policy)
    machine.vm.revoke(GuestAddress(0x11000), .read)
    machine.vm.revoke(GuestAddress(0x12000), .write)
    machine.memory.store(GuestAddress(Self.stop), UInt32(1))
    let thread = try counting(machine)
    thread.join()
    #expect(machine.raw(Self.data) == 1)
    #expect(machine.raw(0x12008) & 0x60 == 0x60)
    let asked = policy.requests
    #expect(asked.contains { $0.page == 0x11000 })
    #expect(asked.contains { $0.page == 0x12000 && $0.right == .write })
  }

  @Test func operandAcrossTwoPagesNeedsBoth() throws {
    let machine = try TwoCPUs(count: 1)
    let policy = Elsewhere(machine.memory)
    machine.memory.setRightsPolicy(policy)
    for page in [UInt64(0x30_0000), 0x30_1000] { machine.vm.revoke(GuestAddress(page), .read) }
    try machine.load(0, at: 0x1000) { code in
      code.load(.di, 0x30_0FFC)
      code.emit(0xF0, 0x48, 0xFF, 0x07)  // lock inc qword [rdi]
      code.emit(0x48, 0x83, 0x2F, 0x03)  // sub qword [rdi], 3
      code.emit(0x48, 0x8B, 0x07)  // mov rax, [rdi]
      code.hlt()
    }
    try machine.start(0).join()
    #expect(try machine.vcpus[0].readState().registers[0] == UInt64.max - 1)
    #expect(Set(policy.requests.map(\.page)) == [0x30_0000, 0x30_1000])
  }

  /// It stops at the instruction that waits, and executes it when it runs again.
  @Test func vCPUThatWaitsInAFrozenClusterCanBeStopped() throws {
    let machine = try TwoCPUs(count: 1)
    let policy = Elsewhere(machine.memory)
    machine.memory.setRightsPolicy(policy)
    policy.isFrozen.store(true, ordering: .releasing)
    machine.vm.revoke(GuestAddress(Self.data), .read)
    machine.memory.store(GuestAddress(Self.stop), UInt32(1))
    let thread = try counting(machine)
    #expect(waitUntil { !policy.requests.isEmpty })
    machine.vcpus[0].requestExit()
    thread.join()
    let state = try machine.vcpus[0].readState()
    #expect(state.rip == 0x100A)
    #expect(machine.raw(Self.data) == 0)
    policy.isFrozen.store(false, ordering: .releasing)
    #expect(machine.vcpus[0].run() == .halt)
    #expect(machine.raw(Self.data) == 1)
    #expect(try machine.vcpus[0].readState().registers[0] == 1)
    #expect(policy.settled.load(ordering: .relaxed) == 1)
  }

  /// What was on a node that is gone is no value: the guest gets a machine check.
  @Test func lostPageIsAMachineCheck() throws {
    let machine = try TwoCPUs(count: 1)
    let policy = Elsewhere(machine.memory)
    machine.memory.setRightsPolicy(policy)
    machine.vm.revoke(GuestAddress(Self.data), .read)
    policy.lose(Self.data)
    machine.memory.store(GuestAddress(Self.stop), UInt32(1))
    // A gate for vector 18 to a HLT.
    machine.memory.store(GuestAddress(0x5008), UInt64(0x00AF_9B00_0000_FFFF))
    machine.memory.store(GuestAddress(0x6000 + 18 * 16), UInt64(0x0000_8E00_0008_7000))
    machine.memory.write(GuestAddress(0x7000), [0xF4])
    try machine.load(0, at: 0x1000) { code in
      code.load(.di, UInt32(Self.data))
      code.emit(0x48, 0xFF, 0x47, 0x18)  // inc qword [rdi+24]
      code.hlt()
    }
    var state = try machine.vcpus[0].readState()
    state.gdtr = DescriptorTableRegister(base: 0x5000, limit: 0x17)
    state.idtr = DescriptorTableRegister(base: 0x6000, limit: 0xFFF)
    state.cr4 |= 1 << 6
    try machine.vcpus[0].writeState(state)
    #expect(machine.vcpus[0].run() == .halt)
    var after = try machine.vcpus[0].readState()
    #expect(after.rip == 0x7001)
    #expect(machine.raw(after.registers[4]) == 0x1005)
    #expect(after.msrs[0x17A] == 7)
    #expect(after.msrs[0x405].map { $0 >> 58 & 0x2F } == 0x2F)
    #expect(after.msrs[0x406] == Self.data)
    // Another one before the first was dealt with shuts the processor down.
    after.rip = 0x1005
    after.activity = .running
    try machine.vcpus[0].writeState(after)
    #expect(machine.vcpus[0].run() == .shutdown)
    #expect(machine.memory.load(GuestAddress(Self.data), as: UInt64.self) == nil)
    #expect(!machine.memory.store(GuestAddress(Self.data), UInt32(1)))
    #expect(machine.memory.read(GuestAddress(Self.data - 16), count: 32) == nil)
  }

  @Test func devicesAskToo() throws {
    let machine = try TwoCPUs(count: 1)
    let policy = Elsewhere(machine.memory)
    machine.memory.setRightsPolicy(policy)
    machine.vm.revoke(GuestAddress(0x30_0000), .read)
    machine.vm.revoke(GuestAddress(0x30_2000), .write)
    #expect(machine.memory.read(GuestAddress(0x30_0FF0), count: 0x3000) != nil)
    #expect(policy.requests.map(\.page) == [0x30_0000])
    machine.memory.write(GuestAddress(0x30_0FF0), [UInt8](repeating: 1, count: 0x2000))
    #expect(policy.requests.map(\.page) == [0x30_0000, 0x30_0000, 0x30_2000])
    #expect(machine.raw(0x30_2FE8) == 0x0101_0101_0101_0101)
  }
}
