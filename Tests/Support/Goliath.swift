import Glibc
package import Host
package import JSON
import Synchronization

/// A running `goliath` with a QMP socket, as the end-to-end tests drive it.
package final class Goliath: Sendable {
  package let process: Process
  package let qmpPath: String
  /// A folder of this run's own; gone with it.
  package let folder: String

  /// The program under test: beside the test bundle.
  package static let path = program("goliath")

  /// A program of this package: beside the test bundle, or the release build's.
  package static func program(_ name: String) -> String {
    var buffer = [UInt8](repeating: 0, count: 4096)
    // SAFETY: the kernel fills at most the array's size.
    let count = unsafe buffer.withUnsafeMutableBytes {
      guard let start = unsafe $0.bindMemory(to: CChar.self).baseAddress else { return -1 }
      return unsafe readlink("/proc/self/exe", start, $0.count)
    }
    let own = String(decoding: buffer[..<max(count, 0)], as: UTF8.self)
    let beside = own.split(separator: "/").dropLast().map { "/\($0)" }.joined() + "/\(name)"
    return Process.isThere(beside) ? beside : Checkout.root + "/.build/release/\(name)"
  }

  /// Made by this process; what nobody has removed goes at its end.
  private static let folders: Mutex<[String]> = {
    atexit {
      let left = Goliath.folders.withLock { $0 }.filter(Process.isThere)
      if !left.isEmpty { _ = try? Process.output(["rm", "-rf"] + left) }
    }
    return Mutex([])
  }()

  /// A new folder under the temporary folder, for this process's life at most.
  package static func temporaryFolder() -> String {
    let base = unsafe getenv("TMPDIR").map { unsafe String(cString: $0) } ?? "/tmp"
    var template = Array("\(base)/goliath-test-XXXXXX".utf8CString)
    // SAFETY: a mutable copy of the template, as mkdtemp wants it.
    return unsafe template.withUnsafeMutableBufferPointer { buffer in
      guard let start = buffer.baseAddress, let made = unsafe mkdtemp(start) else {
        return base
      }
      let folder = unsafe String(cString: made)
      folders.withLock { $0.append(folder) }
      return folder
    }
  }

  /// Starts the program with a QMP socket beside `arguments`; its serial output, if on stdio, is the process's output.
  /// `wrapper` is a program, with its own arguments, that becomes it in the end.
  package init(_ arguments: [String], wrapper: [String] = []) throws(SystemError) {
    folder = Goliath.temporaryFolder()
    qmpPath = folder + "/qmp"
    process = try Process(
      wrapper + [Goliath.path] + arguments + ["-qmp", "unix:\(qmpPath),server=on,wait=off"])
  }

  deinit {
    process.kill(signal: SIGKILL)
    _ = process.wait(seconds: 5)
    _ = try? Process.output(["rm", "-rf", folder])
  }

  /// Connects to the QMP socket, which appears within `seconds`, and negotiates. Throws `SystemError` when it does not.
  package func connect(seconds: Double = 20) throws(SystemError) -> QMPClient {
    try QMPClient(path: qmpPath, seconds: seconds)
  }
}

/// A plain QMP client for tests: one connection, commands and events in order.
package final class QMPClient: Sendable {
  private let socket: FileDescriptor
  private struct State {
    var framer = JSONFramer()
    var messages: [JSONValue] = []
    var events: [JSONValue] = []
  }
  private let state = Mutex(State())
  /// The greeting.
  package let greeting: JSONValue

  /// Connects and waits for the greeting; negotiates unless told not to. Throws `SystemError`.
  package init(path: String, seconds: Double = 20, negotiate: Bool = true) throws(SystemError) {
    let limit = HostClock.monotonic + Int64(seconds * 1e9)
    while true {
      let number: Int32 = try SystemError.check("socket") { () -> Int32 in
        Glibc.socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
      }
      let candidate = FileDescriptor(owning: number)
      if QMPClient.connect(number, path) == 0 {
        socket = candidate
        break
      }
      let code = errno
      if HostClock.monotonic > limit { throw SystemError(call: "connect \(path)", code: code) }
      usleep(5000)
    }
    greeting = try QMPClient.next(socket, state, seconds: seconds)
    if negotiate { _ = try run("qmp_capabilities") }
  }

  private static func connect(_ number: Int32, _ path: String) -> Int32 {
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    let bytes = Array(path.utf8.prefix(107))
    // SAFETY: at most 107 bytes into a field of 108 that is zero.
    unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: bytes) }
    // SAFETY: the address outlives the call.
    return unsafe withUnsafePointer(to: &address) {
      unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        unsafe Glibc.connect(number, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
  }

  /// Sends bytes as they are.
  package func send(_ text: String) throws(SystemError) { _ = try socket.write(Array(text.utf8)) }

  /// Runs a command and answers its reply: an object with `return` or `error`. Events before it are kept. Throws `SystemError`.
  package func run(
    _ command: String, _ arguments: String = "{}", seconds: Double = 30
  ) throws(SystemError) -> JSONValue {
    try send("{\"execute\":\"\(command)\",\"arguments\":\(arguments)}")
    while true {
      let message = try receive(seconds: seconds)
      if message["event"] == nil { return message }
      state.withLock { $0.events.append(message) }
    }
  }

  /// The next message of any kind. Throws `SystemError` with `ETIMEDOUT` or, at the end, `ECONNRESET`.
  package func receive(seconds: Double = 30) throws(SystemError) -> JSONValue {
    try QMPClient.next(socket, state, seconds: seconds)
  }

  /// Waits for an event with this name; takes kept ones first.
  package func event(_ name: String, seconds: Double = 60) throws(SystemError) -> JSONValue {
    let limit = HostClock.monotonic + Int64(seconds * 1e9)
    while true {
      let kept: JSONValue? = state.withLock { state in
        guard let index = state.events.firstIndex(where: { $0["event"]?.stringValue == name })
        else {
          return nil
        }
        return state.events.remove(at: index)
      }
      if let kept { return kept }
      let message = try receive(seconds: Double(limit - HostClock.monotonic) / 1e9)
      if message["event"] != nil { state.withLock { $0.events.append(message) } }
    }
  }

  private static func next(
    _ socket: borrowing FileDescriptor, _ state: borrowing Mutex<State>, seconds: Double
  ) throws(SystemError) -> JSONValue {
    let limit = HostClock.monotonic + Int64(seconds * 1e9)
    var chunk = [UInt8](repeating: 0, count: 65536)
    while true {
      let ready: JSONValue? = state.withLock {
        $0.messages.isEmpty ? nil : $0.messages.removeFirst()
      }
      if let ready { return ready }
      let left = limit - HostClock.monotonic
      if left <= 0 { throw SystemError(call: "QMP", code: ETIMEDOUT) }
      var poller = pollfd(fd: socket.rawValue, events: Int16(POLLIN), revents: 0)
      // SAFETY: one element, as said.
      if unsafe poll(&poller, 1, Int32(min(left / 1_000_000 + 1, 1000))) <= 0 { continue }
      let count = try socket.read(into: &chunk)
      if count == 0 { throw SystemError(call: "QMP", code: ECONNRESET) }
      let bytes = chunk[..<count]
      state.withLock { state in
        state.framer.feed(bytes)
        while let next = state.framer.nextValue() {
          if case .success(let value) = next { state.messages.append(value) }
        }
      }
    }
  }
}
