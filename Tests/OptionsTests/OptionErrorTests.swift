import Foundation
import Options
import Testing

@Suite struct OptionErrorTests {
  @Test(arguments: refusals.indices)
  func wrongCommandLinesAreRefusedInOneSentence(index: Int) {
    let (line, sentence) = refusals[index]
    let expected = sentence.hasPrefix("≠") ? String(sentence.dropFirst()) : sentence
    #expect(errorLines(line).first == "goliath: \(expected)")
  }

  @Test func sizeErrorsExplainTheSuffixes() {
    #expect(
      errorLines("-m foo").dropFirst() == [
        "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-",
        "and exabytes, respectively.",
      ])
  }

  @Test func shortCharacterDeviceFormsNameTheirUser() {
    #expect(
      errorLines("-serial bogus").last
        == "goliath: -serial bogus: could not connect serial device to character backend 'bogus'")
    #expect(errorLines("-qmp bogus").last == "goliath: -qmp bogus: parse error: bogus")
    #expect(
      errorLines("-debugcon bogus").last
        == "goliath: -debugcon bogus: invalid character backend 'bogus'")
  }

  /// Every option that QEMU 7.2 lists is either understood or refused by name, and whatever is refused
  /// by name is an option of QEMU's or of its distributed variant.
  @Test func everyOptionOfQEMUIsKnown() throws {
    let program = "/usr/bin/qemu-system-x86_64"
    guard FileManager.default.isExecutableFile(atPath: program) else {
      print("everyOptionOfQEMUIsKnown: skipped, \(program) is not installed")
      return
    }
    let process = Process()
    let pipe = Pipe()
    process.executableURL = URL(fileURLWithPath: program)
    process.arguments = ["-help"]
    process.standardOutput = pipe
    try process.run()
    let help = String(decoding: pipe.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    process.waitUntilExit()
    var names: Set<String> = []
    for line in help.split(separator: "\n") where line.hasPrefix("-") {
      let word = line.prefix { $0 != " " && $0 != "\t" }
      names.formUnion(word.split(separator: "/").map { String($0.drop { $0 == "-" }) })
    }
    #expect(names.count > 100)
    for name in names.sorted() {
      #expect(errorLines(["-\(name)"]).first?.contains("invalid option") != true, "-\(name)")
    }
  }

  /// QEMU says the same, up to the place, which it leaves out in some sentences.
  @Test func sentencesAreThoseOfQEMU() throws {
    let program = "/usr/bin/qemu-system-x86_64"
    guard FileManager.default.isExecutableFile(atPath: program) else {
      print("sentencesAreThoseOfQEMU: skipped, \(program) is not installed")
      return
    }
    for (line, sentence) in refusals where !sentence.hasPrefix("≠") {
      let process = Process()
      let pipe = Pipe()
      process.executableURL = URL(fileURLWithPath: program)
      process.arguments =
        (line.contains("-display ") ? [] : ["-display", "none"]) + ["-S"] + words(line)
      process.standardInput = FileHandle.nullDevice
      process.standardOutput = FileHandle.nullDevice
      process.standardError = pipe
      try process.run()
      let deadline = Date().addingTimeInterval(20)
      DispatchQueue.global().asyncAfter(deadline: .now() + 20) {
        if process.isRunning { process.terminate() }
      }
      let output = String(decoding: pipe.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
      process.waitUntilExit()
      #expect(Date() < deadline, "QEMU accepts \(line)")
      let prefix = "qemu-system-x86_64: "
      let spoken = output.split(separator: "\n").filter {
        $0.hasPrefix(prefix) && !$0.contains("warning: ")
      }.map { $0.dropFirst(prefix.count) }
      let ours = errorLines(line).filter { $0.hasPrefix("goliath: ") }.map {
        String($0.dropFirst(9))
      }
      var first = ours.first ?? ""
      if let hint = first.range(of: "; did you mean ") { first.removeSubrange(hint.lowerBound...) }
      let theirs = String(spoken.first ?? "")
      #expect(first == theirs || first.hasSuffix(": \(theirs)"), "\(line)")
      #expect(process.terminationStatus == 1, "\(line)")
      if ours.count > 1 { #expect(spoken.last.map(String.init) == ours.last, "\(line)") }
    }
  }
}
