import Support
import Testing

/// Disks under a guest that writes and checks them all the time.
@Suite(.serialized, .timeLimit(.minutes(15)), .enabled(if: Guest.folder != nil))
struct DiskLoadTests {
  /// Each scenario of diskload.py, with the line that it ends with.
  @Test(arguments: [
    ("load", "are each the disk at one moment"),
    ("kill", "lazy_refcounts=on: at worst leaks, and what was flushed is there"),
    ("full", "ide: no room stops the guest, which goes on when there is some; nothing is lost"),
    ("errors", "ide: an error is reported, and the machine runs"),
  ])
  func contentsAreWhatTheGuestWrote(scenario: String, last: String) throws {
    let python = try #require(Process.find("python3"))
    guard Process.find("gcc") != nil else { return print("SKIPPED: gcc is not installed") }
    let result = try Process.output(
      [
        python, Checkout.root + "/Tests/EndToEnd/diskload.py", Goliath.path,
        Goliath.program("goliath-img"), Checkout.root + "/scripts", "--only", scenario,
      ], seconds: 800)
    if result.text.hasPrefix("SKIPPED") { return print(result.text) }
    #expect(result.status == 0, "\(result.text)")
    #expect(result.text.contains(last), "\(result.text)")
  }
}
