// Internet addresses as text.

/// Reading and writing of addresses, in the forms that the C library takes.
package enum AddressText {
  /// IPv4 in one to four numbers, each decimal, octal or hexadecimal (inet_aton(3)); most significant byte first.
  package static func ipv4(_ text: String) -> UInt32? {
    let parts = text.split(separator: ".", omittingEmptySubsequences: false)
    guard (1...4).contains(parts.count) else { return nil }
    var value: UInt64 = 0
    for (index, part) in parts.enumerated() {
      guard let number = number(part) else { return nil }
      let isLast = index == parts.count - 1
      let room = isLast ? UInt64(5 - parts.count) * 8 : 8
      guard number < 1 << room else { return nil }
      value = value << room | number
    }
    return UInt32(truncatingIfNeeded: value)
  }

  private static func number(_ text: Substring) -> UInt64? {
    guard let first = text.utf8.first, first >= 0x30, first <= 0x39, text.utf8.count <= 20 else {
      return nil
    }
    if text.hasPrefix("0x") || text.hasPrefix("0X") { return UInt64(text.dropFirst(2), radix: 16) }
    if first == 0x30, text.utf8.count > 1 { return UInt64(text, radix: 8) }
    return UInt64(text)
  }

  package static func text(_ address: UInt32) -> String {
    (0..<4).map { String(address >> (24 - 8 * $0) & 0xFF) }.joined(separator: ".")
  }

  /// IPv6 (RFC 4291, 2.2): 16 bytes.
  package static func ipv6(_ text: String) -> [UInt8]? {
    func groups(_ part: Substring) -> [UInt8]? {
      if part.isEmpty { return [] }
      var bytes: [UInt8] = []
      let words = part.split(separator: ":", omittingEmptySubsequences: false)
      for (index, word) in words.enumerated() {
        if index == words.count - 1, word.contains(".") {
          guard word.split(separator: ".").count == 4, let address = ipv4(String(word)) else {
            return nil
          }
          bytes += (0..<4).map { UInt8(truncatingIfNeeded: address >> (24 - 8 * UInt32($0))) }
          continue
        }
        guard (1...4).contains(word.utf8.count), word.first != "+",
          let value = UInt16(word, radix: 16)
        else { return nil }
        bytes += [UInt8(value >> 8), UInt8(truncatingIfNeeded: value)]
      }
      return bytes
    }
    let parts = text.split(separator: "::", omittingEmptySubsequences: false)
    if parts.count == 1 {
      guard let bytes = groups(parts[0]), bytes.count == 16 else { return nil }
      return bytes
    }
    guard parts.count == 2, let head = groups(parts[0]), let tail = groups(parts[1]),
      head.count + tail.count <= 14
    else { return nil }
    return head + [UInt8](repeating: 0, count: 16 - head.count - tail.count) + tail
  }

  /// A number as strtol(3) reads it with base 0; nil when anything is left.
  static func integer(_ text: Substring) -> Int? {
    if text.hasPrefix("-") { return number(text.dropFirst()).map { -Int(truncatingIfNeeded: $0) } }
    return number(text).map { Int(clamping: $0) }
  }

  /// Takes the text before the next separator; nil when there is none.
  static func take(_ text: inout Substring, _ separator: Character) -> Substring? {
    guard let place = text.firstIndex(of: separator) else { return nil }
    let part = text[..<place]
    text = text[text.index(after: place)...]
    return part
  }
}
