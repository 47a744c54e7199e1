import Host

/// Frames over a stream socket: each behind its length in four bytes, the highest first.
@MainLoop
final class FrameStream {
  private let file: FileDescriptor
  private let port: NetPort
  private var watch: Watch?
  private let input = IOBuffer(count: 1 << 18)
  private var filled = 0
  private var parsed = 0
  private let output = IOBuffer(count: 1 << 18)
  private var written = 0
  private var queued = 0
  private var isFlushPosted = false
  /// The socket takes nothing at present.
  private var isFull = false
  /// The port's peer was told to wait.
  private var isRefusing = false
  private var isOver = false
  /// The connection ended or broke. Called once.
  private let ended: @MainLoop () -> Void

  /// Longer ones end the connection.
  private static let longest = 4096 + 65_536
  /// Bytes that are sent without waiting for the turn's end.
  private static let batch = 1 << 16

  init(
    _ file: consuming FileDescriptor, _ port: NetPort, ended: @escaping @MainLoop () -> Void
  ) throws(SystemError) {
    let number = file.rawValue
    self.file = file
    self.port = port
    self.ended = ended
    Socket.setNoDelay(number)
    watch = try MainLoop.watch(number, .readable) { [weak self] ready in self?.ready(ready) }
  }

  func close() {
    isOver = true
    watch?.cancel()
    watch = nil
  }

  private func end() {
    guard !isOver else { return }
    close()
    ended()
  }

  private func update() {
    var interest: Readiness = []
    if !port.isWaiting { interest.insert(.readable) }
    if isFull { interest.insert(.writable) }
    watch?.change(to: interest)
  }

  private func ready(_ ready: Readiness) {
    if ready.contains(.writable) {
      isFull = false
      flush()
      if !isOver { update() }
    }
    if !isOver, !ready.isDisjoint(with: [.readable, .hungUp]) { read() }
  }

  // MARK: - From the socket

  private func read() {
    for _ in 0..<4 {
      guard !port.isWaiting else { break }
      if parsed > 0 {
        input.copy(parsed..<filled, of: input, at: 0)
        filled -= parsed
        parsed = 0
      }
      let count: Int?
      do throws(SystemError) { count = try input.read(from: file.rawValue, at: filled) } catch {
        return end()
      }
      guard let count else { break }
      if count == 0 {
        port.endBurst()
        return end()
      }
      filled += count
      parse()
      if isOver { return }
    }
    port.endBurst()
    if port.isWaiting { update() }
  }

  private func parse() {
    while filled - parsed >= 4, !port.isWaiting {
      let length = Int(input.loadBigEndian(UInt32.self, at: parsed))
      guard length <= FrameStream.longest else {
        Log.error("serious error: oversized packet received, connection terminated.")
        return end()
      }
      guard filled - parsed - 4 >= length else { return }
      let start = parsed + 4
      parsed = start + length
      port.send(Frame(input, start..<start + length))
    }
  }

  /// The port's peer takes frames again.
  func resume() {
    guard !isOver else { return }
    parse()
    port.endBurst()
    if !isOver { update() }
  }

  // MARK: - To the socket

  func send(_ frame: Frame) -> Bool {
    guard !isOver, frame.count <= FrameStream.longest else { return true }
    if queued + 4 + frame.count > output.count { compact() }
    guard queued + 4 + frame.count <= output.count else {
      isRefusing = true
      return false
    }
    output.storeBigEndian(UInt32(frame.count), at: queued)
    output.copy(frame.range, of: frame.buffer, at: queued + 4)
    queued += 4 + frame.count
    if queued - written >= FrameStream.batch { flush() } else { scheduleFlush() }
    return true
  }

  private func compact() {
    output.copy(written..<queued, of: output, at: 0)
    queued -= written
    written = 0
  }

  private func scheduleFlush() {
    guard !isFlushPosted, !isFull else { return }
    isFlushPosted = true
    MainLoop.post { [weak self] in
      self?.isFlushPosted = false
      self?.flush()
    }
  }

  private func flush() {
    guard !isOver, !isFull else { return }
    while written < queued {
      let count: Int?
      do throws(SystemError) {
        count = try output.send(written..<queued, to: file.rawValue)
      } catch { return end() }
      guard let count else {
        isFull = true
        update()
        break
      }
      written += count
    }
    if written == queued {
      written = 0
      queued = 0
    }
    if isRefusing, queued - written < output.count / 2 {
      isRefusing = false
      port.becomesReady()
    }
  }
}
