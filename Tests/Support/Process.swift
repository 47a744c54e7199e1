package import Glibc
package import Host
import Synchronization

/// Another program, run by a test.
package final class Process: Sendable {
  package let id: pid_t
  /// The reading end of the program's standard output, and of its standard error when they were joined.
  package let output: Int32
  /// The writing end of its standard input.
  package let input: Int32
  private let ended = Mutex<Int32?>(nil)
  private let collected = Mutex<[UInt8]>([])

  /// What a finished program left.
  package struct Result: Sendable {
    /// Exit status, or 128 plus the signal's number.
    package let status: Int32
    package let text: String
  }

  package static func isThere(_ path: String) -> Bool {
    unsafe access(path, F_OK) == 0  // SAFETY: the string lives through the call.
  }

  /// Where `name` is in the usual folders; nil when it is not installed.
  package static func find(_ name: String) -> String? {
    let folders = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
    var path = folders
    // SAFETY: the environment's string is copied at once.
    if let variable = unsafe getenv("PATH") {
      path = unsafe String(cString: variable).split(separator: ":").map(String.init) + folders
    }
    return path.map { "\($0)/\(name)" }.first(where: isThere)
  }

  /// Starts `arguments[0]` with standard output (and standard error, when `joinErrors`) on a pipe. Throws `SystemError`.
  package init(_ arguments: [String], joinErrors: Bool = true, folder: String? = nil)
    throws(SystemError)
  {
    var out: [Int32] = [-1, -1]
    var into: [Int32] = [-1, -1]
    // SAFETY: arrays of two, as pipe wants them.
    guard unsafe pipe(&out) == 0, unsafe pipe(&into) == 0 else {
      throw SystemError(call: "pipe", code: errno)
    }
    for end in out + into { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
    let arguments = folder.map { ["/usr/bin/env", "-C", $0] + arguments } ?? arguments
    var actions = unsafe posix_spawn_file_actions_t()
    unsafe posix_spawn_file_actions_init(&actions)
    defer { unsafe posix_spawn_file_actions_destroy(&actions) }
    unsafe posix_spawn_file_actions_adddup2(&actions, into[0], 0)
    unsafe posix_spawn_file_actions_adddup2(&actions, out[1], 1)
    if joinErrors { unsafe posix_spawn_file_actions_adddup2(&actions, out[1], 2) }
    // SAFETY: the strings are copied for the call and freed behind it.
    var strings = unsafe arguments.map { unsafe strdup($0) } + [nil]
    defer {
      for index in unsafe strings.indices { unsafe free(strings[index]) }
    }
    // A test runs on a thread that blocks nearly all signals, in a job that may ignore some: a program must not inherit that.
    var attributes = unsafe posix_spawnattr_t()
    unsafe posix_spawnattr_init(&attributes)
    defer { unsafe posix_spawnattr_destroy(&attributes) }
    var none = sigset_t()
    var usual = sigset_t()
    // SAFETY: all work on locals.
    unsafe sigemptyset(&none)
    unsafe sigemptyset(&usual)
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGPIPE, SIGTERM, SIGUSR1, SIGUSR2] {
      unsafe sigaddset(&usual, signal)
    }
    unsafe posix_spawnattr_setsigmask(&attributes, &none)
    unsafe posix_spawnattr_setsigdefault(&attributes, &usual)
    unsafe posix_spawnattr_setflags(
      &attributes, Int16(POSIX_SPAWN_SETSIGMASK) | Int16(POSIX_SPAWN_SETSIGDEF))
    var child: pid_t = 0
    let code = unsafe posix_spawnp(&child, arguments[0], &actions, &attributes, &strings, environ)
    close(out[1])
    close(into[0])
    guard code == 0 else {
      close(out[0])
      close(into[1])
      throw SystemError(call: "posix_spawn \(arguments[0])", code: code)
    }
    id = child
    output = out[0]
    input = into[1]
  }

  deinit {
    kill(signal: SIGKILL)
    _ = wait(seconds: 5)
    close(output)
    close(input)
  }

  /// Runs a program to its end, at most `seconds`. Throws `SystemError` when it cannot be started.
  package static func output(
    _ arguments: [String], joinErrors: Bool = true, seconds: Double = 60, folder: String? = nil
  ) throws(SystemError) -> Result {
    let process = try Process(arguments, joinErrors: joinErrors, folder: folder)
    _ = process.readUntil(seconds: seconds) { _ in false }
    let status = process.wait(seconds: 5) ?? -1
    return Result(status: status, text: process.text)
  }

  /// A variable of this process's environment.
  package static func environment(_ name: String) -> String? {
    unsafe getenv(name).map { unsafe String(cString: $0) }  // SAFETY: copied at once.
  }

  /// Makes a file with these bytes. Throws `SystemError`.
  package static func createFile(_ bytes: [UInt8], at path: String) throws(SystemError) {
    let file = try FileDescriptor.open(path, O_WRONLY | O_CREAT | O_TRUNC)
    var done = 0
    while done < bytes.count { done += try file.write(bytes, from: done) }
  }

  package func kill(signal: Int32) {
    ended.withLock { if $0 == nil { _ = Glibc.kill(id, signal) } }
  }

  /// All output so far.
  package var text: String { String(decoding: collected.withLock { $0 }, as: UTF8.self) }

  /// Writes to the program's standard input.
  package func send(_ text: String) {
    let bytes = Array(text.utf8)
    // SAFETY: the pointer is used within the call and covers the array.
    _ = unsafe bytes.withUnsafeBytes { unsafe write(input, $0.baseAddress, $0.count) }
  }

  /// Reads until all output satisfies `done`, the program closes its output, or time is up. Answers whether `done` held.
  package func readUntil(seconds: Double, _ done: (String) -> Bool) -> Bool {
    let limit = HostClock.monotonic + Int64(seconds * 1e9)
    var chunk = [UInt8](repeating: 0, count: 65536)
    while true {
      if done(text) { return true }
      let left = limit - HostClock.monotonic
      if left <= 0 { return false }
      var poller = pollfd(fd: output, events: Int16(POLLIN), revents: 0)
      // SAFETY: one element, as said.
      let ready = unsafe poll(&poller, 1, Int32(min(left / 1_000_000 + 1, 1000)))
      if ready <= 0 { continue }
      // SAFETY: the kernel fills at most the array's size.
      let count = unsafe chunk.withUnsafeMutableBytes {
        unsafe read(output, $0.baseAddress, $0.count)
      }
      if count <= 0 { return done(text) }
      collected.withLock { $0.append(contentsOf: chunk[..<count]) }
    }
  }

  /// Waits for the output to contain `part`.
  package func expect(_ part: String, seconds: Double) -> Bool {
    readUntil(seconds: seconds) { $0.contains(part) }
  }

  /// Waits for the end: exit status, or 128 plus the signal's number; nil when it still runs.
  package func wait(seconds: Double) -> Int32? {
    let limit = HostClock.monotonic + Int64(seconds * 1e9)
    while true {
      let status: Int32? = ended.withLock { ended in
        if let ended { return ended }
        var raw: Int32 = 0
        // SAFETY: fills a local.
        guard unsafe waitpid(id, &raw, WNOHANG) == id else { return nil }
        ended = raw & 0x7F == 0 ? raw >> 8 & 0xFF : 128 + (raw & 0x7F)
        return ended
      }
      if let status { return status }
      if HostClock.monotonic > limit { return nil }
      usleep(2000)
    }
  }

  /// User and system time of the ended children of this process so far, in seconds.
  package static var childrenCPUSeconds: Double {
    var usage = rusage()
    // SAFETY: fills a local.
    _ = unsafe getrusage(RUSAGE_CHILDREN.rawValue, &usage)
    let seconds = usage.ru_utime.tv_sec + usage.ru_stime.tv_sec
    return Double(seconds) + Double(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6
  }
}
