internal import Glibc

extension JSONValue {
  /// The text in QEMU's form: members in its hash order, ASCII only, `", "` and `": "`.
  /// `pretty` puts each member on a line of its own, four spaces per level, lines ending in `\n`
  /// (the monitor turns those into `\r\n`).
  package func printed(pretty: Bool = false) -> [UInt8] {
    var printer = JSONPrinter(pretty: pretty)
    printer.print(self)
    return printer.output
  }

  /// `printed()` as a string.
  package var text: String { String(decoding: printed(), as: UTF8.self) }
}

/// Appends values to a buffer in the form that QEMU 7.2 writes (see `JSONValue.printed`).
///
/// Objects whose members are known beforehand are printed without being built: `beginObject`, then for each member in wire order
/// its name and its value, `endObject`.
package struct JSONPrinter: Sendable {
  /// What was printed so far.
  package var output: [UInt8] = []
  /// Whether each member is on a line of its own.
  package let pretty: Bool
  private let breaksWithCarriageReturn: Bool
  private var level = 0
  /// The next member or element is not the first.
  private var isFollowing = false

  /// A printer with an empty buffer. `breaksWithCarriageReturn`: lines end in CR LF.
  package init(pretty: Bool = false, breaksWithCarriageReturn: Bool = false) {
    self.pretty = pretty
    self.breaksWithCarriageReturn = breaksWithCarriageReturn
  }

  // MARK: - Piece by piece

  /// Opens an object.
  package mutating func beginObject() {
    output.append(UInt8(ascii: "{"))
    level += 1
    isFollowing = false
  }

  /// Opens a member of the object; its value must follow. `name`: with quotes, colon and blank, as in `"id": `.
  package mutating func member(_ name: StaticString) {
    separate()
    append(name)
  }

  /// The same for a name that is known only now.
  package mutating func member(named name: String) {
    separate()
    print(name)
    append(": ")
  }

  /// Closes the object.
  package mutating func endObject() {
    level -= 1
    newLine()
    output.append(UInt8(ascii: "}"))
    isFollowing = true
  }

  /// Opens a list.
  package mutating func beginArray() {
    output.append(UInt8(ascii: "["))
    level += 1
    isFollowing = false
  }

  /// Opens an element of the list; its value must follow.
  package mutating func element() { separate() }

  /// Closes the list.
  package mutating func endArray() {
    level -= 1
    newLine()
    output.append(UInt8(ascii: "]"))
    isFollowing = true
  }

  /// Appends text as it is.
  package mutating func append(_ text: StaticString) {
    // SAFETY: static text, alive for ever, of that many bytes.
    unsafe output.append(
      contentsOf: UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
  }

  /// Appends a value that was printed when the program was built, in the form that is not pretty.
  package mutating func print(printed text: StaticString) {
    if pretty, let value = try? JSONValue(parsing: "\(text)") { print(value) } else { append(text) }
  }

  /// Forgets what was printed from a place on, which an earlier `output.count` told; for an object that is given up.
  package mutating func rewind(to count: Int) {
    output.removeSubrange(count...)
    level = 0
    isFollowing = false
  }

  private mutating func separate() {
    if isFollowing {
      output.append(UInt8(ascii: ","))
      if !pretty { output.append(UInt8(ascii: " ")) }
    }
    isFollowing = true
    newLine()
  }

  // MARK: - Values

  /// Appends one value.
  package mutating func print(_ value: JSONValue) {
    switch value {
    case .null: append("null")
    case .bool(let flag): print(flag)
    case .int(let number): print(number)
    case .uint(let number): print(number)
    case .double(let number): append(Self.format(number))
    case .string(let text): print(text)
    case .array(let elements):
      beginArray()
      for index in elements.indices {
        element()
        print(elements[index])
      }
      endArray()
    case .object(let object): print(object)
    }
  }

  /// Appends a truth value.
  package mutating func print(_ flag: Bool) { append(flag ? "true" : "false") }

  /// Appends an integer.
  package mutating func print(_ number: some FixedWidthInteger) { append(String(number)) }

  /// The value that QEMU's dictionary hashes a member name to; members are written in ascending
  /// order of it.
  package static func bucket(_ name: String) -> UInt32 {
    var sum: UInt32 = 0
    var length: UInt32 = 0
    var shift: UInt32 = 0
    func add(_ byte: UInt8) {
      sum = sum &+ (UInt32(byte) << shift)
      length &+= 1
      shift = (shift + 5) % 24
    }
    for byte in name.utf8 {
      if byte == 0 {
        // QEMU keeps U+0000 as two bytes.
        add(0xC0)
        add(0x80)
      } else {
        add(byte)
      }
    }
    let value = 0x238F_13AF &* length &+ sum
    return (1_103_515_243 &* value &+ 12345) & 511
  }

  // MARK: -

  private mutating func print(_ object: JSONObject) {
    beginObject()
    for position in object.wireOrder {
      let (name, value) = object.member(at: position)
      member(named: name)
      print(value)
    }
    endObject()
  }

  private mutating func newLine() {
    guard pretty else { return }
    if breaksWithCarriageReturn { output.append(UInt8(ascii: "\r")) }
    output.append(UInt8(ascii: "\n"))
    output.append(contentsOf: repeatElement(UInt8(ascii: " "), count: 4 * level))
  }

  private mutating func append(_ text: String) { output.append(contentsOf: text.utf8) }

  /// Appends a string that needs no escape; false, with nothing done, when it may need one.
  private mutating func printPlain(_ text: String) -> Bool {
    for byte in text.utf8 where !Self.isPlain(byte) { return false }
    output.append(UInt8(ascii: "\""))
    output.append(contentsOf: text.utf8)
    output.append(UInt8(ascii: "\""))
    return true
  }

  private static func isPlain(_ byte: UInt8) -> Bool {
    byte >= 0x20 && byte < 0x7F && byte != UInt8(ascii: "\"") && byte != UInt8(ascii: "\\")
  }

  /// Appends a string in quotes.
  package mutating func print(_ text: String) {
    if printPlain(text) { return }
    output.append(UInt8(ascii: "\""))
    for scalar in text.unicodeScalars {
      switch scalar.value {
      case 0x22: append("\\\"")
      case 0x5C: append("\\\\")
      case 0x08: append("\\b")
      case 0x0C: append("\\f")
      case 0x0A: append("\\n")
      case 0x0D: append("\\r")
      case 0x09: append("\\t")
      case 0x20...0x7E: output.append(UInt8(truncatingIfNeeded: scalar.value))
      case 0...0xFFFF: escape(UInt16(truncatingIfNeeded: scalar.value))
      default:
        for unit in String(scalar).utf16 { escape(unit) }
      }
    }
    output.append(UInt8(ascii: "\""))
  }

  private mutating func escape(_ unit: UInt16) {
    append("\\u")
    for shift in [12, 8, 4, 0] as [UInt16] {
      let digit = UInt8(truncatingIfNeeded: unit >> shift & 0xF)
      output.append(digit < 10 ? UInt8(ascii: "0") + digit : UInt8(ascii: "A") + digit - 10)
    }
  }

  /// 17 significant digits, in plain or exponent form (C's `%.17g`).
  static func format(_ number: Double) -> String {
    var buffer = [CChar](repeating: 0, count: 40)
    // SAFETY: the buffer is longer than any output of %.17g; vsnprintf stops at its size.
    let length = unsafe withVaList([number]) { arguments in
      unsafe vsnprintf(&buffer, buffer.count, "%.17g", arguments)
    }
    return String(decoding: buffer.prefix(Int(max(0, length))).map(UInt8.init), as: UTF8.self)
  }
}

extension JSONObject {
  /// Positions of the members in the order in which QEMU's dictionary goes through them. Of two names
  /// in one bucket the later one comes first.
  package var wireOrder: [Int] {
    if count < 2 { return isEmpty ? [] : [0] }
    var keyed: [(bucket: UInt32, position: Int)] = []
    keyed.reserveCapacity(count)
    for position in 0..<count {
      keyed.append((JSONPrinter.bucket(member(at: position).name), position))
    }
    keyed.sort { left, right in
      left.bucket != right.bucket ? left.bucket < right.bucket : left.position > right.position
    }
    return keyed.map(\.position)
  }
}
