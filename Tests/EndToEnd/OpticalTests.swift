import Support
import Testing

/// Discs: booted from, used, taken and changed.
@Suite(.serialized, .timeLimit(.minutes(15)), .enabled(if: Guest.folder != nil))
struct OpticalTests {
  @Test func aDiscBootsAndMediaComeAndGo() throws {
    let python = try #require(Process.find("python3"))
    let result = try Process.output(
      [
        python, Checkout.root + "/Tests/EndToEnd/optical.py", Goliath.path,
        Goliath.program("goliath-img"), Checkout.root + "/scripts",
      ], seconds: 600)
    if result.status == 77 { return print(result.text) }
    #expect(result.status == 0, "\(result.text)")
    #expect(result.text.contains("taken by force"), "\(result.text)")
  }
}
