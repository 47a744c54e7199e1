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
  func run(_ input: [UInt8]) {
    guard let value = try? JSONValue(parsing: input) else { return }
    let printed = value.printed()
    guard let again = try? JSONValue(parsing: printed) else {
      fatalError("what was printed does not parse: \(String(decoding: printed, as: UTF8.self))")
    }
    require(again.printed() == printed, "printed differently the second time")
  }
}
