/// How memory and numbers are printed: `/FMT` of `x`, `xp`, `print`, `i`.
struct HMPFormat: Equatable {
  /// `x o d u c` or `i` (instructions).
  var kind: UInt8 = UInt8(ascii: "x")
  /// Bytes of an item: 1, 2, 4, 8; nil for instructions without one.
  var size: Int? = 4
  var count = 1
}

/// The arguments of one command, parsed.
struct HMPArguments: Equatable {
  enum Value: Equatable {
    case text(String)
    case integer(Int64)
    case flag(Bool)
    case format(HMPFormat)
  }
  var values: [String: Value] = [:]

  func text(_ name: String) -> String? {
    if case .text(let value) = values[name] { return value }
    return nil
  }
  func integer(_ name: String) -> Int64? {
    if case .integer(let value) = values[name] { return value }
    return nil
  }
  func flag(_ name: String) -> Bool { values[name] == .flag(true) }
  func format(_ name: String) -> HMPFormat {
    if case .format(let value) = values[name] { return value }
    return HMPFormat()
  }
}

/// One parameter of a command, from its specification `name:type`.
struct HMPParameter: Equatable {
  enum Kind: Equatable {
    case word, file, blockDevice, rest
    /// At most 32 bits.
    case integer32
    case integer64
    /// Given in MiB.
    case mebibytes
    case onOff
    case flag(UInt8)
    case format
  }
  let name: String
  let kind: Kind
  /// May be missing.
  let isOptional: Bool
  /// Comes after a dot, or not at all.
  let followsDot: Bool

  /// Reads a specification such as `fmt:/,addr:i,index:i.` (the notation of compat/hmp-commands.json).
  static func list(_ specification: String) -> [HMPParameter] {
    specification.split(separator: ",").compactMap { part in
      let pieces = part.split(separator: ":")
      guard pieces.count == 2, let type = pieces[1].utf8.first else { return nil }
      let kind: Kind
      switch type {
      case UInt8(ascii: "F"): kind = .file
      case UInt8(ascii: "B"): kind = .blockDevice
      case UInt8(ascii: "S"): kind = .rest
      case UInt8(ascii: "i"): kind = .integer32
      case UInt8(ascii: "l"): kind = .integer64
      case UInt8(ascii: "M"): kind = .mebibytes
      case UInt8(ascii: "b"): kind = .onOff
      case UInt8(ascii: "-"): kind = .flag(pieces[1].utf8.dropFirst().first ?? 0)
      case UInt8(ascii: "/"): kind = .format
      default: kind = .word
      }
      return HMPParameter(
        name: String(pieces[0]), kind: kind, isOptional: pieces[1].hasSuffix("?"),
        followsDot: pieces[1].hasSuffix("."))
    }
  }
}

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
      }
    }
    skipBlanks()
    if position < text.count {
      throw Failure(text: "\(commandName): extraneous characters at the end of line")
    }
    return result
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

  private mutating func flag(
    _ letter: UInt8, later: ArraySlice<HMPParameter>
  ) throws(Failure) -> Bool {
    let start = position
    skipBlanks()
    guard position < text.count, text[position] == UInt8(ascii: "-") else { return false }
    position += 1
    guard position < text.count, text[position] == letter else {
      let other = position < text.count ? text[position] : 0
      if later.contains(where: { $0.kind == .flag(other) }) {
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
