package import CPU
import DeviceModel
import Host
import Shm
import Synchronization

/// Runs a guest program on an accelerator, with one thread for each vCPU.
package struct GuestRun: Sendable {
  package let transcript: String
  package let end: TestBoard.End

  /// What a guest's CPUID says here: an AMD64 processor with the features that the guests use.
  package static let cpuid = CPUIDTable([
    CPUIDTable.Entry(0, eax: 1, ebx: 0x6874_7541, ecx: 0x444D_4163, edx: 0x6974_6E65),
    CPUIDTable.Entry(1, eax: 0x0080_0F12, ebx: 0x0800, ecx: 0x81A0_2201, edx: 0x0788_AB7F),
    CPUIDTable.Entry(0x8000_0000, eax: 0x8000_0008),
    CPUIDTable.Entry(0x8000_0001, eax: 0x0080_0F12, ecx: 1, edx: 0x2C10_0800),
    CPUIDTable.Entry(0x8000_0008, eax: 0x3028),
  ])

  /// Runs `program` until it ends, or for `seconds`. Throws what making the machine throws.
  package init(
    _ program: GuestProgram, on accelerator: any Accelerator, seconds: Int = 20,
    inspect: (any VirtualMachine, TestBoard) throws -> Void = { _, _ in }
  ) throws {
    let board = try TestBoard(vcpus: program.vcpus)
    for piece in program.image { board.memory.write(GuestAddress(piece.address), piece.bytes) }
    let vm = try accelerator.makeVM(memory: board.memory, cpuid: GuestRun.cpuid)
    var vcpus: [any VCPU] = []
    for index in 0..<program.vcpus {
      let host = TestVCPUHost(board: board, index: index)
      let vcpu = try vm.makeVCPU(
        id: VCPUID(UInt32(index)), apicID: APICID(UInt32(index)), host: host)
      var state = CPUState.reset(signature: 0)
      if index == 0 {
        state.cs = SegmentRegister(selector: 0, base: 0, limit: 0xFFFF, attributes: 0x9B)
        state.rip = GuestProgram.origin
      } else {
        state.activity = .waitingForStartup
      }
      try vcpu.writeState(state)
      vcpus.append(vcpu)
    }
    board.state.withLock { $0.vcpus = vcpus }
    let threads = try vcpus.enumerated().map { index, vcpu in
      try HostThread(name: "guest/\(index)") { GuestRun.drive(vcpu, index, board) }
    }
    let deadline = HostClock.monotonic + Int64(seconds) * 1_000_000_000
    while true {
      let seen = board.changed.value
      if board.end != nil { break }
      let left = deadline - HostClock.monotonic
      if left <= 0 {
        board.end(.timedOut)
      } else {
        board.changed.wait(while: seen, nanoseconds: left)
      }
    }
    for thread in threads { thread.join() }
    try inspect(vm, board)
    board.state.withLock { $0.vcpus = [] }
    transcript = board.transcript
    end = board.end ?? .timedOut
  }

  private static func drive(_ vcpu: any VCPU, _ index: Int, _ board: TestBoard) {
    do {
      if index > 0 {
        guard let vector = awaitStartup(board) else { return }
        var state = try vcpu.readState()
        state.start(vector: vector)
        try vcpu.writeState(state)
      }
      while board.end == nil { try step(vcpu, index, board) }
    } catch {
      board.end(.failure("\(error)"))
    }
  }

  private static func awaitStartup(_ board: TestBoard) -> UInt8? {
    while true {
      let seen = board.changed.value
      if let vector = board.state.withLock({ $0.startup }) { return vector }
      if board.end != nil { return nil }
      board.changed.wait(while: seen)
    }
  }

  /// Delivers what waits, then runs until the next exit.
  private static func step(_ vcpu: any VCPU, _ index: Int, _ board: TestBoard) throws {
    let wantsNMI = board.state.withLock { state in
      defer { if state.nmis[index] > 0 { state.nmis[index] -= 1 } }
      return state.nmis[index] > 0
    }
    if wantsNMI { vcpu.injectNMI() }
    let accepts = vcpu.canAcceptInterrupt
    let (vector, more) = board.state.withLock { state -> (UInt8?, Bool) in
      guard let first = state.vectors[index].first else { return (nil, false) }
      guard accepts else { return (nil, true) }
      state.vectors[index].removeFirst()
      return (first, !state.vectors[index].isEmpty)
    }
    if let vector { vcpu.inject(vector: vector) }
    vcpu.wantsInterruptWindow = more

    let seen = board.changed.value
    switch vcpu.run() {
    case .halt:
      // Nothing that could wake it comes from another thread but the end: interrupts are raised by the vCPU itself.
      let waits = board.state.withLock {
        $0.end == nil && $0.vectors[index].isEmpty && $0.nmis[index] == 0
      }
      if waits { board.changed.wait(while: seen) }
    case .interrupted, .interruptWindow, .debug: break
    case .shutdown: board.end(.shutdown)
    case .failure(let reason): board.end(.failure(reason))
    }
  }
}
