/// What a key after the escape asks of the machine.
package enum MuxCommand: Equatable, Sendable {
  /// C-a x.
  case quit
  /// C-a s: write the temporary snapshots back to their disks.
  case commitAll
}

/// The rules of a multiplexed character device: escape keys and time stamps (qmp-wire section 10, Mux).
struct MuxModel: Equatable {
  /// What a received byte leads to.
  enum Action: Equatable {
    /// A byte for the frontend that has the focus.
    case data(UInt8)
    /// Text for the user.
    case print([UInt8])
    case nextFocus
    case sendBreak
    case command(MuxCommand)
  }

  /// The escape key, ^A by default; nil when there is none (`-echr 0`).
  let escape: UInt8?
  /// The frontend that keys go to, by order of attachment.
  var focus = 0
  private var hasEscape = false
  private var stampsOrigin: Int64?
  private var isStamping = false
  private var isAtLineStart = false

  init(escape: UInt8? = 1) { self.escape = escape }

  /// Takes one byte from the user; nil when nothing follows from it.
  mutating func receive(_ byte: UInt8) -> Action? {
    guard hasEscape else {
      if byte == escape {
        hasEscape = true
        return nil
      }
      return .data(byte)
    }
    hasEscape = false
    if byte == escape { return .data(byte) }
    switch byte {
    case UInt8(ascii: "h"), UInt8(ascii: "?"): return .print(helpText)
    case UInt8(ascii: "x"): return .command(.quit)
    case UInt8(ascii: "s"): return .command(.commitAll)
    case UInt8(ascii: "b"): return .sendBreak
    case UInt8(ascii: "c"): return .nextFocus
    case UInt8(ascii: "t"):
      isStamping.toggle()
      stampsOrigin = nil
      isAtLineStart = false
      return nil
    default: return nil
    }
  }

  /// Output with time stamps at line starts if they are on. `now` is any clock, in milliseconds.
  mutating func stamp(_ bytes: [UInt8], at now: Int64) -> [UInt8] {
    guard isStamping else { return bytes }
    var result: [UInt8] = []
    for byte in bytes {
      if isAtLineStart {
        let origin = stampsOrigin ?? now
        stampsOrigin = origin
        result += Array(MuxModel.timeText(max(0, now - origin)).utf8)
        isAtLineStart = false
      }
      result.append(byte)
      if byte == UInt8(ascii: "\n") { isAtLineStart = true }
    }
    return result
  }

  /// What is printed before C-a x ends the process; clients match on it.
  static let farewell = Array("QEMU: Terminated\n\r".utf8)

  /// `[HH:MM:SS.mmm] `.
  static func timeText(_ milliseconds: Int64) -> String {
    func digits(_ value: Int64, _ width: Int) -> String {
      let text = String(value)
      return String(repeating: "0", count: max(0, width - text.count)) + text
    }
    let seconds = milliseconds / 1000
    return "[\(digits(seconds / 3600, 2)):\(digits(seconds / 60 % 60, 2))"
      + ":\(digits(seconds % 60, 2)).\(digits(milliseconds % 1000, 3))] "
  }

  private var helpText: [UInt8] {
    let key: String
    var text = "\n\r"
    if let escape, (1..<27).contains(escape) {
      key = "C-" + String(UnicodeScalar(escape - 1 + UInt8(ascii: "a")))
    } else {
      key = "Escape-Char"
      text += "\n\rEscape-Char set to Ascii: 0x"
      text += String((escape ?? 0) >> 4, radix: 16) + String((escape ?? 0) & 15, radix: 16)
      text += "\n\r\n\r"
    }
    let lines = [
      ("h", "  print this help"),
      ("x", "  exit emulator"),
      ("s", "  save disk data back to file (if -snapshot)"),
      ("t", "  toggle console timestamps"),
      ("b", "  send break (magic sysrq)"),
      ("c", "  switch between console and monitor"),
      (key, "sends \(key)"),
    ]
    for (name, what) in lines { text += "\(key) \(name)  \(what)\n\r" }
    return Array(text.utf8)
  }
}
