// -dfilter: ranges of guest addresses.

/// Reads `FIRST..LAST`, `START+LENGTH` and `LAST-LENGTH`, separated by commas.
enum AddressRanges {
  static func parse(
    _ text: String, _ origin: OptionOrigin
  ) throws(OptionError) -> [ClosedRange<UInt64>] {
    var ranges: [ClosedRange<UInt64>] = []
    for part in text.split(separator: ",") {
      ranges.append(try range(part, origin))
    }
    return ranges
  }

  private static func range(
    _ text: Substring, _ origin: OptionOrigin
  ) throws(OptionError) -> ClosedRange<UInt64> {
    func fail(_ reason: String) -> OptionError { OptionError(.invalidValue, origin, reason) }
    // The first kind that occurs decides, in this order.
    guard
      let (name, left, right) = split(text, at: "-") ?? split(text, at: "+")
        ?? split(text, at: "..")
    else { throw fail("Bad range specifier") }
    guard case .value(let first) = OptionText.number(left) else {
      throw fail("Invalid number to the left of \(name)\(right)")
    }
    guard case .value(let second) = OptionText.number(right) else {
      throw fail("Invalid number to the right of \(name)")
    }
    var (low, high) = (first, second)
    if name == "+" { high = first &+ (second &- 1) }
    if name == "-" { (low, high) = (first &- (second &- 1), first) }
    guard low <= high else { throw fail("Invalid range") }
    return low...high
  }

  private static func split(
    _ text: Substring, at mark: String
  ) -> (name: String, left: String, right: String)? {
    var at = text.startIndex
    while at < text.endIndex {
      if text[at...].hasPrefix(mark) {
        let after = text.index(at, offsetBy: mark.count)
        return (mark, String(text[..<at]), String(text[after...]))
      }
      at = text.index(after: at)
    }
    return nil
  }
}
