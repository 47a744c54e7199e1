import CPU
import DeviceModel
import Host
package import Shm
import Synchronization

/// The machine round a test guest: a few ports, a little device memory, and a switchboard for interrupts. What the guest
/// does there becomes a transcript.
package final class TestBoard: Sendable {
  package enum Port {
    /// Prints the byte as a character.
    package static let text: UInt16 = 0xE9
    /// Prints the value in hexadecimal, and a space.
    package static let report: UInt16 = 0xEA
    /// Ends the run with the value as status.
    package static let finish: UInt16 = 0xF4
    /// Raises the interrupt vector written, on the vCPU that writes.
    package static let interrupt: UInt16 = 0x510
    /// Raises an NMI on the vCPU that writes.
    package static let nmi: UInt16 = 0x512
    /// Starts vCPU 1 at the page written.
    package static let startup: UInt16 = 0x514
    /// Changes the memory's slots to the layout of the number written.
    package static let layout: UInt16 = 0x518
    /// Four ports that remember what was written to them.
    package static let echo: UInt16 = 0x520
    /// Answers one byte after another of 0x61, 0x62…
    package static let sequence: UInt16 = 0x530
  }
  /// Device memory that remembers what was written to it: a page, behind all RAM.
  package static let echoMemory: UInt64 = 0x3000_0000
  package static let ram = 4 << 20
  /// Where the layouts of port `layout` differ.
  package static let switchedMemory: UInt64 = 0x60_0000
  package static let rom: UInt64 = 0x70_0000

  /// How a run ended.
  package enum End: Equatable, Sendable {
    case finished(UInt8)
    case shutdown
    case failure(String)
    case timedOut
  }

  struct State {
    var transcript: [UInt8] = []
    var end: End?
    var echo = [UInt8](repeating: 0xFF, count: 4096 + 16)
    var next: UInt8 = 0x61
    var vectors: [[UInt8]]
    var nmis: [Int]
    var startup: UInt8?
    var vcpus: [(any VCPU)?]
  }
  let state: Mutex<State>
  /// Advances whenever a thread of the run may have something to do.
  let changed = WaitWord()
  package let memory = GuestMemory()
  private let blocks: [RAMBlock]

  package init(vcpus: Int) throws {
    state = Mutex(
      State(
        vectors: Array(repeating: [], count: vcpus), nmis: Array(repeating: 0, count: vcpus),
        vcpus: Array(repeating: nil, count: vcpus)))
    blocks = [
      try RAMBlock(name: "ram", size: TestBoard.ram), try RAMBlock(name: "first", size: 4096),
      try RAMBlock(name: "second", size: 4096), try RAMBlock(name: "rom", size: 4096),
    ]
    setLayout(0)
    for (layout, pattern): (UInt8, UInt32) in [(2, 0xC2C2_C2C2), (1, 0xB1B1_B1B1)] {
      setLayout(layout)
      memory.store(GuestAddress(TestBoard.switchedMemory), pattern)
    }
    memory.write(GuestAddress(TestBoard.rom), [0x0D, 0xF0, 0xAD, 0x0B], toROM: true)
  }

  /// 0: nothing at `switchedMemory`; 1 and 2: a page of RAM each.
  package func setLayout(_ number: UInt8) {
    var slots = [
      MemorySlot(guest: GuestAddress(0), size: UInt64(TestBoard.ram), block: blocks[0]),
      MemorySlot(
        guest: GuestAddress(TestBoard.rom), size: 4096, block: blocks[3], isReadOnly: true),
    ]
    if number == 1 || number == 2 {
      slots.append(
        MemorySlot(
          guest: GuestAddress(TestBoard.switchedMemory), size: 4096, block: blocks[Int(number)]))
    }
    memory.setSlots(slots)
  }

  package var transcript: String {
    state.withLock { String(decoding: $0.transcript, as: UTF8.self) }
  }

  /// The first end counts. Wakes everyone.
  func end(_ end: End) {
    let vcpus = state.withLock { state in
      state.end = state.end ?? end
      return state.vcpus
    }
    changed.advance()
    for vcpu in vcpus { vcpu?.requestExit() }
  }

  var end: End? { state.withLock { $0.end } }

  func note(_ text: String) { state.withLock { $0.transcript += Array(text.utf8) } }
}

/// One vCPU's view of the board.
final class TestVCPUHost: VCPUHost {
  private let board: TestBoard
  private let index: Int
  private struct Local {
    var taskPriority: UInt8 = 0
    var apicBase: UInt64
    var deadline: UInt64 = 0
  }
  private let local: Mutex<Local>

  init(board: TestBoard, index: Int) {
    self.board = board
    self.index = index
    local = Mutex(Local(apicBase: index == 0 ? 0xFEE0_0900 : 0xFEE0_0800))
  }

  func readPort(_ port: UInt16, width: Int) -> UInt32 {
    board.state.withLock { state in
      switch port {
      case TestBoard.Port.echo..<TestBoard.Port.echo + 4:
        return UInt32(
          truncatingIfNeeded: load(state.echo, 4096 + Int(port - TestBoard.Port.echo), width))
      case TestBoard.Port.sequence:
        defer { state.next &+= 1 }
        return UInt32(state.next)
      default:
        return ~0
      }
    }
  }

  func writePort(_ port: UInt16, width: Int, _ value: UInt32) {
    let byte = UInt8(truncatingIfNeeded: value)
    switch port {
    case TestBoard.Port.text:
      board.state.withLock { $0.transcript.append(byte) }
    case TestBoard.Port.report:
      board.note(String(value, radix: 16) + " ")
    case TestBoard.Port.finish:
      board.end(.finished(byte))
    case TestBoard.Port.interrupt:
      kick { $0.vectors[index].append(byte) }
    case TestBoard.Port.nmi:
      kick { $0.nmis[index] += 1 }
    case TestBoard.Port.startup:
      board.state.withLock { $0.startup = byte }
      board.changed.advance()
    case TestBoard.Port.layout:
      board.setLayout(byte)
    case TestBoard.Port.echo..<TestBoard.Port.echo + 4:
      board.state.withLock {
        store(&$0.echo, 4096 + Int(port - TestBoard.Port.echo), width, UInt64(value))
      }
    default: break
    }
  }

  /// Changes what waits for this vCPU, and makes it look.
  private func kick(_ change: (inout TestBoard.State) -> Void) {
    let vcpu = board.state.withLock { state in
      change(&state)
      return state.vcpus[index]
    }
    vcpu?.requestExit()
  }

  func readMemory(_ address: GuestAddress, width: Int) -> UInt64 {
    let offset = address.rawValue &- TestBoard.echoMemory
    guard offset < 4096 else { return ~0 }
    return board.state.withLock { load($0.echo, Int(offset), width) }
  }

  func writeMemory(_ address: GuestAddress, width: Int, _ value: UInt64) {
    let offset = address.rawValue &- TestBoard.echoMemory
    if offset < 4096 {
      board.state.withLock { store(&$0.echo, Int(offset), width, value) }
    } else {
      board.note("(\(address)/\(width)=\(String(value, radix: 16)))")
    }
  }

  private func load(_ bytes: [UInt8], _ offset: Int, _ width: Int) -> UInt64 {
    var value: UInt64 = 0
    for index in 0..<width where offset + index < bytes.count {
      value |= UInt64(bytes[offset + index]) << UInt64(8 * index)
    }
    return value
  }

  private func store(_ bytes: inout [UInt8], _ offset: Int, _ width: Int, _ value: UInt64) {
    for index in 0..<width where offset + index < bytes.count {
      bytes[offset + index] = UInt8(truncatingIfNeeded: value >> UInt64(8 * index))
    }
  }

  func readMSR(_ index: UInt32) -> UInt64? {
    local.withLock {
      switch index {
      case 0x1B: $0.apicBase
      case 0x6E0: $0.deadline
      case 0x802: 0xA0 + UInt64(self.index)
      case 0x808: UInt64($0.taskPriority)
      default: nil
      }
    }
  }

  func writeMSR(_ index: UInt32, _ value: UInt64) -> Bool {
    local.withLock {
      switch index {
      case 0x1B: $0.apicBase = value
      case 0x6E0: $0.deadline = value
      case 0x808: $0.taskPriority = UInt8(truncatingIfNeeded: value)
      default: return false
      }
      return true
    }
  }

  var taskPriority: UInt8 {
    get { local.withLock { $0.taskPriority } }
    set { local.withLock { $0.taskPriority = newValue } }
  }

  var isA20Enabled: Bool { true }
}
