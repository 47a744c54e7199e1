import JSON

/// A stream of JSON values is cut the same way however it arrives, and its memory stays within the limits.
struct FramingFuzzer: Fuzzer {
  private func results(_ parts: [[UInt8]]) -> [String] {
    var framer = JSONFramer()
    var found: [String] = []
    for part in parts {
      framer.feed(part)
      while let item = framer.next() { found.append(text(item)) }
    }
    if let item = framer.finish() { found.append(text(item)) }
    return found
  }

  private func text(_ item: Result<JSONText, JSONError>) -> String {
    switch item {
    case .success(let value): "value " + String(decoding: value.bytes, as: UTF8.self)
    case .failure(let error): "error " + error.text
    }
  }

  func run(_ input: [UInt8]) {
    let whole = results([input])
    let cut = results(pieces(input))
    require(whole == cut, "in one piece \(whole), in several \(cut)")
  }
}

/// What parses prints, and what was printed parses to the same.
struct ParsingFuzzer: Fuzzer {
  private func again(_ printed: [UInt8]) -> [UInt8] {
    guard let value = try? JSONValue(parsing: printed) else {
      fatalError("what was printed does not parse: \(String(decoding: printed, as: UTF8.self))")
    }
    return value.printed()
  }

  /// A number too large for a double is printed as `inf`, as QEMU does, which nothing parses.
  private func hasInfinity(_ value: JSONValue) -> Bool {
    switch value {
    case .double(let number): !number.isFinite
    case .array(let elements): elements.contains(where: hasInfinity)
    case .object(let object): object.contains { hasInfinity($0.1) }
    default: false
    }
  }

  func run(_ input: [UInt8]) {
    guard let value = try? JSONValue(parsing: input), !hasInfinity(value) else { return }
    let printed = value.printed()
    // As in QEMU, members that share a bucket change places each time.
    require(again(again(printed)) == printed, "printed differently")
  }
}
