import Glibc
import Host
import Support
import Testing

/// The log is one for the whole process, hence one test after the other.
@Suite(.serialized) struct LogTests {
  private func contents(_ path: String) throws -> String {
    String(decoding: try FileDescriptor.contents(of: path), as: UTF8.self)
  }

  @Test func itemsGoToTheFileNamedAfterTheProcess() throws {
    let folder = Goliath.temporaryFolder()
    defer { _ = try? Process.output(["rm", "-rf", folder]) }
    try Log.open([.unimplemented], file: folder + "/log.%d")
    defer { try? Log.open([], file: nil) }
    #expect(Log.isEnabled(.unimplemented) && !Log.isEnabled(.interrupts))
    Log.write(.unimplemented, "wanted")
    Log.write(.interrupts, "not wanted")
    #expect(try contents("\(folder)/log.\(getpid())") == "wanted\n")
  }

  @Test func aTextThatIsNotLoggedIsNotMade() {
    var made = false
    func text() -> String {
      made = true
      return ""
    }
    Log.write(.mmu, text())
    #expect(!made)
  }

  @Test(arguments: ["log.%s", "log.%d%d", "%"])
  func onlyOneProcessNumberMayStandInAName(name: String) {
    #expect(throws: LogError.self) { try Log.open([.interrupts], file: name) }
  }

  @Test func everyWordHasAnItem() {
    for (name, item) in LogItems.names { #expect(LogItems(name: name) == item) }
    #expect(LogItems(name: "all") == nil)
  }

  @Test func timestampsAreISO8601InUTC() {
    let text = HostClock.timestamp
    #expect(text.utf8.count == 27 && text.hasSuffix("Z") && text.hasPrefix("20"))
    #expect(Array(text)[10] == "T" && Array(text)[19] == ".")
  }
}
