import Host

/// Copies of frames that wait, first in first out. Buffers are used again.
struct FrameQueue {
  private struct Slot {
    var buffer: IOBuffer
    var count = 0
    var offload = Offload.none
  }
  private var slots: [Slot] = []
  private var first = 0
  private(set) var count = 0
  /// Bytes of all frames.
  private(set) var size = 0

  var isEmpty: Bool { count == 0 }

  mutating func append(_ frame: Frame) {
    if count == slots.count { grow(frame.count) }
    let index = (first + count) % slots.count
    if slots[index].buffer.count < frame.count {
      slots[index].buffer = IOBuffer(count: frame.count <= 2048 ? 2048 : Frame.maximum)
    }
    slots[index].buffer.copy(frame.range, of: frame.buffer, at: 0)
    slots[index].count = frame.count
    slots[index].offload = frame.offload
    count += 1
    size += frame.count
  }

  private mutating func grow(_ size: Int) {
    // In order from the start, then new ones behind.
    if first != 0 {
      slots = Array(slots[first...] + slots[..<first])
      first = 0
    }
    slots.append(Slot(buffer: IOBuffer(count: size <= 2048 ? 2048 : Frame.maximum)))
  }

  /// The frame that waits longest.
  var head: Frame? {
    guard count > 0 else { return nil }
    return Frame(slots[first].buffer, 0..<slots[first].count, slots[first].offload)
  }

  mutating func removeFirst() {
    guard count > 0 else { return }
    size -= slots[first].count
    first = (first + 1) % slots.count
    count -= 1
    // What a long wait needed is not kept for ever.
    if count == 0, slots.count > 64 {
      slots.removeAll()
      first = 0
    }
  }

  mutating func removeAll() {
    slots.removeAll()
    first = 0
    count = 0
    size = 0
  }
}
