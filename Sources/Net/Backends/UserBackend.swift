package import Host
package import QAPI

/// `user`: a network of the process's own, with address translation, DHCP and name service, by libslirp.
@MainLoop
package final class UserBackend: NetBackend {
  private let configuration: SlirpStack.Configuration
  private var stack: SlirpStack?
  private var port: NetPort?
  private var watch: Watch?
  private var timer: HostTimer?
  private var isPosted = false
  private var targets: [Int: (rule: GuestForward, target: any ForwardTarget)] = [:]
  private var isRunning = false

  package init(_ id: String, _ options: NetdevUserOptions, in network: Network) throws(NetError) {
    configuration = try UserConfiguration.make(options)
    let forwards = try (options.hostfwd ?? []).map { (text) throws(NetError) in
      (text.str, try HostForward(text.str))
    }
    let guests = try (options.guestfwd ?? []).map { (text) throws(NetError) in
      (text.str, try GuestForward(text.str))
    }
    let details =
      "net=\(AddressText.text(configuration.network)),restrict=\(configuration.isRestricted ? "on" : "off")"
    let port = NetPort(id, kind: "user", details: details, owner: self)
    // The library takes TCP segments and datagrams of any size over IPv4; for IPv6 it looks at its MTU.
    port.accepts = [.tcp4, .udp]
    port.joinsSegments = true
    port.isTrusted = true
    self.port = port
    guard SlirpStack.isAvailable else {
      throw NetError("user networking needs libslirp.so.0 (Debian: libslirp0), which is not there")
    }
    var callbacks = SlirpStack.Callbacks()
    callbacks.frame = { [weak self] buffer, count in self?.deliver(buffer, count) }
    callbacks.complaint = { Log.write(.guestErrors, "user network \(id): \($0)") }
    callbacks.forwarded = { [weak self] rule, bytes in
      self?.targets[rule]?.target.write(bytes)
      // What is not taken now is never offered again.
      return bytes.count
    }
    guard let stack = SlirpStack(configuration, callbacks) else {
      throw NetError("user networking: libslirp refuses this configuration")
    }
    self.stack = stack
    for (text, forward) in forwards { try add(forward, text) }
    for (text, forward) in guests { try add(forward, text, network) }
    do throws(SystemError) {
      watch = try MainLoop.watch(stack.descriptor, .readable) { [weak self] _ in self?.run() }
    } catch { throw NetError("user networking: \(error.reason)") }
    timer = MainLoop.timers.makeTimer { [weak self] in MainLoop.assumeIsolated { self?.run() } }
    schedule()
  }

  package var ports: [NetPort] { port.map { [$0] } ?? [] }

  package func close() {
    watch?.cancel()
    watch = nil
    timer?.cancel()
    timer = nil
    for entry in targets.values { entry.target.close() }
    targets = [:]
    stack = nil
  }

  // MARK: - Rules

  /// Adds a forwarded port of the host; `text` is for the sentence.
  package func add(_ forward: HostForward, _ text: String) throws(NetError) {
    let guest = forward.guest == 0 ? configuration.dhcpStart : forward.guest
    let result =
      stack?.forwardHost(
        udp: forward.isUDP, host: forward.host, hostPort: forward.hostPort, guest: guest,
        guestPort: forward.guestPort) ?? 1
    if result != 0 { throw NetError("Could not set up host forwarding rule '\(text)'") }
    schedule()
  }

  /// Ends one; false when there is none.
  package func remove(_ forward: HostForward) -> Bool {
    stack?.unforwardHost(udp: forward.isUDP, host: forward.host, hostPort: forward.hostPort) == 0
  }

  private func add(
    _ forward: GuestForward, _ text: String, _ network: Network
  ) throws(NetError) {
    guard let stack else { return }
    let conflict = NetError("Conflicting/invalid host:port in guest forwarding rule '\(text)'")
    if forward.target.hasPrefix("cmd:") {
      let command = String(forward.target.dropFirst(4))
      if stack.forwardCommand(command, address: forward.address, port: forward.port) != 0 {
        throw conflict
      }
      return
    }
    let label = "guestfwd.tcp.\(forward.port)"
    let target: any ForwardTarget
    do throws(NetError) { target = try network.openForward(label, forward.target) } catch {
      throw NetError(
        "Could not open guest forwarding device '\(label)'",
        cause: error.message.isEmpty ? nil : error.message)
    }
    let number = targets.count + 1
    if stack.forwardGuest(rule: number, address: forward.address, port: forward.port) != 0 {
      target.close()
      throw conflict
    }
    targets[number] = (forward, target)
    target.attach(
      room: { [weak stack] in stack?.room(address: forward.address, port: forward.port) ?? 0 },
      deliver: { [weak self, weak stack] bytes in
        stack?.give(bytes, address: forward.address, port: forward.port)
        self?.schedule()
      },
      drained: { [weak self] in self?.port?.becomesReady() })
  }

  /// The table of connections.
  package var connections: String { stack?.connections ?? "" }

  // MARK: - Frames

  package func receive(_ frame: Frame, on port: NetPort) -> Bool {
    guard let stack else { return true }
    // libslirp has no way to wait for whoever takes the bytes of a forwarded connection: the guest has to.
    if !targets.isEmpty, targets.values.contains(where: { $0.target.isFull }) { return false }
    stack.input(frame.buffer, frame.range)
    schedule()
    return true
  }

  package func resumeSending(on port: NetPort) { schedule() }

  private func deliver(_ buffer: IOBuffer, _ count: Int) {
    port?.send(Frame(buffer, 0..<count))
    // Outside of a turn, in the midst of `receive`, nothing else would end the burst.
    if !isRunning { schedule() }
  }

  /// Runs the stack in the next turn of the main loop.
  private func schedule() {
    guard !isPosted, stack != nil else { return }
    isPosted = true
    MainLoop.post { [weak self] in
      self?.isPosted = false
      self?.run()
    }
  }

  /// Most rounds in one turn of the main loop, for the sake of others.
  private static let rounds = 8

  private func run() {
    guard let stack, let port else { return }
    isRunning = true
    defer { isRunning = false }
    var wait: Int64?
    for _ in 0..<UserBackend.rounds {
      // Nothing is read from sockets that the guest has no room for.
      guard !port.isWaiting else { break }
      let turn = stack.run()
      wait = turn.wait
      port.endBurst()
      guard turn.hasMore else { break }
      wait = 0
    }
    port.endBurst()
    if !targets.isEmpty { for entry in targets.values { entry.target.roomMayHaveGrown() } }
    if port.isWaiting {
      watch?.change(to: [])
      isPaused = true
      return
    }
    if isPaused {
      isPaused = false
      watch?.change(to: .readable)
    }
    if wait == 0 { return schedule() }
    if let wait {
      timer?.arm(at: HostClock.monotonic &+ wait &* 1_000_000)
    } else {
      timer?.cancel()
    }
  }

  /// The descriptor is not watched.
  private var isPaused = false
}
