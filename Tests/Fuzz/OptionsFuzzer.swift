import Options

/// Command lines, arguments separated by line ends: accepted or refused with a sentence.
struct OptionsFuzzer: Fuzzer {
  func run(_ input: [UInt8]) {
    let words = input.split(separator: 10, omittingEmptySubsequences: false)
      .prefix(64).map { String(decoding: $0, as: UTF8.self) }
    // Configuration files are read; that is another matter.
    if words.contains(where: { $0.contains("readconfig") }) { return }
    do throws(OptionError) {
      _ = try CommandLineParser().parse(words)
    } catch {
      require(!error.lines(program: "fuzz").isEmpty, "an error without a text")
    }
  }
}
