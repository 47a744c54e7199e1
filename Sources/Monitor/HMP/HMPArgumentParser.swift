/// Reads a command's arguments with QEMU's rules and error texts (qmp-wire section 10, Parsing).
struct HMPArgumentParser {
  /// The text for the user, one line.
  struct Failure: Error, Equatable { let text: String }

  /// The command's names, such as `print|p`, for error texts.
  let commandName: String
  let text: [UInt8]
  var position: Int
  let register: (String) -> UInt64?
  /// The format that applies when none is given; the one used last.
  var lastFormat: HMPFormat

  mutating func parse(_ parameters: [HMPParameter]) throws(Failure) -> HMPArguments {
    var result = HMPArguments()
    for (index, parameter) in parameters.enumerated() {
      switch parameter.kind {
      case .word, .file, .blockDevice:
        skipBlanks()
        if parameter.isOptional, position == text.count { continue }
        guard let word = word() else { throw missing(parameter.kind) }
        result.values[parameter.name] = .text(word)
      case .rest:
        skipBlanks()
        if parameter.isOptional, position == text.count { continue }
        guard position < text.count else { throw missing(parameter.kind) }
        result.values[parameter.name] = .text(
          String(decoding: text[position...], as: UTF8.self))
        position = text.count
      case .format: result.values[parameter.name] = .format(try format())
      case .integer32, .integer64, .mebibytes:
        skipBlanks()
        if parameter.isOptional, position == text.count { continue }
        if parameter.followsDot {
          guard position < text.count, text[position] == UInt8(ascii: ".") else { continue }
          position += 1
          skipBlanks()
        }
        result.values[parameter.name] = .integer(try integer(parameter.kind))
      case .size:
        skipBlanks()
        if parameter.isOptional, position == text.count { continue }
        result.values[parameter.name] = .integer(try size())
      case .seconds:
        skipBlanks()
        if parameter.isOptional, position == text.count { continue }
        result.values[parameter.name] = .seconds(try seconds())
      case .onOff:
        skipBlanks()
        let start = position
        while position < text.count, !isBlank(text[position]) { position += 1 }
        switch String(decoding: text[start..<position], as: UTF8.self) {
        case "on": result.values[parameter.name] = .flag(true)
        case "off": result.values[parameter.name] = .flag(false)
        default: throw Failure(text: "Expected 'on' or 'off'")
        }
      case .flag(let letter):
        if try flag(letter, later: parameters[(index + 1)...]) {
          result.values[parameter.name] = .flag(true)
        }
      case .flaggedWord(let letter):
        if try flag(letter, later: parameters[(index + 1)...]) {
          skipBlanks()
          guard let word = word() else {
            let flag = Character(UnicodeScalar(letter))
            throw Failure(text: "\(commandName): value expected for -\(flag)")
          }
          result.values[parameter.name] = .text(word)
        }
      }
    }
    skipBlanks()
    if position < text.count {
      throw Failure(text: "\(commandName): extraneous characters at the end of line")
    }
    return result
  }

  /// All words of the text; nil when quotes are wrong or there are more than `limit`.
  mutating func words(limit: Int) -> [String]? {
    var result: [String] = []
    while true {
      skipBlanks()
      if position == text.count { return result }
      guard result.count < limit, let word = word() else { return nil }
      result.append(word)
    }
  }

  // MARK: -

  private mutating func skipBlanks() {
    while position < text.count, isBlank(text[position]) { position += 1 }
  }

  private func missing(_ kind: HMPParameter.Kind) -> Failure {
    let what =
      switch kind {
      case .file: "filename"
      case .blockDevice: "block device name"
      default: "string"
      }
    return Failure(text: "\(commandName): \(what) expected")
  }

  /// A word, or text in double quotes; nil when there is none or the quotes are wrong.
  private mutating func word() -> String? {
    guard position < text.count else { return nil }
    var result: [UInt8] = []
    guard text[position] == UInt8(ascii: "\"") else {
      while position < text.count, !isBlank(text[position]) {
        result.append(text[position])
        position += 1
      }
      return String(decoding: result, as: UTF8.self)
    }
    position += 1
    while position < text.count {
      let byte = text[position]
      position += 1
      if byte == UInt8(ascii: "\"") { return String(decoding: result, as: UTF8.self) }
      guard byte == UInt8(ascii: "\\") else {
        result.append(byte)
        continue
      }
      guard position < text.count else { return nil }
      switch text[position] {
      case UInt8(ascii: "n"): result.append(10)
      case UInt8(ascii: "r"): result.append(13)
      case UInt8(ascii: "\\"), UInt8(ascii: "'"), UInt8(ascii: "\""): result.append(text[position])
      default: return nil
      }
      position += 1
    }
    return nil
  }

  private mutating func format() throws(Failure) -> HMPFormat {
    skipBlanks()
    guard position < text.count, text[position] == UInt8(ascii: "/") else {
      var format = lastFormat
      format.count = 1
      if format.kind == UInt8(ascii: "i") { format.size = nil }
      return format
    }
    position += 1
    var count = 1
    if position < text.count, (48...57).contains(text[position]) {
      count = 0
      while position < text.count, (48...57).contains(text[position]) {
        count = min(count * 10 + Int(text[position] - 48), 1 << 40)
        position += 1
      }
    }
    var kind: UInt8?
    var size: Int?
    scan: while position < text.count {
      switch text[position] {
      case UInt8(ascii: "o"), UInt8(ascii: "d"), UInt8(ascii: "u"), UInt8(ascii: "x"),
        UInt8(ascii: "i"), UInt8(ascii: "c"):
        kind = text[position]
      case UInt8(ascii: "b"): size = 1
      case UInt8(ascii: "h"): size = 2
      case UInt8(ascii: "w"): size = 4
      case UInt8(ascii: "g"), UInt8(ascii: "L"): size = 8
      default: break scan
      }
      position += 1
    }
    if position < text.count, !isBlank(text[position]) {
      let character = Character(UnicodeScalar(text[position]))
      throw Failure(text: "invalid char in format: '\(character)'")
    }
    let chosen = kind ?? lastFormat.kind
    if chosen != UInt8(ascii: "i") {
      size = size ?? lastFormat.size ?? 4
      lastFormat.size = size
    }
    lastFormat.kind = chosen
    return HMPFormat(kind: chosen, size: size, count: count)
  }

  private mutating func integer(_ kind: HMPParameter.Kind) throws(Failure) -> Int64 {
    var expression = HMPExpression(text, at: position, register: register)
    let value: Int64
    do { value = try expression.parse() } catch { throw Failure(text: error.text) }
    position = expression.position
    switch kind {
    case .integer32:
      guard UInt64(bitPattern: value) >> 32 == 0 else {
        throw Failure(text: "'\(commandName)' has failed: integer is for 32-bit values")
      }
      return value
    case .mebibytes:
      let (bytes, overflow) = value.multipliedReportingOverflow(by: 1 << 20)
      if value < 0 || overflow { throw Failure(text: "enter a positive value") }
      return bytes
    default: return value
    }
  }

  /// A size such as `1.5G`, as QEMU's own C library extension reads it.
  private mutating func size() throws(Failure) -> Int64 {
    guard let (length, bytes) = HMPNumber.size(text[position...]) else {
      throw Failure(text: "invalid size")
    }
    position += length
    return bytes
  }

  private mutating func seconds() throws(Failure) -> Double {
    guard let (length, number) = HMPNumber.real(text[position...]) else {
      throw Failure(text: position == text.count ? "unexpected end of expression" : "not a number")
    }
    position += length
    var value = number
    if position + 1 < text.count, text[position + 1] == UInt8(ascii: "s") {
      let divisor: Double? =
        switch text[position] {
        case UInt8(ascii: "m"): 1e3
        case UInt8(ascii: "u"): 1e6
        case UInt8(ascii: "n"): 1e9
        default: nil
        }
      if let divisor {
        value /= divisor
        position += 2
      }
    }
    guard position == text.count || isBlank(text[position]) else {
      throw Failure(text: "Unknown unit suffix")
    }
    return value
  }

  private mutating func flag(
    _ letter: UInt8, later: ArraySlice<HMPParameter>
  ) throws(Failure) -> Bool {
    let start = position
    skipBlanks()
    guard position < text.count, text[position] == UInt8(ascii: "-") else { return false }
    position += 1
    guard position < text.count, text[position] == letter else {
      let other = position < text.count ? text[position] : 0
      if later.contains(where: { $0.kind.letter == other }) {
        position = start
        return false
      }
      let character = other == 0 ? "" : String(Character(UnicodeScalar(other)))
      throw Failure(text: "\(commandName): unsupported option -\(character)")
    }
    position += 1
    return true
  }
}
