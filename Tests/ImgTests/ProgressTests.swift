import Glibc
import Host
import JSON
import Support
import Testing

/// How a long verb tells how far it is, and how little it needs.
@Suite struct ProgressTests {
  private static let tool = Goliath.program("goliath-img")

  /// A folder with a raw image of 8 MiB, removed behind `body`.
  private func withImage(_ body: (String) throws -> Void) throws {
    let folder = Goliath.temporaryFolder()
    defer { _ = try? Process.output(["rm", "-rf", folder]) }
    let bytes = (0..<8 << 20).map { UInt8(truncatingIfNeeded: $0 &* 2_654_435_761 >> 13) }
    try Process.createFile(bytes, at: folder + "/a.raw")
    try body(folder)
  }

  private func parse(_ line: Substring) throws -> JSONValue {
    try JSONValue(parsing: String(line))
  }

  @Test func aLineIsWrittenOverAndEndsAtAHundred() throws {
    try withImage { folder in
      let result = try Process.output(
        [Self.tool, "convert", "-p", "-O", "qcow2", "a.raw", "b.qcow2"], folder: folder)
      #expect(result.status == 0)
      #expect(result.text.hasPrefix("    (0.00/100%)\r"))
      #expect(result.text.hasSuffix("    (100.00/100%)\r\n"))
    }
  }

  @Test func progressAsJSONIsALineForEachStep() throws {
    try withImage { folder in
      let result = try Process.output(
        [Self.tool, "compare", "-q", "--progress=json", "a.raw", "a.raw"], folder: folder)
      #expect(result.status == 0)
      let lines = result.text.split(separator: "\n")
      #expect(lines.count >= 2)
      for line in lines {
        let value = try parse(line)
        #expect(value["total"]?.intValue == 8 << 20)
      }
      #expect(
        try parse(lines[lines.count - 1])["done"] == .int(8 << 20))
    }
  }

  @Test func aSignalAsksHowFarItIs() throws {
    try withImage { folder in
      let process = try Process(
        [Self.tool, "convert", "-r", "4M", "-O", "qcow2", "a.raw", "b.qcow2"], folder: folder)
      while !Process.isThere(folder + "/b.qcow2") { usleep(2000) }
      var isTold = false
      while !isTold, process.wait(seconds: 0) == nil {
        process.kill(signal: SIGUSR1)
        isTold = process.expect("/100%)\n", seconds: 0.2)
      }
      #expect(isTold)
      #expect(process.wait(seconds: 30) == 0)
    }
  }

  @Test func aGigabyteOfAddressSpaceIsEnough() throws {
    try withImage { folder in
      let commands = [
        "convert -m 16 -W -O qcow2 a.raw b.qcow2", "convert -c -m 16 -O qcow2 a.raw c.qcow2",
        "compare b.qcow2 c.qcow2", "check c.qcow2", "convert -m 16 c.qcow2 d.raw",
      ]
      for command in commands {
        let result = try Process.output(
          ["/bin/sh", "-c", "ulimit -v 1048576; \(Self.tool) \(command)"], folder: folder)
        #expect(result.status == 0, "\(command): \(result.text)")
      }
    }
  }
}
