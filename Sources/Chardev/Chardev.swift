package import Host
import Glibc

/// A character device: a stream of bytes to somewhere outside, used by one frontend, or by several when multiplexed.
@MainLoop
package final class Chardev: ChardevPortOwner {
  /// Its id, such as `serial0`.
  package let label: String
  private(set) var transport: any ChardevTransport
  private var ports: [ChardevPort] = []
  private var mux: MuxModel?
  private var logFile: FileDescriptor?
  /// Whether someone is at the other side.
  package private(set) var isOpen = false
  /// The clients of a device that serves any number, oldest first.
  private var clients: [ServedClient] = []
  private var isServing = false
  /// What the frontend has set, for a device that becomes another one.
  private var line: ChardevLine?
  private var isReceiving = true
  /// What C-a x and C-a s ask of the machine; set by the registry.
  var onMuxCommand: (MuxCommand) -> Void = { _ in }
  /// Called whenever a client came; set by the registry.
  var onOpened: () -> Void = {}

  /// The most frontends of a multiplexed device.
  static let maximumFrontends = 4

  init(
    label: String, transport: any ChardevTransport, mux: MuxModel? = nil,
    log: consuming FileDescriptor? = nil
  ) {
    self.label = label
    self.transport = transport
    self.mux = mux
    logFile = log
    transport.start(self)
  }

  /// Kind and address, as `query-chardev` shows them.
  package var filename: String { transport.filename }

  /// Whether a frontend is attached.
  package var isFrontendOpen: Bool { isServing || !ports.isEmpty }

  /// What `query-chardev` says of that: a multiplexer opens its base when it has a frontend itself.
  var isShownOpen: Bool {
    if let mux = ports.first?.frontend as? MuxTransport { return mux.hasFrontends }
    return isFrontendOpen
  }

  /// Whether it is a socket that waits for clients.
  package var isListening: Bool { (transport as? SocketTransport)?.isListening ?? false }

  /// How many clients have a session at present; 0 when it does not serve many.
  package var clientCount: Int { clients.count }

  /// Whether several frontends may share the device.
  package var isMultiplexed: Bool { mux != nil }

  /// Attaches a frontend and answers where it writes. On a multiplexed device the newest has the focus.
  ///
  /// - Parameter outputLimit: the most bytes that may wait to be sent.
  ///
  /// Throws `ChardevError` (`inUse`) when there is no room for one more.
  package func attach(
    _ frontend: any ChardevFrontend, outputLimit: Int = .max
  ) throws(ChardevError) -> ChardevPort {
    let room = mux == nil ? 1 : Chardev.maximumFrontends
    guard ports.count < room, !isServing else {
      throw ChardevError(.inUse, "Device '\(label)' is in use")
    }
    let port = ChardevPort(self, frontend, limit: outputLimit)
    ports.append(port)
    if mux != nil { setFocus(ports.count - 1) }
    // Later, so that the caller has stored the port before it hears of the opening.
    MainLoop.post { [weak self] in self?.announce(port) }
    return port
  }

  /// Serves everyone who comes, each with a session of its own: `makeSession` gets the client and answers the frontend that
  /// receives its bytes, from `chardevOpened` to `chardevClosed`. A listening socket has any number of clients at once; on
  /// any other device there is one session for each time that it opens.
  ///
  /// - Parameter outputLimit: the most bytes that may wait to be sent to one client.
  ///
  /// Throws `ChardevError` (`inUse`) when the device has a frontend.
  package func serve(
    outputLimit: Int = .max, _ makeSession: @escaping (ChardevClient) -> any ChardevFrontend
  ) throws(ChardevError) {
    guard let socket = transport as? SocketTransport, socket.isListening, !isOpen else {
      let frontend = SessionFrontend(self, makeSession)
      frontend.attached(try attach(frontend, outputLimit: outputLimit))
      return
    }
    guard !isFrontendOpen else { throw ChardevError(.inUse, "Device '\(label)' is in use") }
    isServing = true
    socket.serve { [weak self, weak socket] stream in
      guard let self, let socket else { return }
      let client = ServedClient(stream, self, socket)
      self.clients.append(client)
      socket.shownClient = self.clients.first?.stream
      client.start(outputLimit: outputLimit, makeSession)
    }
  }

  /// Gives the keys of a multiplexed device to the frontend of `port`.
  package func focus(_ port: ChardevPort) {
    if let index = ports.firstIndex(where: { $0 === port }) { setFocus(index) }
  }

  /// Sends a break condition to the frontend.
  package func sendBreak() { focused?.frontend?.chardevBreak() }

  /// Takes up to `limit` bytes of output, oldest first, from a `ringbuf` device; nil for other kinds.
  package func readRingBuffer(limit: Int) -> [UInt8]? {
    (transport as? RingBufferTransport)?.contents.read(limit: limit)
  }

  /// Adds bytes to a `ringbuf` device's memory; false for other kinds.
  package func writeRingBuffer(_ bytes: [UInt8]) -> Bool {
    guard let ring = transport as? RingBufferTransport else { return false }
    ring.contents.write(bytes)
    return true
  }

  /// The path of the other side of a `pty` device.
  package var pseudoTerminalPath: String? { (transport as? PseudoTerminalTransport)?.path }

  /// The port that a listening socket device has, for those who asked for any; 0 otherwise.
  package var localPort: UInt16 {
    (transport as? SocketTransport)?.localPort ?? (transport as? DatagramTransport)?.localPort ?? 0
  }

  /// The descriptor that came last with the bytes of a Unix socket (SCM_RIGHTS); the caller owns it.
  package func takeDescriptor() -> Int32? { (transport as? SocketTransport)?.takeDescriptor() }

  /// Becomes another device for the same user, which hears that the old one closed and the new one opened.
  func change(to new: any ChardevTransport, log: consuming FileDescriptor?) {
    for port in ports { port.flush() }
    transportClosed()
    transport.remove()
    setReceiving(true)
    transport = new
    logFile = log
    new.start(self)
    if let line { new.setLine(line) }
  }

  /// Whether the user can go on with another device.
  var canChange: Bool {
    !isServing && ports.allSatisfy { $0.frontend?.canChangeDevice ?? true }
  }

  /// Takes a connected socket as a listening device's client. False, closing it, when that is no such device or has one.
  package func addClient(_ socket: consuming FileDescriptor) -> Bool {
    guard let transport = transport as? SocketTransport else { return false }
    return transport.add(socket)
  }

  /// Removes the device while the process goes on.
  func remove() {
    transport.remove()
    transportClosed()
  }

  /// Ends the connection of a socket with one client.
  func disconnect() { (transport as? SocketTransport)?.disconnect() }

  /// Closes the device for good; frontends hear `chardevClosed`.
  package func shutDown() {
    for port in ports {
      port.flush()
      let rest = port.takeQueued()
      if isOpen, !rest.isEmpty { transport.drain(rest) }
    }
    for client in clients { client.shutDown() }
    transport.shutDown()
    transportClosed()
    for port in ports { port.disown() }
  }

  // MARK: - What transports report

  /// Someone is at the other side.
  func transportOpened() {
    guard !isOpen else { return }
    Trace.write(.chardevOpened, "chardev \(label)")
    isOpen = true
    for port in ports { announce(port) }
    onOpened()
  }

  /// The other side is gone.
  func transportClosed() {
    guard isOpen else { return }
    Trace.write(.chardevClosed, "chardev \(label)")
    isOpen = false
    for port in ports {
      port.held = []
      port.discardOutput()
      if port.isAnnounced {
        port.isAnnounced = false
        port.frontend?.chardevClosed()
      }
    }
    setReceiving(true)
  }

  /// Bytes came from the other side.
  func transportReceived(_ bytes: [UInt8]) {
    if mux == nil {
      if let port = ports.first { deliver(bytes, to: port) }
    } else {
      demultiplex(bytes)
    }
    updateReceiving()
  }

  func transportBreak() { sendBreak() }

  /// A client of many has come.
  func clientOpened() {
    Trace.write(.chardevOpened, "chardev \(label)")
    (transport as? SocketTransport)?.noteClient()
    isOpen = true
    onOpened()
  }

  /// A client of many is gone.
  func clientClosed(_ client: ServedClient) {
    Trace.write(.chardevClosed, "chardev \(label)")
    clients.removeAll { $0 === client }
    (transport as? SocketTransport)?.shownClient = clients.first?.stream
    if !clients.contains(where: \.isOpen) { isOpen = false }
  }

  /// The transport takes bytes again.
  func transportDrained() {
    for port in ports { port.flush() }
  }

  // MARK: - What ports do

  /// Sends a frontend's bytes from `start` on; answers how many the transport took.
  func transmit(_ bytes: [UInt8], from start: Int) -> Int {
    var taken = bytes.count - start
    if mux != nil {
      // A transport under a multiplexer takes all or nothing, so stamping does not disturb the count.
      let part = start == 0 ? bytes : Array(bytes[start...])
      let stamped = mux?.stamp(part, at: HostClock.realtime / 1_000_000) ?? part
      if transport.write(stamped, from: 0) < stamped.count { taken = 0 }
    } else {
      taken = transport.write(bytes, from: start)
    }
    log(bytes, from: start, to: start + taken)
    return taken
  }

  func resume(_ port: ChardevPort) {
    announce(port)
    port.offerHeld()
    updateReceiving()
  }

  func setLine(_ line: ChardevLine) {
    self.line = line
    transport.setLine(line)
  }

  func detach(_ port: ChardevPort) {
    port.flush()
    guard let index = ports.firstIndex(where: { $0 === port }) else { return }
    ports.remove(at: index)
    if mux != nil, !ports.isEmpty { setFocus(min(mux?.focus ?? 0, ports.count - 1)) }
    updateReceiving()
  }

  // MARK: -

  private var focused: ChardevPort? {
    let index = mux?.focus ?? 0
    return ports.indices.contains(index) ? ports[index] : nil
  }

  private func announce(_ port: ChardevPort) {
    guard isOpen, !port.isAnnounced, ports.contains(where: { $0 === port }) else { return }
    port.isAnnounced = true
    if mux != nil { port.frontend?.chardevFocusChanged(focused === port) }
    port.frontend?.chardevOpened()
  }

  private func deliver(_ bytes: [UInt8], to port: ChardevPort) {
    announce(port)
    port.offer(bytes)
  }

  /// A paused frontend without focus must not keep C-a from being read, so each may hold back this much.
  private static let heldLimit = 4096

  func updateReceiving() {
    let limit = mux == nil ? 0 : Chardev.heldLimit
    setReceiving(ports.allSatisfy { $0.held.count <= limit && !$0.isPaused })
  }

  private func setReceiving(_ on: Bool) {
    guard on != isReceiving else { return }
    isReceiving = on
    transport.setReceiving(on)
  }

  private func demultiplex(_ bytes: [UInt8]) {
    var run: [UInt8] = []
    for byte in bytes {
      guard let action = mux?.receive(byte) else { continue }
      if case .data(let byte) = action {
        run.append(byte)
        continue
      }
      deliverRun(&run)
      switch action {
      case .data: break
      case .print(let text): _ = transport.write(text, from: 0)
      case .nextFocus:
        if !ports.isEmpty { setFocus(((mux?.focus ?? 0) + 1) % ports.count) }
      case .sendBreak: sendBreak()
      case .command(let command):
        if command == .quit { _ = transport.write(MuxModel.farewell, from: 0) }
        onMuxCommand(command)
      }
    }
    deliverRun(&run)
  }

  private func deliverRun(_ run: inout [UInt8]) {
    if !run.isEmpty, let port = focused { deliver(run, to: port) }
    run = []
  }

  private func setFocus(_ index: Int) {
    let old = focused
    mux?.focus = index
    guard let new = focused, new !== old else { return }
    if let old, old.isAnnounced { old.frontend?.chardevFocusChanged(false) }
    if new.isAnnounced { new.frontend?.chardevFocusChanged(true) }
  }

  /// Copies what was sent into the log file.
  func log(_ bytes: [UInt8], from start: Int, to end: Int) {
    guard logFile != nil, start < end else { return }
    let part = start == 0 && end == bytes.count ? bytes : Array(bytes[start..<end])
    var done = 0
    while done < part.count {
      guard let count = try? logFile?.write(part, from: done), count > 0 else { return }
      done += count
    }
  }
}
