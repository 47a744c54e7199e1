import Support
import Testing

/// A short run of Benchmarks/cluster/pressure.py, whose long runs are made by hand.
@Suite(.serialized, .enabled(if: Guest.folder != nil)) struct ClusterPressureTests {
  @Test func whatTwoNodesSortAndCountTogetherIsRight() throws {
    guard let folder = Guest.folder, Process.find("cc") != nil else {
      return print("SKIPPED: no C compiler")
    }
    let result = try Process.output(
      [
        "python3", Checkout.root + "/Benchmarks/cluster/pressure.py", "4", "--use", "8",
        "--goliath", Goliath.path, "--guest", folder, "--limit", "600",
      ], seconds: 700)
    #expect(result.status == 0, "\(result.text.suffix(4000))")
    #expect(result.text.contains("pressure: ok"))
  }
}
