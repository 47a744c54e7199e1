import Glibc
import Support
import Testing

/// Images that somebody made to harm: each command of `malformed.py` ends by itself, soon and within little memory.
@Suite struct MalformedTests {
  private static let python = Process.find("python3")

  private func run(_ options: [String]) throws -> (status: Int32, text: String) {
    let script = Checkout.root + "/Tests/ImgTests/malformed.py"
    let tool = Goliath.program("goliath-img")
    let words = [try #require(Self.python), script, tool] + options
    let result = try Process.output(words, seconds: 1200)
    return (result.status, result.text)
  }

  /// Each seventh command, which are some of every image's and of every verb's; all of them when GOLIATH_LONG is set. The memory is what is allowed. The CPU
  /// second is that of a release build on a machine of its own: this build, on this machine, gets ten.
  @Test(.enabled(if: python != nil))
  func malformedImagesAreRefusedOrRepairedWithinLittle() throws {
    let every = getenv("GOLIATH_LONG") != nil ? "1" : "7"
    let result = try run(["--seconds", "10", "--memory", "64", "--every", every])
    #expect(result.status == 0, "\(result.text)")
  }

  /// The image that claims an exbibyte, whose tables are the largest that are allowed: its repair, which takes the most.
  @Test(.enabled(if: python != nil))
  func theLargestTablesAreRepairedWithinLittle() throws {
    let result = try run([
      "--seconds", "10", "--memory", "64", "--only", "exbibytes", "--every", "5",
    ])
    #expect(result.status == 0, "\(result.text)")
  }

  /// The limits are looked at.
  @Test(.enabled(if: python != nil))
  func lessMemoryThanItTakesIsNoticed() throws {
    let result = try run(["--seconds", "10", "--memory", "2", "--only", "a good image"])
    #expect(result.status == 1)
    #expect(result.text.contains("9 bad"), "\(result.text)")
  }
}
