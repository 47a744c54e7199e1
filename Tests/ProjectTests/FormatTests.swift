import Support
import Testing

@Suite struct FormatTests {
  @Test func sourcesHaveTheProjectsFormat() throws {
    let folders = ["Package.swift", "Plugins", "Sources", "Tests", "Benchmarks"]
      .filter(Checkout.exists)
    let result = try Process.output(
      ["swift", "format", "lint", "--strict", "-r"] + folders, seconds: 300, folder: Checkout.root)
    #expect(result.status == 0, "\(result.text.prefix(4000))")
  }

  @Test func scriptsAreValidShell() throws {
    for file in Checkout.files(in: "scripts", suffix: "") + [
      "Tests/Support/kvm-host", "Tests/EndToEnd/boots", ".ci/run",
    ]
    where Checkout.exists(file) && !Checkout.text(file).hasPrefix("#!/usr/bin/env python3") {
      let result = try Process.output(["bash", "-n", file], folder: Checkout.root)
      #expect(result.status == 0, "\(file): \(result.text)")
    }
  }

  @Test func theLicenceIsApache2() {
    let text = Checkout.text("LICENSE")
    #expect(text.contains("Apache License") && text.contains("Version 2.0, January 2004"))
  }
}
