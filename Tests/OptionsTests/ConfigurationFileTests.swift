import Foundation
import Options
import QAPI
import Testing

@Suite struct ConfigurationFileTests {
  /// Parses `-readconfig` of a file with this text; `FILE` stands for its path in messages.
  private func lines(_ text: String, _ more: String = "") throws -> (LaunchConfiguration?, [String])
  {
    let path = NSTemporaryDirectory() + "goliath-\(UUID().uuidString).ini"
    try text.write(toFile: path, atomically: true, encoding: .utf8)
    defer { try? FileManager.default.removeItem(atPath: path) }
    do throws(OptionError) {
      let plan = try CommandLineParser().parse(["-readconfig", path] + words(more))
      guard case .run(let configuration) = plan.action else { return (nil, []) }
      return (configuration, [])
    } catch {
      return (
        nil, error.lines(program: "goliath").map { $0.replacingOccurrences(of: path, with: "FILE") }
      )
    }
  }

  @Test func sectionsAreOptions() throws {
    let (read, errors) = try lines(
      """
      # a machine
      [machine]
        type = "pc"
        accel = "kvm:tcg"
        hpet = "off"

      [memory]
        size = "1G"
      [smp-opts]
        cpus = "4"
        sockets = "2"
      [boot-opts]
        strict = "on"
      [chardev "monitor"]
        backend = "socket"
        path = "/run/a,b"
        server = "on"
        wait = "off"
      [mon]
        chardev = "monitor"
        mode = "control"
      [device "x"]
        driver = "isa-debug-exit"
        iobase = "0x501"
      [global]
        driver = "a"
        property = "b"
        value = "c"
      """, "-nographic -serial null -set device.x.iosize=2 -m 2G")
    #expect(errors == [])
    let it = try #require(read)
    #expect(it.machine.hpet == false)
    #expect(it.accelerators.map(\.name) == ["kvm", "tcg"])
    #expect(it.memory.size == 2 << 30)
    #expect((it.smp.cpus, it.smp.sockets) == (4, 2))
    #expect(it.bootOrder.strict)
    #expect(it.chardevs.map(\.label) == ["monitor", "serial0", "parallel0"])
    #expect(it.monitors.map(\.mode) == [.control])
    #expect(it.devices.map(\.id) == ["x"])
    #expect(it.devices.first?.properties.map(\.name) == ["iobase", "iosize"])
    #expect(it.globals.map(\.property) == ["b"])
  }

  @Test(arguments: [
    ("[foo]\n a = \"b\"\n", "FILE:1: There is no option group 'foo'"),
    ("[chardevs]\n", "FILE:1: There is no option group 'chardevs'; did you mean 'chardev'?"),
    (" a = \"b\"\n", "FILE:1: no group defined"),
    (
      "[chardev \"c\"]\n backend = socket\n",
      "FILE:2: parse error: expected key = \"value\" with double quotes"
    ),
    ("[chardev \"c\"]\n backend = \"null\"\n foo = \"1\"\n", "FILE:3: Invalid parameter 'foo'"),
    ("[machine]\n foo = \"1\"\n", "FILE:2: Property 'pc-i440fx-7.2-machine.foo' not found"),
    ("[device \"x\"]\n foo = \"1\"\n", "FILE:1: Parameter 'driver' is missing"),
    (
      "[memory]\n size = \"foo\"\n",
      "FILE:2: Parameter 'size' expects a non-negative number below 2^64"
    ),
    ("[chardev \"1c\"]\n", "FILE:1: Parameter 'id' expects an identifier"),
    ("[chardev\n", "FILE:1: parse error: section without ']'"),
    (
      "[drive]\n if = \"foo\"\n", "FILE:1: unsupported bus type 'foo'"
    ),
    ("\n\n[smp-opts]\ncpus = \"x\"\n", "FILE:4: Parameter 'smp.cpus' expects integer"),
  ])
  func mistakesAreNamedWithTheirLine(text: String, sentence: String) throws {
    #expect(try lines(text).1.first == "goliath: \(sentence)")
  }
}
