import Glibc
import Host
import JSON

/// A node and the connection to its monitor. The fleet polls it; nothing here waits.
final class Node {
  /// How far the connection is.
  enum State: Equatable {
    case connecting
    /// Connected; greeting and negotiation, or the first prompt, are still to come.
    case greeting
    case ready
    /// Not connected: why, and when the next try is due (monotonic nanoseconds; nil: none).
    case down(String, retryAt: Int64?)
  }

  /// What became of a request.
  enum Outcome {
    case reply(QMPClientModel.Reply)
    case text(String)
    case timeout
    case interrupted
    case lost(String)
    case notConnected(String)
  }

  /// What a node tells its fleet.
  enum News {
    case ready(String)
    case event(JSONValue, raw: [UInt8])
    case text(String)
    case lateReply(QMPClientModel.Reply)
    case down(String, wasReady: Bool)
  }

  private enum Talk {
    case qmp(QMPClientModel)
    case human(HumanClientModel)
  }

  let address: NodeAddress
  let isHuman: Bool
  private let wantsOutOfBand: Bool
  private(set) var state = State.down("not connected yet", retryAt: nil)
  /// What the server said of itself: the greeting's `version`, or the banner.
  private(set) var version = ""
  private var talk: Talk
  private let credentials: TLSCredentials?
  private let hostName: String?
  private var session: TLSSession?
  /// QEMU before 8.0 takes one byte of a monitor's TLS record and then waits for the next record, so each byte must be one.
  private var sendsSingleBytes = false
  private var socket: Int32 = -1
  private var candidates: [ResolvedAddress] = []
  private var output: [UInt8] = []
  private var waiting: [Int: Int64] = [:]
  private var finished: [Int: (outcome: Outcome, nanoseconds: Int64)] = [:]
  private var backOff: Int64 = 0
  private var buffer = [UInt8](repeating: 0, count: 1 << 16)

  /// With `credentials` the connection is TLS; the server's certificate must be for `hostName`, or, without one, for the host of the
  /// address.
  init(
    _ address: NodeAddress, isHuman: Bool, outOfBand: Bool, credentials: TLSCredentials? = nil,
    hostName: String? = nil
  ) {
    self.address = address
    self.credentials = credentials
    if case .inet(let inet) = address.socket {
      self.hostName = hostName ?? inet.host
    } else {
      self.hostName = hostName
    }
    self.isHuman = isHuman
    wantsOutOfBand = outOfBand
    talk = .human(HumanClientModel())
  }

  deinit { if socket >= 0 { FileDescriptor(owning: socket).close() } }

  var name: String { address.name }

  /// Whether `exec-oob` was negotiated.
  var allowsOutOfBand: Bool {
    if case .qmp(let model) = talk { return model.allowsOutOfBand }
    return false
  }

  /// What to poll for; nil when there is nothing.
  var pollEntry: PollEntry? {
    guard socket >= 0 else { return nil }
    if state == .connecting { return PollEntry(socket, .writable) }
    return PollEntry(socket, output.isEmpty ? .readable : [.readable, .writable])
  }

  // MARK: - Connecting

  /// Starts to connect. The news say how it went on.
  func connect() -> [News] {
    talk =
      isHuman ? .human(HumanClientModel()) : .qmp(QMPClientModel(outOfBand: wantsOutOfBand))
    output = []
    do throws(SocketError) {
      if case .descriptor = address.socket {
        let descriptor = try Socket.connect(address.socket)
        socket = descriptor.release()
        return begin()
      }
      candidates = try Socket.candidates(address.socket).addresses
    } catch {
      return close("\(error.message)")
    }
    return connectNext("No such file or directory")
  }

  private func connectNext(_ reason: String) -> [News] {
    var reason = reason
    while !candidates.isEmpty {
      let candidate = candidates.removeFirst()
      do throws(SystemError) {
        let (number, isPending) = try Socket.startConnecting(candidate)
        socket = number
        state = .connecting
        return isPending ? [] : begin()
      } catch { reason = error.reason }
    }
    return close("cannot connect to \(address.socket.text): \(reason)")
  }

  /// The transport is there: the server, or TLS, speaks next.
  private func begin() -> [News] {
    Socket.setNoDelay(socket)
    state = .greeting
    guard let credentials else { return [] }
    do throws(TLSError) {
      let session = try TLSSession(credentials, hostName: hostName)
      self.session = session
      _ = try session.receive([])
      output += session.takeOutput()
    } catch { return close("TLS: \(error.message)") }
    return flush()
  }

  /// Puts bytes into the output, encrypted where the connection is.
  private func queue(_ bytes: [UInt8]) throws(TLSError) {
    guard let session else {
      output += bytes
      return
    }
    defer { output += session.takeOutput() }
    guard sendsSingleBytes else { return try session.send(bytes) }
    for byte in bytes { try session.send([byte]) }
  }

  /// Ends the connection, if there is one, and everything that waits for it.
  func close(_ reason: String) -> [News] {
    let wasReady = state == .ready
    if socket >= 0 { FileDescriptor(owning: socket).close() }
    socket = -1
    session = nil
    backOff = wasReady ? 100_000_000 : min(max(backOff * 2, 100_000_000), 5_000_000_000)
    state = .down(reason, retryAt: HostClock.monotonic &+ backOff)
    let now = HostClock.monotonic
    for (token, start) in waiting { finished[token] = (.lost(reason), now &- start) }
    waiting = [:]
    return [.down(reason, wasReady: wasReady)]
  }

  // MARK: - Requests

  /// Sends a request or a line; the outcome will be told for `token`.
  func send(_ action: Action, token: Int, passing file: Int32? = nil) -> [News] {
    let now = HostClock.monotonic
    guard state == .ready else {
      var reason = "not connected"
      if case .down(let why, _) = state { reason = why }
      finished[token] = (.notConnected(reason), 0)
      return []
    }
    var bytes: [UInt8] = []
    switch (talk, action) {
    case (.qmp(var model), .request(let request)):
      bytes = model.send(request, token: token)
      talk = .qmp(model)
    case (.human(var model), .human(let line)):
      bytes = model.send(line, token: token)
      talk = .human(model)
    default:
      finished[token] = (.notConnected("the monitor does not take such a line"), 0)
      return []
    }
    waiting[token] = now
    let isFirst = output.isEmpty
    do throws(TLSError) { try queue(bytes) } catch { return close("TLS: \(error.message)") }
    if let file, isFirst {
      do throws(SystemError) {
        output.removeFirst(try Socket.send(socket, output, passing: file))
      } catch { return close("the connection ended: \(error.reason)") }
    }
    return flush()
  }

  /// Takes the outcome of a request, once it is there.
  func takeOutcome(_ token: Int) -> (outcome: Outcome, nanoseconds: Int64)? {
    finished.removeValue(forKey: token)
  }

  /// Nobody waits any more.
  func abandon(_ token: Int) {
    waiting[token] = nil
    finished[token] = nil
    switch talk {
    case .qmp(var model):
      model.abandon(token)
      talk = .qmp(model)
    case .human(var model):
      model.abandon(token)
      talk = .human(model)
    }
  }

  // MARK: - Descriptor

  /// Acts on what the descriptor is ready for.
  func handle(_ ready: Readiness) -> [News] {
    if ready.isEmpty || socket < 0 { return [] }
    if state == .connecting {
      let code = Socket.connectResult(socket)
      if code == 0 { return begin() }
      FileDescriptor(owning: socket).close()
      socket = -1
      return connectNext(SystemError(call: "connect", code: code).reason)
    }
    var news: [News] = []
    if ready.contains(.writable) { news += flush() }
    if socket >= 0, !ready.isDisjoint(with: [.readable, .hungUp]) { news += receive() }
    return news
  }

  private func flush() -> [News] {
    guard socket >= 0, !output.isEmpty else { return [] }
    // A server that has left is noticed when reading: what it sent before may tell why.
    guard let count = try? Socket.send(socket, output, from: 0) else {
      output = []
      return []
    }
    output.removeFirst(count)
    return []
  }

  private func receive() -> [News] {
    var news: [News] = []
    do throws(SystemError) {
      while socket >= 0, let (count, descriptors) = try Socket.receive(socket, into: &buffer) {
        for number in descriptors { FileDescriptor(owning: number).close() }
        if count == 0 {
          let greeting = state == .ready ? "" : " before it greeted"
          news += close("the server closed the connection\(greeting)")
          break
        }
        if let session {
          news += decrypt(Array(buffer[..<count]), session)
        } else {
          news += take(buffer[..<count])
        }
        if count < buffer.count { break }
      }
    } catch {
      news += close("the connection ended: \(error.reason)")
    }
    return news
  }

  private func decrypt(_ bytes: [UInt8], _ session: TLSSession) -> [News] {
    let plain: [UInt8]
    do throws(TLSError) { plain = try session.receive(bytes) } catch {
      // The alert tells the server why.
      output += session.takeOutput()
      return flush() + close("TLS: \(error.message)")
    }
    output += session.takeOutput()
    var news = plain.isEmpty ? [] : take(plain[...])
    if socket >= 0 { news += flush() }
    if socket >= 0, session.phase == .ended { news += close("the server ended the TLS session") }
    return news
  }

  private func take(_ bytes: ArraySlice<UInt8>) -> [News] {
    switch talk {
    case .qmp(var model):
      let items = model.receive(bytes)
      talk = .qmp(model)
      return items.flatMap { take($0, model) }
    case .human(var model):
      let items = model.receive(bytes)
      talk = .human(model)
      return items.flatMap(take)
    }
  }

  private func take(_ item: QMPClientModel.Item, _ model: QMPClientModel) -> [News] {
    switch item {
    case .greeting(let greeting):
      version = Node.version(greeting)
      sendsSingleBytes = Node.isOldQEMU(greeting)
      do throws(TLSError) { try queue(model.negotiation) } catch {
        return close("TLS: \(error.message)")
      }
      return flush()
    case .ready: return becomeReady()
    case .reply(let token?, let reply):
      finish(token, .reply(reply))
      return []
    case .reply(nil, let reply): return [.lateReply(reply)]
    case .event(let event, let raw): return [.event(event, raw: raw)]
    case .broken(let reason): return close(reason)
    }
  }

  private func take(_ item: HumanClientModel.Item) -> [News] {
    switch item {
    case .ready(let banner):
      sendsSingleBytes = true  // The banner does not tell QEMU from others.
      version = banner.split(separator: "\n").first.map(String.init) ?? ""
      return becomeReady()
    case .answer(let token?, let text):
      finish(token, .text(text))
      return []
    case .answer(nil, let text): return [.text(text)]
    case .text(let text): return [.text(text)]
    case .broken(let reason): return close(reason)
    }
  }

  private func becomeReady() -> [News] {
    state = .ready
    backOff = 0
    return [.ready(version)]
  }

  private func finish(_ token: Int, _ outcome: Outcome) {
    guard let start = waiting.removeValue(forKey: token) else { return }
    finished[token] = (outcome, HostClock.monotonic &- start)
  }

  private static func isOldQEMU(_ greeting: JSONValue) -> Bool {
    let version = greeting["version"]
    return version?["qemu"]?["major"]?.intValue ?? 0 < 8
      && version?["package"]?.stringValue?.hasPrefix("Goliath") != true
  }

  /// `QEMU 7.2.22 (package)` out of a greeting.
  private static func version(_ greeting: JSONValue) -> String {
    let version = greeting["version"]
    let numbers = ["major", "minor", "micro"].compactMap { version?["qemu"]?[$0]?.intValue }
    let package = version?["package"]?.stringValue ?? ""
    let text = "QEMU " + numbers.map { "\($0)" }.joined(separator: ".")
    return Style.harmless(package.isEmpty ? text : "\(text) (\(package))")
  }
}
