import Support
import Testing

/// The rules of the structure that a compiler does not check.
@Suite struct ArchitectureTests {
  /// The modules from the bottom up: each may import only those before it.
  static let order = [
    "CJansson", "CLinux", "CEdit", "CKVM", "CX86", "CGnuTLS", "CSlirp", "Host", "JSON", "QAPI",
    "Block",
    "Jobs", "Cluster", "Shm",
    "DeviceModel", "Security", "CPU",
    "DistIRQ", "Chardev", "Options", "Translator", "KVM", "PCI", "Net", "Virtio", "Devices",
    "Machine",
    "Monitor",
    "SchemaCompiler", "goliath-shell", "goliath-img", "goliath",
  ]

  /// Pairs that the order would allow and the architecture does not.
  static let forbidden = [
    ("KVM", "Translator"), ("DistIRQ", "Host"), ("Chardev", "DeviceModel"), ("Options", "Shm"),
    ("Devices", "CPU"), ("Cluster", "Block"), ("Cluster", "JSON"), ("Devices", "Options"),
    ("Devices", "Virtio"),
  ]

  /// A client of the monitors: it has nothing of the engine.
  static let clientImports = ["QAPI", "JSON", "Host", "Glibc"]

  struct Import {
    let module: String
    let imported: String
    let file: String
  }

  /// Every import line under Sources.
  static var imports: [Import] {
    var result: [Import] = []
    for file in Checkout.files(in: "Sources", suffix: ".swift") {
      let module = String(file.split(separator: "/")[1])
      for line in Checkout.text(file).split(separator: "\n") {
        var words = line.split(separator: " ").map(String.init)
        if words.first == "package" || words.first == "internal" { words.removeFirst() }
        guard words.first == "import", words.count >= 2 else { continue }
        result.append(Import(module: module, imported: words[1], file: file))
      }
    }
    return result
  }

  @Test func importsPointDown() {
    for line in Self.imports {
      let (module, imported, file) = (line.module, line.imported, line.file)
      guard let upper = Self.order.firstIndex(of: module) else {
        Issue.record("\(module) has no place in the order of modules")
        continue
      }
      guard let lower = Self.order.firstIndex(of: imported) else { continue }
      #expect(lower < upper, "\(file) imports \(imported)")
      let isForbidden = Self.forbidden.contains { $0 == (module, imported) }
      #expect(!isForbidden, "\(file) imports \(imported)")
    }
  }

  @Test func onlyTheProgramImportsTheMonitor() {
    for line in Self.imports where line.imported == "Monitor" {
      #expect(line.module == "goliath", "\(line.file)")
    }
  }

  @Test func theShellIsAClientAndNoPartOfTheEngine() {
    for line in Self.imports where line.module == "goliath-shell" {
      #expect(Self.clientImports.contains(line.imported), "\(line.file) imports \(line.imported)")
    }
  }

  @Test func nothingButToolsImportsFoundation() {
    for line in Self.imports where line.imported.hasPrefix("Foundation") {
      #expect(line.module == "SchemaCompiler", "\(line.file)")
    }
  }

  @Test func unsafeCodeStaysWhereItMay() {
    let allowed = ["Host", "Shm", "KVM", "Translator", "JSON", "Shims"]
    for file in Checkout.files(in: "Sources", suffix: ".swift") {
      let module = String(file.split(separator: "/")[1])
      if allowed.contains(module) { continue }
      for (number, line) in Checkout.text(file).split(
        separator: "\n", omittingEmptySubsequences: false
      ).enumerated() {
        // Neither comments nor what is said to users.
        let code = line.split(separator: "//", maxSplits: 1, omittingEmptySubsequences: false)[0]
          .split(separator: "\"", omittingEmptySubsequences: false).enumerated()
          .filter { $0.offset.isMultiple(of: 2) }.map { String($0.element) }.joined()
        #expect(!code.contains("unsafe "), "\(file):\(number + 1)")
        #expect(!code.contains("@unchecked"), "\(file):\(number + 1)")
      }
    }
  }

  @Test func nothingTrapsOnPurposeOrPromisesToBeWrittenLater() {
    let words = ["fatalError(", "try!", " as! ", "TODO", "FIXME", "XXX"]
    for file in Checkout.files(in: "Sources", suffix: ".swift") {
      let text = Checkout.text(file)
      for word in words { #expect(!text.contains(word), "\(file) contains \(word)") }
    }
  }

  @Test func everyModuleHasItsReadme() {
    for module in Checkout.folders(in: "Sources")
    where !["Shims", "goliath", "SchemaCompiler"].contains(module) {
      let text = Checkout.text("Sources/\(module)/README.md")
      #expect(text.split(separator: "\n").count > 5, "Sources/\(module)/README.md")
    }
  }

  @Test func noPathOfAMachineIsCommitted() throws {
    for file in Checkout.files(in: "Sources", suffix: ".swift")
      + Checkout.files(in: "docs", suffix: ".md") + Checkout.files(in: "scripts", suffix: "")
    {
      let text = Checkout.text(file)
      #expect(!text.contains("/work" + "/") && !text.contains("/home" + "/"), "\(file)")
    }
  }
}
