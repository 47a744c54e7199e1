package import Host
package import QAPI

/// All character devices of the process, by label, in order of creation.
@MainLoop
package final class ChardevRegistry {
  /// Label, kind and address, and whether a frontend is attached: `query-chardev`'s answer.
  package struct Info: Equatable, Sendable {
    package let label: String
    package let filename: String
    package let isFrontendOpen: Bool
  }

  private var devices: [Chardev] = []
  /// Labels in QEMU's order.
  private var order = HashOrder()
  private var waiters: [() -> Void] = []
  /// The multiplexers' escape key (`-echr`); nil for none.
  package var muxEscape: UInt8? = 1
  /// What C-a x and C-a s ask of the machine.
  package var onMuxCommand: (MuxCommand) -> Void = { _ in }
  /// Lines for standard output, such as where a pty is.
  package var onNotice: (String) -> Void = { _ in }
  /// Lines for standard error: label and text, such as whom start-up waits for.
  package var onReport: (_ label: String, _ text: String) -> Void = { _, _ in }

  /// What the guest's `testdev` asks for: the end of the process with this status.
  package var onTestExit: (Int32) -> Void = { _ in }
  /// Descriptors that monitors were given by name (`getfd`), for `fd=NAME`; the caller owns what it gets.
  package var descriptorNamed: (String) -> Int32? = { _ in nil }

  /// The TLS credentials of an object, for `tls-creds=ID`. Throws `ChardevError` with QEMU's sentences.
  package var credentialsNamed: (String) throws(ChardevError) -> TLSCredentials = {
    id throws(ChardevError) in
    throw ChardevError(.notFound, "No TLS credentials with id '\(id)'")
  }

  /// Whether an authorisation object (`tls-authz=ID`) lets a peer of this name in. Throws `TLSError` when there is none of that id.
  package var isAuthorised: (_ id: String, _ name: String) throws(TLSError) -> Bool = {
    id, _ throws(TLSError) in
    throw TLSError("Cannot find QAuthZ object ID \(id)")
  }

  package init() {}

  /// The device of that label.
  package subscript(label: String) -> Chardev? { devices.first { $0.label == label } }

  /// Every device, in the order in which QEMU lists them.
  package var list: [Info] {
    order.names.reversed().compactMap { self[$0] }.map {
      Info(label: $0.label, filename: $0.filename, isFrontendOpen: $0.isShownOpen)
    }
  }

  /// The labels of all devices, in order of creation.
  package var labels: [String] { devices.map(\.label) }

  /// Removes a device that no frontend uses. Throws `notFound` or `inUse`.
  package func remove(_ label: String) throws(ChardevError) {
    guard let index = devices.firstIndex(where: { $0.label == label }) else {
      throw ChardevError(.notFound, "Chardev '\(label)' not found")
    }
    guard !devices[index].isFrontendOpen else {
      throw ChardevError(.inUse, "Chardev '\(label)' is busy")
    }
    order.remove(label)
    devices.remove(at: index).remove()
  }

  /// Makes a device another one, without taking it from its user. Throws when there is none, it is a multiplexer, its user cannot
  /// go on with another one, or the new one cannot be made (then the old one stays if it has a user, as with QEMU).
  @discardableResult
  package func change(_ label: String, _ backend: ChardevBackend) throws(ChardevError) -> Chardev {
    guard let device = self[label] else {
      throw ChardevError(.notFound, "Chardev '\(label)' does not exist")
    }
    guard !device.isMultiplexed else {
      throw ChardevError(.unsupported, "Mux device hotswap not supported yet")
    }
    guard device.isFrontendOpen else {
      try remove(label)
      do throws(ChardevError) { return try create(label, backend, isRunning: true) } catch {
        throw ChardevError(error.kind, "Failed to add chardev '\(label)': \(error.message)")
      }
    }
    guard device.canChange else {
      throw ChardevError(.unsupported, "Chardev user does not support chardev hotswap")
    }
    if case .mux = backend {
      throw ChardevError(.unsupported, "Mux device hotswap not supported yet")
    }
    let log = try openLog(backend)
    device.change(to: try makeTransport(label, backend, isRunning: true), log: log)
    order.remove(label)
    order.insert(label)
    return device
  }

  /// Runs `body` when every device that start-up waits for (`wait=on`) has its client: at once when there is none.
  package func whenConnected(_ body: @escaping () -> Void) {
    let missing = devices.filter { $0.transport.isWaitingForClient }
    if missing.isEmpty { return body() }
    for device in missing {
      onReport(device.label, "info: QEMU waiting for connection on: \(device.filename)")
    }
    waiters.append(body)
  }

  /// Sends what is queued, closes everything, removes sockets from the file system, restores the terminal.
  /// At the end of the process.
  package func shutDown() {
    // Multiplexers first: their output goes through other devices.
    for device in devices.reversed() { device.shutDown() }
    devices = []
    Terminal.restore()
  }

  // MARK: - Construction

  /// Throws when the label is taken.
  func checkLabel(_ label: String) throws(ChardevError) {
    if self[label] != nil {
      throw ChardevError(.inUse, "Chardev with id '\(label)' already exists")
    }
  }

  /// Enters a device; `log` receives a copy of its output.
  @discardableResult
  func add(
    _ label: String, _ transport: any ChardevTransport, mux: MuxModel? = nil,
    log: consuming FileDescriptor? = nil, isRunning: Bool = false
  ) -> Chardev {
    let device = Chardev(label: label, transport: transport, mux: mux, log: log)
    device.onMuxCommand = { [weak self] in self?.onMuxCommand($0) }
    device.onOpened = { [weak self] in self?.checkWaiters() }
    devices.append(device)
    order.insert(label)
    // Who makes one while the machine runs gets the path as an answer.
    if !isRunning, let path = device.pseudoTerminalPath {
      onNotice("char device redirected to \(path) (label \(label))")
    }
    return device
  }

  private func checkWaiters() {
    guard !waiters.isEmpty, devices.allSatisfy({ !$0.transport.isWaitingForClient }) else { return }
    for waiter in exchange(&waiters, with: []) { waiter() }
  }
}
