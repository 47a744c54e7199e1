import Foundation
import Options
import Testing

@Suite struct HelpTextTests {
  private let catalog = HelpCatalog(
    cpuHelp: { "Available CPUs:\nx86 qemu64\n" },
    devices: {
      [
        HelpCatalog.Device(
          name: "isa-debug-exit", bus: "ISA",
          properties: [
            HelpCatalog.Property(name: "iosize", type: "uint32", defaultValue: "2"),
            HelpCatalog.Property(name: "iobase", type: "uint32", defaultValue: "1281"),
          ]),
        HelpCatalog.Device(name: "isa-serial", bus: "ISA", category: "Input"),
      ]
    }, dataDirectories: ["/usr/share/seabios"])

  private func text(_ line: String) throws -> [String] {
    guard case .help(let topic) = try CommandLineParser(catalog: catalog).parse(words(line)).action
    else {
      Issue.record("no help asked for by \(line)")
      return []
    }
    return try HelpText.lines(for: topic, catalog: catalog)
  }

  @Test func everyOptionIsListedOnceAtALineStart() throws {
    let lines = try text("-help")
    for name in ["machine", "qmp", "uuid", "enable-kvm", "display", "no-hpet", "nodefaults"] {
      #expect(lines.filter { $0 == "-\(name)" || $0.hasPrefix("-\(name) ") }.count == 1, "\(name)")
    }
    #expect(lines.contains { $0.hasPrefix("-no-user-config") })
    #expect(!lines.contains { $0.hasPrefix("-virtfs") })
    #expect(lines.first?.hasPrefix("QEMU emulator version 7.2.") == true)
    #expect(lines.allSatisfy { $0.utf8.count < 200 })
  }

  @Test func formsOfAskingForHelp() throws {
    #expect(try text("-h") == text("--help"))
    #expect(try text("-version").first?.hasPrefix("QEMU emulator version 7.2.") == true)
    #expect(try text("-M ?") == text("-machine help"))
    #expect(try text("-cpu help") == text("-cpu ?"))
    #expect(try text("-L help") == ["/usr/share/seabios"])
    #expect(try text("-smp help").first == "smp-opts options:")
    #expect(try text("-boot help").contains("  order=<str>"))
    #expect(try text("-rtc help").contains("  clock=<str>"))
    #expect(try text("-vga help").first?.hasPrefix("none ") == true)
    #expect(try text("-display help").last == "none")
    // The first question is answered, whatever follows.
    #expect(try text("-machine help -bogus") == text("-machine help"))
    #expect(try configuration("-name help").name.guest == "help")
  }

  @Test func machinesAreListedWithTheDefault() throws {
    #expect(
      try text("-machine help") == [
        "Supported machines are:",
        "pc                   Standard PC (i440FX + PIIX, 1996) (alias of pc-i440fx-7.2)",
        "pc-i440fx-7.2        Standard PC (i440FX + PIIX, 1996) (default)",
        "none                 empty machine",
      ])
    let properties = try text("-machine pc,help")
    #expect(properties.first == "pc-i440fx-7.2-machine options:")
    #expect(properties.contains { $0.hasPrefix("  hpet=<bool> ") })
    #expect(try !text("-machine none,help").contains { $0.hasPrefix("  hpet=") })
  }

  @Test func devicesAreListedByCategory() throws {
    #expect(
      try text("-device help") == [
        "Input devices:", "name \"isa-serial\", bus ISA", "", "Misc devices:",
        "name \"isa-debug-exit\", bus ISA",
      ])
    #expect(
      try text("-device isa-debug-exit,help") == [
        "isa-debug-exit options:", "  iobase=<uint32>        -  (default: 1281)",
        "  iosize=<uint32>        -  (default: 2)",
      ])
    #expect(throws: OptionError.self) { try text("-device isa-serail,help") }
  }

  @Test func logItemsAndBackendsAreListed() throws {
    #expect(try text("-d help").first == "Log items (comma separated):")
    #expect(try text("-chardev help").contains("  socket"))
    #expect(try text("-chardev socket,help").contains("  path=<str>"))
    #expect(try text("-accel help").suffix(2) == ["kvm", "tcg"])
  }
}
