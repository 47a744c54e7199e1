import Glibc
import Host

/// Bytes from and to descriptors through the main loop: sockets, terminals, pipes, and files (which epoll refuses,
/// and which are always ready).
///
/// Reading pauses and resumes; writing never waits. `stop` before the last reference goes.
@MainLoop
final class DescriptorStream {
  private let input: FileDescriptor?
  private let output: FileDescriptor?
  private let inputNumber: Int32?
  private let outputNumber: Int32?
  private let isSocket: Bool
  private var inputWatch: Watch?
  private var outputWatch: Watch?
  private var isReceiving = false
  private var isBlocked = false
  private var isStopped = false
  /// The other side sends no more, but what it asked for is still on its way to it.
  private var isEnding = false
  /// A read of a file is on its way.
  private var isReadPosted = false

  /// Bytes arrived; with a socket, also descriptors (the handler owns them).
  var onBytes: ([UInt8], [Int32]) -> Void = { _, _ in }
  /// The other side ended the stream, or it broke. Called once.
  var onEnd: () -> Void = {}
  /// After a write that was not taken whole: there is room again.
  var onDrained: () -> Void = {}

  /// Where all streams read to: bytes are copied out before anyone else reads, and an idle stream costs no buffer.
  private static var buffer = [UInt8](repeating: 0, count: 1 << 16)

  /// One descriptor for both directions.
  init(both: consuming FileDescriptor, isSocket: Bool) {
    inputNumber = both.rawValue
    outputNumber = both.rawValue
    input = consume both
    output = nil
    self.isSocket = isSocket
  }

  /// A descriptor for each direction; either may be missing.
  init(input: consuming FileDescriptor?, output: consuming FileDescriptor?) {
    inputNumber = input.number
    outputNumber = output.number
    self.input = consume input
    self.output = consume output
    isSocket = false
  }

  /// Begins or pauses reading.
  func setReceiving(_ on: Bool) {
    guard let inputNumber, !isStopped, !isEnding else { return }
    isReceiving = on
    if on { startReading(inputNumber) } else { updateInputWatch() }
  }

  /// Sends `bytes` from `start` on; answers how many bytes went. When not all, `onDrained` follows. Broken streams take everything.
  func write(_ bytes: [UInt8], from start: Int = 0) -> Int {
    guard let outputNumber, !isStopped else { return bytes.count - start }
    var sent = start
    while sent < bytes.count {
      do throws(SystemError) {
        let count = try send(outputNumber, bytes, sent)
        if count == 0 { break }
        sent += count
      } catch {
        if error.code == EAGAIN { break }
        // The end will be seen by reading; until then there is nobody to keep bytes for.
        return bytes.count - start
      }
    }
    if sent < bytes.count { setBlocked(true) }
    return sent - start
  }

  /// Ends both directions; no handler is called again.
  func stop() {
    isStopped = true
    inputWatch?.cancel()
    outputWatch?.cancel()
    inputWatch = nil
    outputWatch = nil
    onBytes = { _, _ in }
    onEnd = {}
    onDrained = {}
  }

  /// Sends `bytes`, waiting while the other side reads, at most `milliseconds` for each step and ten times that in all; for the
  /// end of the process.
  func drain(_ bytes: [UInt8], milliseconds: Int32) {
    guard let outputNumber else { return }
    let end = HostClock.monotonic + Int64(milliseconds) * 10_000_000
    var sent = write(bytes)
    while sent < bytes.count, HostClock.monotonic < end {
      Descriptors.waitWritable(outputNumber, milliseconds: milliseconds)
      let step = write(bytes, from: sent)
      if step == 0 { return }
      sent += step
    }
  }

  // MARK: -

  private func send(
    _ number: Int32, _ bytes: [UInt8], _ start: Int
  ) throws(SystemError) -> Int {
    if isSocket { return try Socket.send(number, bytes, from: start) }
    if output != nil { return try output?.write(bytes, from: start) ?? 0 }
    return try input?.write(bytes, from: start) ?? 0
  }

  private func startReading(_ number: Int32) {
    if let inputWatch {
      inputWatch.change(to: inputInterest)
      return
    }
    do throws(SystemError) {
      // Strong, since weak references make every use of the object slower; `stop` ends the watch.
      inputWatch = try MainLoop.watch(number, inputInterest) { [self] ready in inputReady(ready) }
    } catch {
      // EPERM: a file, always ready.
      postRead()
    }
  }

  /// With one descriptor for both directions there is one watch for both.
  private var inputInterest: Readiness {
    var interest: Readiness = isReceiving ? .readable : []
    if isBlocked, inputNumber == outputNumber { interest.insert(.writable) }
    return interest
  }

  private func updateInputWatch() { inputWatch?.change(to: inputInterest) }

  private func inputReady(_ ready: Readiness) {
    if ready.contains(.writable), isBlocked { setBlocked(false) }
    if isStopped { return }
    if ready.contains(.readable) || !ready.isDisjoint(with: .hungUp) {
      if isReceiving {
        readOnce()
      } else if !ready.isDisjoint(with: .hungUp) {
        // Hang-ups are always reported: without the watch there is no spinning. Reading starts a new one. A socket whose other
        // side is wholly gone makes room for the next client at once, as with QEMU; a pipe still holds what was written.
        inputWatch?.cancel()
        inputWatch = nil
        if isSocket { onEnd() }
      }
    }
  }

  private func postRead() {
    guard !isReadPosted else { return }
    isReadPosted = true
    MainLoop.post { [weak self] in
      guard let self else { return }
      self.isReadPosted = false
      if self.isReceiving, !self.isStopped, self.readOnce() { self.postRead() }
    }
  }

  /// Reads one chunk; false at the end.
  @discardableResult
  private func readOnce() -> Bool {
    guard let inputNumber else { return false }
    var count = 0
    var descriptors: [Int32] = []
    do throws(SystemError) {
      if isSocket {
        guard let got = try Socket.receive(inputNumber, into: &DescriptorStream.buffer) else {
          return true
        }
        count = got.count
        descriptors = got.descriptors
      } else {
        count = try input?.read(into: &DescriptorStream.buffer) ?? 0
      }
    } catch {
      if error.code == EAGAIN { return true }
      isBlocked = false
      count = 0
    }
    if count == 0 {
      if isBlocked, inputNumber == outputNumber {
        isEnding = true
        isReceiving = false
        updateInputWatch()
        return false
      }
      let end = onEnd
      inputWatch?.cancel()
      inputWatch = nil
      isReceiving = false
      end()
      return false
    }
    onBytes(Array(DescriptorStream.buffer[..<count]), descriptors)
    return true
  }

  private func setBlocked(_ blocked: Bool) {
    guard blocked != isBlocked, let outputNumber else { return }
    isBlocked = blocked
    if inputNumber == outputNumber {
      if blocked, inputWatch == nil { startReading(outputNumber) } else { updateInputWatch() }
    } else if blocked {
      outputWatch = try? MainLoop.watch(outputNumber, .writable) { [weak self] _ in
        self?.setBlocked(false)
      }
      // A descriptor that epoll refuses does not block; try again soon all the same.
      if outputWatch == nil { MainLoop.post { [weak self] in self?.setBlocked(false) } }
    } else {
      outputWatch?.cancel()
      outputWatch = nil
    }
    guard !blocked else { return }
    onDrained()
    if isEnding, !isBlocked, !isStopped {
      isEnding = false
      inputWatch?.cancel()
      inputWatch = nil
      onEnd()
    }
  }
}

extension Optional where Wrapped == FileDescriptor {
  /// The number of the descriptor, if there is one.
  fileprivate var number: Int32? {
    borrowing get {
      switch self {
      case .some(let descriptor): descriptor.rawValue
      case .none: nil
      }
    }
  }
}
