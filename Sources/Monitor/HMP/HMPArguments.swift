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
    case seconds(Double)
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
  func seconds(_ name: String) -> Double? {
    if case .seconds(let value) = values[name] { return value }
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
    /// With a suffix; MiB without one.
    case size
    /// Seconds with a fraction, or with `ms`, `us`, `ns`.
    case seconds
    case onOff
    case flag(UInt8)
    /// A flag with a word after it.
    case flaggedWord(UInt8)
    case format

    /// The letter of a flag.
    var letter: UInt8? {
      switch self {
      case .flag(let letter), .flaggedWord(let letter): letter
      default: nil
      }
    }
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
      case UInt8(ascii: "o"): kind = .size
      case UInt8(ascii: "T"): kind = .seconds
      case UInt8(ascii: "b"): kind = .onOff
      case UInt8(ascii: "-"):
        let letter = pieces[1].utf8.dropFirst().first ?? 0
        kind =
          pieces[1].hasSuffix("s") && pieces[1].utf8.count == 3
          ? .flaggedWord(letter) : .flag(letter)
      case UInt8(ascii: "/"): kind = .format
      default: kind = .word
      }
      return HMPParameter(
        name: String(pieces[0]), kind: kind, isOptional: pieces[1].hasSuffix("?"),
        followsDot: pieces[1].hasSuffix("."))
    }
  }
}
