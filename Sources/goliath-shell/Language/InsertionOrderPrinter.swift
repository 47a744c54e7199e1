import JSON

/// Prints JSON with members in the order in which they were set, as a person typed them; QEMU's hash order would surprise in a log.
struct InsertionOrderPrinter {
  var output: [UInt8] = []

  mutating func print(_ value: JSONValue) {
    switch value {
    case .object(let object):
      output.append(UInt8(ascii: "{"))
      for position in 0..<object.count {
        if position > 0 { output += ", ".utf8 }
        let (name, value) = object.member(at: position)
        print(.string(name))
        output += ": ".utf8
        print(value)
      }
      output.append(UInt8(ascii: "}"))
    case .array(let elements):
      output.append(UInt8(ascii: "["))
      for (position, element) in elements.enumerated() {
        if position > 0 { output += ", ".utf8 }
        print(element)
      }
      output.append(UInt8(ascii: "]"))
    default: output += value.printed()
    }
  }
}
