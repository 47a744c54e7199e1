import CPU
import Testing

@Suite struct CPUModelNameTests {
  @Test func everyListedNameIsFoundByItself() {
    #expect(CPUModel.names.count > 100)
    for name in CPUModel.names {
      #expect(CPUModel.named(name)?.typeName == "\(name)-x86_64-cpu", "\(name)")
    }
  }

  @Test(arguments: ["", "qemu6", "QEMU64", "qemu64-v1|13", "486 ", "qemu64 qemu64-v1"])
  func nothingElseIsFound(name: String) { #expect(CPUModel.named(name) == nil) }

  @Test func anAliasHasItsTargetsFeatures() throws {
    let capabilities = CPUCapabilities(tcgOn: .ofThisHost)
    let topology = CPUTopology(sockets: 1, dies: 1, cores: 1, threads: 1)
    let alias = try CPUModel.parse("Conroe").cpuidTable(capabilities, topology: topology)
    let target = try CPUModel.parse("Conroe-v1").cpuidTable(capabilities, topology: topology)
    #expect(alias.table == target.table)
  }

  @Test func whatHasOneValueOnlyIsRefusedWithAnother() throws {
    _ = try CPUModel.parse("max,start-powered-off=off,fill-mtrr-mask=on")
    for option in ["max,start-powered-off=on", "max,+start-powered-off", "max,-fill-mtrr-mask"] {
      #expect(throws: CPUModelError.self, "\(option)") { try CPUModel.parse(option) }
    }
  }
}
