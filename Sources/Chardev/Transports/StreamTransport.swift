import Glibc
import Host

/// Devices that are open descriptors for their whole life: `file`, `pipe`, `stdio`, `serial`.
@MainLoop
final class StreamTransport: ChardevTransport {
  let filename: String
  private let stream: DescriptorStream
  private weak var device: Chardev?
  private let atEnd: () -> Void
  /// The serial line that `setLine` is for.
  private let line: Int32?

  private init(
    _ filename: String, _ stream: DescriptorStream, line: Int32? = nil,
    atEnd: @escaping () -> Void = {}
  ) {
    self.line = line
    self.filename = filename
    self.stream = stream
    self.atEnd = atEnd
  }

  func start(_ device: Chardev) {
    self.device = device
    stream.onBytes = { [weak device] bytes, _ in device?.transportReceived(bytes) }
    stream.onDrained = { [weak device] in device?.transportDrained() }
    stream.setReceiving(true)
    MainLoop.post { [weak device] in device?.transportOpened() }
  }

  func write(_ bytes: [UInt8], from start: Int) -> Int { stream.write(bytes, from: start) }
  func setReceiving(_ on: Bool) { stream.setReceiving(on) }

  func setLine(_ settings: ChardevLine) {
    guard let line else { return }
    // A line that cannot do it stays as it is.
    try? Terminal.setSerial(
      line, speed: settings.speed, dataBits: settings.dataBits, parity: settings.parity,
      stopBits: settings.stopBits)
    Terminal.setBreak(line, settings.isSendingBreak)
  }

  func drain(_ bytes: [UInt8]) { stream.drain(bytes, milliseconds: 500) }

  func shutDown() {
    stream.stop()
    atEnd()
  }

  // MARK: - Kinds

  /// `file`: output to `out`, input from `input` when given.
  static func file(
    input: String?, out: String, isAppending: Bool
  ) throws(ChardevError) -> StreamTransport {
    let flags = O_WRONLY | O_CREAT | (isAppending ? O_APPEND : O_TRUNC)
    let output = try open(out, flags)
    guard let input else {
      return StreamTransport("file", DescriptorStream(input: nil, output: output))
    }
    let source = try open(input, O_RDONLY | O_NONBLOCK)
    return StreamTransport("file", DescriptorStream(input: source, output: output))
  }

  /// `pipe`: the FIFOs `path.in` and `path.out`, else the one FIFO `path`.
  static func pipe(path: String) throws(ChardevError) -> StreamTransport {
    // Opened for both directions, so that neither waits for, nor ends with, the other side.
    let flags = O_RDWR | O_NONBLOCK
    if let input = try? FileDescriptor.open(path + ".in", flags),
      let output = try? FileDescriptor.open(path + ".out", flags)
    {
      return StreamTransport("pipe", DescriptorStream(input: input, output: output))
    }
    let both = try open(path, flags)
    return StreamTransport("pipe", DescriptorStream(both: both, isSocket: false))
  }

  /// `serial`: a line of the host, 115200 baud at first.
  static func serialLine(path: String) throws(ChardevError) -> StreamTransport {
    let line = try open(path, O_RDWR | O_NONBLOCK | O_NOCTTY)
    let number = line.rawValue
    try? Terminal.setSerial(number, speed: 115_200)
    return StreamTransport(
      "serial", DescriptorStream(both: line, isSocket: false), line: number)
  }

  /// `parallel`: a parallel port of the host (ppdev), claimed for as long as the device lives.
  static func parallelPort(path: String) throws(ChardevError) -> StreamTransport {
    let port = try open(path, O_RDWR | O_NONBLOCK)
    let number = port.rawValue
    do { try Terminal.claimParallelPort(number) } catch {
      throw ChardevError(.cannotOpen, "not a parallel port: \(error.reason)")
    }
    return StreamTransport("parallel", DescriptorStream(both: port, isSocket: false)) {
      Terminal.releaseParallelPort(number)
    }
  }

  private static var isStandardIOTaken = false

  /// `stdio`: the process's own input and output; a terminal is in raw mode meanwhile.
  ///
  /// - Parameter signals: whether ^C and its like still raise signals.
  static func standardIO(signals: Bool) throws(ChardevError) -> StreamTransport {
    guard !isStandardIOTaken else {
      throw ChardevError(.inUse, "cannot use stdio by multiple character devices")
    }
    do throws(SystemError) {
      let input = try duplicate(STDIN_FILENO)
      let output = try Descriptors.reopenForWriting(STDOUT_FILENO)
      isStandardIOTaken = true
      if Terminal.isTerminal(STDIN_FILENO) {
        Terminal.makeRaw(STDIN_FILENO, signals: signals)
      }
      return StreamTransport("stdio", DescriptorStream(input: input, output: output)) {
        Terminal.restore()
        isStandardIOTaken = false
      }
    } catch {
      throw ChardevError(.cannotOpen, "cannot use stdio: \(error.reason)")
    }
  }

  private static func duplicate(_ number: Int32) throws(SystemError) -> FileDescriptor {
    let copy: Int32 = try SystemError.check("fcntl") { () -> Int32 in
      fcntl(number, F_DUPFD_CLOEXEC, 3)
    }
    return FileDescriptor(owning: copy)
  }

  private static func open(
    _ path: String, _ flags: Int32
  ) throws(ChardevError) -> FileDescriptor {
    do { return try FileDescriptor.open(path, flags | O_NOCTTY) } catch {
      throw ChardevError(.cannotOpen, "Could not open '\(path)': \(error.reason)")
    }
  }
}
