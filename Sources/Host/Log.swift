import Glibc
import Synchronization

/// What the program says: messages for the user on standard error, and the log of `-d` and `-D`. One line is one write, so that the lines
/// of several threads never mix.
package enum Log {
  private struct Format: Sendable {
    var program = "goliath"
    var timestamps = false
    var guestName: String?
  }
  private static let format = Mutex(Format())

  /// The name before each message: how the program was called.
  package static var programName: String {
    get { format.withLock { $0.program } }
    set { format.withLock { $0.program = newValue } }
  }

  /// `-msg`: what stands before the program's name in messages from now on. `guestName` is nil for none.
  package static func setMessageFormat(timestamps: Bool, guestName: String?) {
    format.withLock {
      $0.timestamps = timestamps
      $0.guestName = guestName
    }
  }

  // MARK: - Messages

  /// Writes `goliath: message`.
  package static func error(_ message: String) { line("\(programName): \(message)") }

  /// Writes `goliath: warning: message`.
  package static func warning(_ message: String) { line("\(programName): warning: \(message)") }

  /// Writes a line to standard error. One that begins with the program's name is a message and gets what `-msg` asks for.
  package static func line(_ text: String) {
    let format = format.withLock { $0 }
    var prefix = ""
    if format.timestamps || format.guestName != nil, text.hasPrefix(format.program + ":") {
      if format.timestamps { prefix = HostClock.timestamp + " " }
      if let guest = format.guestName { prefix += guest + " " }
    }
    emit(prefix + text + "\n", to: 2)
  }

  // MARK: - The log of -d

  // What is logged; read on hot paths, so no lock.
  private static let enabled = Atomic<UInt32>(0)
  private static let sink = Atomic<Int32>(2)

  /// What is logged now.
  package static var items: LogItems {
    LogItems(rawValue: enabled.load(ordering: .relaxed))
  }

  /// Whether any of `items` is logged: one relaxed load, for checks on hot paths.
  @inline(__always)
  package static func isEnabled(_ items: LogItems) -> Bool {
    enabled.load(ordering: .relaxed) & items.rawValue != 0
  }

  /// Logs `items` from now on; to standard error, or to `file`, whose name may hold one `%d` for the process's id.
  ///
  /// Throws `LogError` when the name has another `%`, or the file cannot be opened. Call it from one thread.
  package static func open(_ items: LogItems, file: String?) throws(LogError) {
    if let file, !items.isEmpty {
      let path = try path(file)
      do {
        let opened = try FileDescriptor.open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND)
        let old = sink.exchange(opened.release(), ordering: .acquiringAndReleasing)
        if old > 2 { _ = close(old) }
      } catch {
        throw LogError(message: "Error opening logfile \(path): \(error.reason)")
      }
    }
    enabled.store(items.rawValue, ordering: .releasing)
  }

  // Addresses of guest code that are logged (-dfilter); only asked when something is logged.
  private static let ranges = Mutex<[ClosedRange<UInt64>]>([])

  /// `-dfilter`: what is written about guest code is limited to these addresses; empty: no limit.
  package static var addressRanges: [ClosedRange<UInt64>] {
    get { ranges.withLock { $0 } }
    set { ranges.withLock { $0 = newValue } }
  }

  /// Whether `-dfilter` lets through what concerns guest code at linear address `address`.
  package static func includes(_ address: UInt64) -> Bool {
    ranges.withLock { ranges in
      ranges.isEmpty || ranges.contains { $0.contains(address) }
    }
  }

  /// Logs `text`, of one or several lines, when any of `items` is asked for.
  package static func write(_ items: LogItems, _ text: @autoclosure () -> String) {
    guard isEnabled(items) else { return }
    emit(text() + "\n", to: sink.load(ordering: .relaxed))
  }

  /// Writes a line of a trace event, which is asked for by other means than the log's items.
  static func writeTrace(_ text: String) { emit(text + "\n", to: sink.load(ordering: .relaxed)) }

  private static func path(_ template: String) throws(LogError) -> String {
    guard let percent = template.firstIndex(of: "%") else { return template }
    let rest = template[template.index(after: percent)...]
    guard rest.first == "d", !rest.contains("%") else {
      throw LogError(message: "Bad logfile template: \(template)")
    }
    return template[..<percent] + String(getpid()) + rest.dropFirst()
  }

  private static func emit(_ text: String, to descriptor: Int32) {
    let bytes = Array(text.utf8)
    // SAFETY: the pointer is used within the call and covers the array.
    _ = unsafe bytes.withUnsafeBytes { unsafe Glibc.write(descriptor, $0.baseAddress, $0.count) }
  }
}

/// The log cannot be opened as asked; `message` is the sentence for the user.
package struct LogError: Error, Equatable, Sendable {
  package let message: String
}

/// What can be logged: the words of `-d`.
package struct LogItems: OptionSet, Sendable {
  package let rawValue: UInt32
  package init(rawValue: UInt32) { self.rawValue = rawValue }

  /// Interrupts and exceptions.
  package static let interrupts = LogItems(rawValue: 1)
  /// What a guest does that hardware forbids.
  package static let guestErrors = LogItems(rawValue: 2)
  /// Accesses to what is not emulated.
  package static let unimplemented = LogItems(rawValue: 4)
  /// A CPU's state before its reset.
  package static let cpuReset = LogItems(rawValue: 8)
  /// Page faults and TLB maintenance.
  package static let mmu = LogItems(rawValue: 16)
  /// Far calls, returns and exceptions in protected mode.
  package static let protectedModeCalls = LogItems(rawValue: 32)
  /// The program counter before each block.
  package static let execution = LogItems(rawValue: 64)
  /// Registers before each block.
  package static let registers = LogItems(rawValue: 128)
  /// Guest instructions of each block when it is decoded or translated.
  package static let guestAssembly = LogItems(rawValue: 256)
  /// Host code of each translated block.
  package static let hostAssembly = LogItems(rawValue: 512)
  /// Blocks are not chained, so that `exec` and `cpu` miss none.
  package static let noChaining = LogItems(rawValue: 1024)
  /// `cpu` shows the floating-point and vector registers too.
  package static let floatingPoint = LogItems(rawValue: 2048)

  /// Trace events; which of them says `Trace`.
  package static let trace = LogItems(rawValue: 4096)

  /// The items by their words, as QEMU spells them.
  package static let names: [(name: String, item: LogItems)] = [
    ("int", .interrupts), ("guest_errors", .guestErrors), ("unimp", .unimplemented),
    ("cpu_reset", .cpuReset), ("mmu", .mmu), ("pcall", .protectedModeCalls),
    ("exec", .execution), ("cpu", .registers), ("in_asm", .guestAssembly),
    ("out_asm", .hostAssembly), ("nochain", .noChaining), ("fpu", .floatingPoint),
  ]

  /// The item of a word; nil for an unknown one.
  package init?(name: String) {
    guard let item = LogItems.names.first(where: { $0.name == name })?.item else { return nil }
    self = item
  }
}
