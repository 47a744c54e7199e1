import Cluster
import Devices
import Host
import Shm
import Synchronization

/// The memory map of a node without devices: what node 0 publishes, put in place on the thread that receives it.
final class ChipsetFollower: Sendable {
  private let transport: any FrameTransport
  private let memory: GuestMemory
  private let ram: RAMBlock?
  private let a20: A20Gate
  private let device: RemoteDevice?
  private struct State {
    var version: UInt64 = 0
    var blocks: [UInt8: RAMBlock] = [:]
  }
  private let state = Mutex(State())

  /// `device` is told where its writes need no answer.
  init(
    _ seat: ClusterSeat, memory: GuestMemory, ram: RAMBlock?, a20: A20Gate, device: RemoteDevice?
  ) {
    self.device = device
    transport = seat.transport
    self.memory = memory
    self.ram = ram
    self.a20 = a20
  }

  /// A frame of node 0. Nil, or what is wrong with it.
  func received(_ argument: UInt64, _ bytes: [UInt8]) -> String? {
    switch ChipsetMap.Kind(rawValue: UInt8(truncatingIfNeeded: argument)) {
    case .contents:
      let number = UInt8(truncatingIfNeeded: argument >> 8)
      return take(bytes, of: number, size: Int(clamping: argument >> 16))
    case .map: return apply(bytes)
    case .acknowledgement, nil: return "chipset frame of an unknown kind"
    }
  }

  private func take(_ bytes: [UInt8], of number: UInt8, size: Int) -> String? {
    guard number != ChipsetMap.ram, size > 0, size <= ChipsetMap.largestROM, bytes.count > 8
    else { return "contents of no ROM" }
    let offset = LittleEndian(bytes).u64(0)
    guard offset <= UInt64(size), bytes.count - 8 <= size - Int(offset) else {
      return "contents beyond the end of a ROM"
    }
    return state.withLock { state in
      do {
        let block =
          try state.blocks[number] ?? RAMBlock(name: "node0.rom\(number)", size: size)
        guard block.size >= size else { return "a ROM has two sizes" }
        state.blocks[number] = block
        block.fill(Array(bytes.dropFirst(8)), at: Int(offset))
        return nil
      } catch { return "no memory for a ROM: \(error)" }
    }
  }

  private func apply(_ bytes: [UInt8]) -> String? {
    guard let map = ChipsetMap(bytes) else { return "memory map that cannot be read" }
    return state.withLock { state in
      guard map.version >= state.version else { return nil }
      var slots: [MemorySlot] = []
      for slot in map.slots {
        let block = slot.block == ChipsetMap.ram ? ram : state.blocks[slot.block]
        guard let block, slot.offset + slot.size <= UInt64(block.size) else {
          return "memory map with a slot that no memory is behind"
        }
        slots.append(
          MemorySlot(
            guest: GuestAddress(slot.guest), size: slot.size, block: block, offset: slot.offset,
            isReadOnly: slot.isReadOnly))
      }
      state.version = map.version
      // Engines hear of it before this returns, and look before their next block of code.
      memory.setSlots(slots)
      a20.isOpen = map.isA20Open
      device?.doorbells = map.doorbells
      var answer: [UInt8] = []
      answer.append64(map.version)
      transport.post(
        FrameHeader(.chipset, argument: UInt64(ChipsetMap.Kind.acknowledgement.rawValue)),
        bytes: answer, to: .devices)
      return nil
    }
  }
}
