import Host

/// Memory that keeps the newest bytes: what a `ringbuf` device holds.
package struct RingBuffer: Equatable, Sendable {
  private var storage: [UInt8]
  private var start = 0
  private var length = 0

  /// Throws unless `size` is a power of two.
  package init(size: Int) throws(ChardevError) {
    guard size > 0, size & (size - 1) == 0, size <= 1 << 30 else {
      throw ChardevError(.badOption, "size of ringbuf chardev must be power of two")
    }
    storage = [UInt8](repeating: 0, count: size)
  }

  /// How many bytes it holds.
  package var count: Int { length }

  /// Adds bytes; the oldest give way.
  package mutating func write(_ bytes: [UInt8]) {
    for byte in bytes {
      storage[(start + length) & (storage.count - 1)] = byte
      if length < storage.count {
        length += 1
      } else {
        start = (start + 1) & (storage.count - 1)
      }
    }
  }

  /// Takes up to `limit` bytes, oldest first.
  package mutating func read(limit: Int) -> [UInt8] {
    let count = min(max(limit, 0), length)
    let bytes = (0..<count).map { storage[(start + $0) & (storage.count - 1)] }
    start = (start + count) & (storage.count - 1)
    length -= count
    return bytes
  }
}

/// `ringbuf` (and its old name `memory`): output is kept in memory for `ringbuf-read`.
@MainLoop
final class RingBufferTransport: ChardevTransport {
  let filename: String
  var contents: RingBuffer

  init(size: Int, filename: String = "ringbuf") throws(ChardevError) {
    self.filename = filename
    contents = try RingBuffer(size: size)
  }

  func start(_ device: Chardev) {
    MainLoop.post { [weak device] in device?.transportOpened() }
  }

  func write(_ bytes: [UInt8], from start: Int) -> Int {
    contents.write(start == 0 ? bytes : Array(bytes[start...]))
    return bytes.count - start
  }

  func setReceiving(_ on: Bool) {}
  func shutDown() {}
}
