import Host

/// One connection of a socket device: its descriptor, the layers on it, the descriptors that came along.
///
/// Reports through its handlers; nothing is reported after `stop`. While layers shake hands it reads by itself.
@MainLoop
final class ClientStream {
  /// The socket's number, to ask for its addresses.
  let descriptor: Int32
  private let stream: DescriptorStream
  private var layers: StreamLayerStack
  /// Encoded bytes that the socket did not take; those before `unsentStart` are gone.
  private var unsent: [UInt8] = []
  private var unsentStart = 0
  /// Descriptors that came with bytes (SCM_RIGHTS) and were not taken.
  private var passed: [Int32] = []
  private var wantsBytes = false
  private var hasOpened = false
  private var isStopped = false
  private var isDrained = false

  /// Data passes from now on.
  var onOpened: () -> Void = {}
  var onBytes: ([UInt8]) -> Void = { _ in }
  var onBreak: () -> Void = {}
  /// After a write that was not taken whole.
  var onDrained: () -> Void = {}
  /// The connection is over, with a reason to report if it was an error. Called once, not after `stop`.
  var onEnd: (String?) -> Void = { _ in }

  /// The most data that one step encodes.
  private static let pieceSize = 1 << 16
  /// A connection whose layers have so many answers unsent is not read meanwhile.
  private static let unsentLimit = 1 << 18
  /// A client that passes more descriptors than this without anything taking them loses the oldest.
  private static let passedLimit = 64

  init(_ socket: consuming FileDescriptor, layers: [any StreamLayer] = []) {
    descriptor = socket.rawValue
    stream = DescriptorStream(both: socket, isSocket: true)
    self.layers = StreamLayerStack(layers)
  }

  deinit {
    for number in passed { FileDescriptor(owning: number).close() }
  }

  /// Begins; set the handlers before. `onOpened` may come within the call.
  func start() {
    // Strong, since weak references make every use of the object slower; `stop` drops them.
    stream.onBytes = { [self] bytes, descriptors in arrived(bytes, descriptors) }
    stream.onDrained = { [self] in drained() }
    stream.onEnd = { [self] in end(nil) }
    let step = layers.begin()
    enqueue(step.outgoing)
    settle()
    updateReceiving()
  }

  /// Who the other side has proved to be.
  var peerIdentity: String? { layers.peerIdentity }

  /// Sends data from `start` on; answers how many bytes were taken. When not all, `onDrained` follows.
  func write(_ bytes: [UInt8], from start: Int) -> Int {
    guard !isStopped, hasOpened else { return bytes.count - start }
    if unsentStart < unsent.count { return 0 }
    if layers.isEmpty { return stream.write(bytes, from: start) }
    var next = start
    while next < bytes.count, unsentStart == unsent.count {
      let end = min(next + ClientStream.pieceSize, bytes.count)
      enqueue(layers.send(next == 0 && end == bytes.count ? bytes : Array(bytes[next..<end])))
      next = end
    }
    return next - start
  }

  /// Whether to read at present.
  func setReceiving(_ on: Bool) {
    wantsBytes = on
    updateReceiving()
  }

  /// Sends the last bytes, waiting for a slow reader no longer than half a second at a time.
  ///
  /// Layers say goodbye: call it once.
  func drain(_ bytes: [UInt8]) {
    guard !isStopped, !isDrained else { return }
    isDrained = true
    var rest = Array(unsent[unsentStart...])
    setUnsent([])
    if hasOpened { rest += bytes.isEmpty ? [] : layers.send(bytes) }
    rest += layers.finish()
    if !rest.isEmpty { stream.drain(rest, milliseconds: 500) }
  }

  /// Closes the connection; no handler is called again.
  func stop() {
    isStopped = true
    stream.stop()
    onOpened = {}
    onBytes = { _ in }
    onBreak = {}
    onDrained = {}
    onEnd = { _ in }
  }

  /// The descriptor that came last, if one did; the caller owns it. Older ones are closed.
  func takeDescriptor() -> Int32? {
    while passed.count > 1 { FileDescriptor(owning: passed.removeFirst()).close() }
    return passed.popLast()
  }

  // MARK: -

  private func arrived(_ bytes: [UInt8], _ descriptors: [Int32]) {
    passed += descriptors
    while passed.count > ClientStream.passedLimit {
      FileDescriptor(owning: passed.removeFirst()).close()
    }
    if layers.isEmpty { return onBytes(bytes) }
    let step = layers.receive(bytes)
    enqueue(step.outgoing)
    if layers.isOpen { settle() }
    for _ in 0..<step.breaks { onBreak() }
    if !step.data.isEmpty { onBytes(step.data) }
    settle()
    updateReceiving()
  }

  private func settle() {
    if layers.isOpen, !hasOpened, !isStopped {
      hasOpened = true
      onOpened()
    }
    if case .closed(let reason) = layers.ending { end(reason) }
  }

  private func end(_ reason: String?) {
    guard !isStopped else { return }
    let handler = onEnd
    stop()
    handler(reason)
  }

  private func enqueue(_ bytes: [UInt8]) {
    guard !bytes.isEmpty else { return }
    if unsentStart < unsent.count {
      unsent += bytes
    } else {
      let sent = stream.write(bytes)
      setUnsent(sent < bytes.count ? Array(bytes[sent...]) : [])
    }
  }

  private func drained() {
    if unsentStart < unsent.count {
      unsentStart += stream.write(unsent, from: unsentStart)
      if unsentStart < unsent.count { return }
      setUnsent([])
      updateReceiving()
    }
    if hasOpened { onDrained() }
  }

  private func setUnsent(_ bytes: [UInt8]) {
    unsent = bytes
    unsentStart = 0
  }

  private func updateReceiving() {
    guard !isStopped else { return }
    let isFull = unsent.count - unsentStart > ClientStream.unsentLimit
    stream.setReceiving((wantsBytes || !hasOpened) && !isFull)
  }
}
