/// A piece of ACPI machine language (ACPI 6.4, chapter 20), built from the inside out.
struct AML: Equatable, Sendable {
  let bytes: [UInt8]

  init(_ bytes: [UInt8]) { self.bytes = bytes }

  private init(_ opcode: [UInt8], package contents: [UInt8]) {
    bytes = opcode + AML.packageLength(contents.count) + contents
  }

  // MARK: - Data

  /// The shortest encoding of an integer (20.2.3).
  static func integer(_ value: UInt64) -> AML {
    switch value {
    case 0: return AML([0x00])
    case 1: return AML([0x01])
    case 0...0xFF: return AML([0x0A, UInt8(value)])
    case 0...0xFFFF: return AML([0x0B] + little(value, 2))
    case 0...0xFFFF_FFFF: return AML([0x0C] + little(value, 4))
    default: return AML([0x0E] + little(value, 8))
    }
  }

  static func string(_ text: String) -> AML { AML([0x0D] + Array(text.utf8) + [0]) }

  static func buffer(_ contents: [UInt8]) -> AML {
    AML([0x11], package: integer(UInt64(contents.count)).bytes + contents)
  }

  static func package(_ elements: [AML]) -> AML {
    AML([0x12], package: [UInt8(truncatingIfNeeded: elements.count)] + join(elements))
  }

  /// An EISA identifier as `EISAID` compresses it (19.6.36): three letters, four hex digits.
  static func eisaID(_ id: String) -> AML {
    let characters = Array(id.utf8)
    guard characters.count == 7 else { return string(id) }
    func letter(_ index: Int) -> UInt32 { UInt32(characters[index] &- 0x40) & 0x1F }
    let product = UInt32(id.dropFirst(3), radix: 16) ?? 0
    let value = letter(0) << 26 | letter(1) << 21 | letter(2) << 16 | product
    return AML([0x0C] + little(UInt64(value.byteSwapped), 4))
  }

  // MARK: - Names and objects

  /// A reference to a named object.
  static func reference(_ path: String) -> AML { AML(nameString(path)) }

  static func name(_ name: String, _ value: AML) -> AML {
    AML([0x08] + nameString(name) + value.bytes)
  }

  static func scope(_ path: String, _ contents: [AML]) -> AML {
    AML([0x10], package: nameString(path) + join(contents))
  }

  static func device(_ name: String, _ contents: [AML]) -> AML {
    AML([0x5B, 0x82], package: nameString(name) + join(contents))
  }

  static func method(
    _ name: String, arguments: UInt8 = 0, isSerialized: Bool = false, _ body: [AML]
  ) -> AML {
    AML(
      [0x14],
      package: nameString(name) + [arguments & 7 | (isSerialized ? 8 : 0)] + join(body))
  }

  enum Space: UInt8, Sendable { case memory = 0, io = 1, pciConfiguration = 2 }

  static func operationRegion(_ name: String, _ space: Space, offset: UInt64, size: UInt64) -> AML {
    AML(
      [0x5B, 0x80] + nameString(name) + [space.rawValue] + integer(offset).bytes
        + integer(size).bytes)
  }

  enum FieldAccess: UInt8, Sendable { case any = 0, byte = 1, word = 2, doubleWord = 3 }

  /// Named bit fields of a region, in order, without a lock, other bits preserved.
  static func field(_ region: String, _ access: FieldAccess, _ fields: [(String, bits: Int)]) -> AML
  {
    let list = fields.flatMap { nameString($0.0) + packageLength($0.bits, isFieldLength: true) }
    return AML([0x5B, 0x81], package: nameString(region) + [access.rawValue] + list)
  }

  // MARK: - Statements and expressions

  static func argument(_ index: UInt8) -> AML { AML([0x68 + index & 7]) }
  static func local(_ index: UInt8) -> AML { AML([0x60 + index & 7]) }
  static func store(_ value: AML, to target: AML) -> AML {
    AML([0x70] + value.bytes + target.bytes)
  }
  /// An element of a package, as a place to store to.
  static func index(_ object: AML, _ index: AML) -> AML {
    AML([0x88] + object.bytes + index.bytes + [0])
  }
  static func returns(_ value: AML) -> AML { AML([0xA4] + value.bytes) }
  static func and(_ a: AML, _ b: AML) -> AML { AML([0x7B] + a.bytes + b.bytes + [0]) }
  static func or(_ a: AML, _ b: AML) -> AML { AML([0x7D] + a.bytes + b.bytes + [0]) }
  static func ifTrue(_ condition: AML, _ body: [AML]) -> AML {
    AML([0xA0], package: condition.bytes + join(body))
  }
  static func ifEqual(_ a: AML, _ b: AML, _ body: [AML]) -> AML {
    ifTrue(AML([0x93] + a.bytes + b.bytes), body)
  }
  static func shiftLeft(_ a: AML, by count: AML) -> AML {
    AML([0x79] + a.bytes + count.bytes + [0])
  }
  static func mutex(_ name: String) -> AML { AML([0x5B, 0x01] + nameString(name) + [0]) }
  /// Waits without end.
  static func acquire(_ name: String) -> AML {
    AML([0x5B, 0x23] + nameString(name) + [0xFF, 0xFF])
  }
  static func release(_ name: String) -> AML { AML([0x5B, 0x27] + nameString(name)) }
  static func notify(_ object: String, _ value: AML) -> AML {
    AML([0x86] + nameString(object) + value.bytes)
  }
  static func call(_ method: String, _ arguments: [AML] = []) -> AML {
    AML(nameString(method) + join(arguments))
  }
  /// `CreateDWordField(buffer, offset, name)`.
  static func doubleWordField(_ buffer: AML, _ offset: UInt64, _ name: String) -> AML {
    AML([0x8A] + buffer.bytes + integer(offset).bytes + nameString(name))
  }

  // MARK: - Encoding

  static func join(_ pieces: [AML]) -> [UInt8] { pieces.flatMap(\.bytes) }

  private static func little(_ value: UInt64, _ width: Int) -> [UInt8] {
    (0..<width).map { UInt8(truncatingIfNeeded: value >> UInt64($0 * 8)) }
  }

  /// A path such as `\_SB.PCI0` or `FOO` (20.2.2); segments are filled up to four characters.
  static func nameString(_ path: String) -> [UInt8] {
    var prefix: [UInt8] = []
    var rest = Substring(path)
    while let first = rest.utf8.first, first == 0x5C || first == 0x5E {
      prefix.append(first)
      rest = rest.dropFirst()
    }
    let segments = rest.split(separator: ".").map { segment in
      Array((Array(segment.utf8) + Array("____".utf8)).prefix(4))
    }
    switch segments.count {
    case 0: return prefix + [0]
    case 1: return prefix + segments[0]
    case 2: return prefix + [0x2E] + segments[0] + segments[1]
    default:
      return prefix + [0x2F, UInt8(truncatingIfNeeded: segments.count)] + segments.flatMap { $0 }
    }
  }

  /// PkgLength (20.2.4); for packages it counts its own bytes, for fields it does not.
  static func packageLength(_ size: Int, isFieldLength: Bool = false) -> [UInt8] {
    for follow in 0...3 {
      let total = isFieldLength ? size : size + follow + 1
      let limit = follow == 0 ? 0x40 : 1 << (4 + 8 * follow)
      guard total < limit else { continue }
      if follow == 0 { return [UInt8(total)] }
      var bytes = [UInt8(follow << 6 | total & 15)]
      for index in 0..<follow { bytes.append(UInt8(truncatingIfNeeded: total >> (4 + 8 * index))) }
      return bytes
    }
    return [0]
  }
}

/// Resource descriptors for `_CRS` and `_PRS` (ACPI 6.4, 6.4).
enum AMLResource: Sendable {
  /// Fixed ports.
  case io(UInt16, length: UInt8)
  /// ISA interrupts, edge triggered, active high.
  case irq([UInt8])
  /// Interrupts by number: level triggered, active high, shared.
  case sharedInterrupts([UInt32])
  case memory32(UInt32, length: UInt32)
  case busNumbers(UInt16, UInt16)
  /// A range that a bridge passes on.
  case ioWindow(UInt16, UInt16)
  case memoryWindow32(UInt32, UInt32, isCacheable: Bool)
  case memoryWindow64(UInt64, UInt64)

  private var bytes: [UInt8] {
    var out: [UInt8] = []
    switch self {
    case .io(let port, let length):
      out = [0x47, 0x01]
      out.append16(port)
      out.append16(port)
      out += [0x01, length]
    case .irq(let numbers):
      out = [0x22]
      out.append16(numbers.reduce(0) { $0 | 1 << UInt16($1 & 15) })
    case .sharedInterrupts(let numbers):
      out = [0x89]
      out.append16(UInt16(2 + 4 * numbers.count))
      out += [0x09, UInt8(truncatingIfNeeded: numbers.count)]
      for number in numbers { out.append32(number) }
    case .memory32(let base, let length):
      out = [0x86, 0x09, 0x00, 0x01]
      out.append32(base)
      out.append32(length)
    case .busNumbers(let first, let last):
      out = [0x88, 0x0D, 0x00, 0x02, 0x0C, 0x00]
      for value in [0, first, last, 0, last &- first &+ 1] { out.append16(value) }
    case .ioWindow(let first, let last):
      out = [0x88, 0x0D, 0x00, 0x01, 0x0C, 0x03]
      for value in [0, first, last, 0, last &- first &+ 1] { out.append16(value) }
    case .memoryWindow32(let first, let last, let isCacheable):
      out = [0x87, 0x17, 0x00, 0x00, 0x0C, isCacheable ? 0x03 : 0x01]
      for value in [0, first, last, 0, last &- first &+ 1] { out.append32(value) }
    case .memoryWindow64(let first, let last):
      out = [0x8A, 0x2B, 0x00, 0x00, 0x0C, 0x03]
      for value in [0, first, last, 0, last &- first &+ 1] { out.append64(value) }
    }
    return out
  }

  /// A buffer with the descriptors and an end tag whose checksum is not used.
  static func template(_ resources: [AMLResource]) -> AML {
    .buffer(resources.flatMap(\.bytes) + [0x79, 0x00])
  }
}
