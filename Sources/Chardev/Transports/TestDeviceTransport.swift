import Host

/// `testdev`: a guest ends the process by writing a number and `q`; other commands are swallowed. For test programs in guests.
@MainLoop
final class TestDeviceTransport: ChardevTransport {
  let filename = "testdev"
  private var parser = TestDeviceParser()
  private let exit: (Int32) -> Void

  init(exit: @escaping (Int32) -> Void) { self.exit = exit }

  func start(_ device: Chardev) {
    MainLoop.post { [weak device] in device?.transportOpened() }
  }

  func write(_ bytes: [UInt8], from start: Int) -> Int {
    for byte in bytes[start...] {
      if let status = parser.receive(byte) {
        exit(status)
        break
      }
    }
    return bytes.count - start
  }

  func setReceiving(_ on: Bool) {}
  func shutDown() {}
}

/// The grammar of `testdev`: blanks, a decimal number, blanks, one letter.
struct TestDeviceParser: Equatable {
  private enum Phase { case start, digits, letter }
  private var phase = Phase.start
  private var number: Int32 = 0

  /// Takes a byte; answers the exit status when it ends the process: twice the number and one.
  mutating func receive(_ byte: UInt8) -> Int32? {
    let isSpace = byte == 32 || (9...13).contains(byte)
    let isDigit = (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte)
    switch phase {
    case .start where isSpace: return nil
    case .start where isDigit, .digits where isDigit:
      phase = .digits
      number = number &* 10 &+ Int32(byte - UInt8(ascii: "0"))
      return nil
    case .digits where isSpace, .letter where isSpace:
      phase = .letter
      return nil
    default:
      let status = number &<< 1 | 1
      phase = .start
      number = 0
      return byte == UInt8(ascii: "q") ? status : nil
    }
  }
}
