import Testing
import goliath_img

@Suite struct SizesTests {
  @Test(arguments: [
    (0, "0 B"), (1, "1 B"), (999, "999 B"), (1000, "0.977 KiB"), (1024, "1 KiB"),
    (200_704, "196 KiB"), (1_023_488, "1e+03 KiB"), (1_331_200, "1.27 MiB"),
    (5 << 30, "5 GiB"), (107_374_182_400, "100 GiB"), (1_048_064, "1 MiB"),
    (UInt64.max, "16 EiB"),
  ])
  func sizesForPeopleHaveThreeDigits(bytes: UInt64, text: String) {
    #expect(Sizes.text(bytes) == text)
  }

  @Test(arguments: [
    ("0", 0), ("512", 512), ("1k", 1024), ("1.5M", 1_572_864), ("2g", 2 << 30), ("0x10", 16),
    ("1T", 1 << 40), ("7b", 7), ("0.5k", 512),
  ])
  func sizesOfPeopleAreRead(text: String, bytes: UInt64) throws {
    #expect(try Sizes.parse(text) == bytes)
  }

  @Test(arguments: ["", "x", "1x", "-1", "1.5", "1kk", "0x", ".5M", "16E", "99999999999999999999"])
  func othersAreRefused(text: String) {
    #expect(throws: Sizes.Failure.self) { try Sizes.parse(text) }
  }

  @Test func decimalsAreRoundedAsInC() {
    #expect(Sizes.fixed(0.125, 2) == "0.12")
    #expect(Sizes.fixed(0.375, 2) == "0.38")
    #expect(Sizes.fixed(99.999, 2) == "100.00")
    #expect(Sizes.fixed(0.145, 2) == "0.14")
    #expect(Sizes.fixed(3, 0) == "3")
  }
}
