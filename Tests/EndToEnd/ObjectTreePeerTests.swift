import Glibc
import Host
import JSON
import Support
import Testing

/// The tree of objects over QMP: complete in itself, and beside QEMU's of the same machine.
@Suite(.serialized) struct ObjectTreePeerTests {
  private typealias Object = [String: (type: String, value: JSONValue?)]

  private static let machine = [
    "-machine", "pc", "-m", "128", "-smp", "2", "-accel", "tcg", "-S", "-nodefaults", "-display",
    "none", "-serial", "null", "-device", #"{"driver":"pvpanic","id":"pv0"}"#, "-device",
    "isa-debug-exit", "-object", "memory-backend-memfd,id=m,size=64K", "-object",
    #"{"qom-type":"rng-builtin","id":"r"}"#, "-rtc", "base=2020-01-01T00:00:00,clock=vm",
  ]

  /// All objects by path.
  private static func walk(_ client: QMPClient) throws -> [String: Object] {
    var all: [String: Object] = [:]
    var paths = ["/"]
    while let path = paths.popLast() {
      var object: Object = [:]
      let list = try client.run("qom-list", #"{"path":"\#(path)"}"#)["return"]?.arrayValue
      for entry in try #require(list, "\(path)") {
        let name = entry["name"]?.stringValue ?? ""
        let type = entry["type"]?.stringValue ?? ""
        let isChild = type.hasPrefix("child<")
        // Names with escapes belong to QEMU's memory regions.
        if isChild, !name.contains("\\") {
          paths.append(path == "/" ? "/\(name)" : "\(path)/\(name)")
        }
        if isChild, type == "child<memory-region>" || type == "child<irq>" { continue }
        let value =
          isChild || name.contains("\\")
          ? nil : try client.run("qom-get", #"{"path":"\#(path)","property":"\#(name)"}"#)["return"]
        object[name] = (type, value)
      }
      all[path] = object
    }
    return all
  }

  /// What is listed can be read, children lead to their types, and partial paths to the same objects.
  @Test func everythingThatIsListedIsThere() throws {
    let goliath = try Goliath(Self.machine)
    let client = try goliath.connect()
    let all = try Self.walk(client)
    #expect(all.count > 35)
    let unreadable: Set<String> = ["legacy-memory", "crash-information"]
    for (path, object) in all {
      for (name, property) in object {
        if property.type.hasPrefix("child<") {
          let below = all[path == "/" ? "/\(name)" : "\(path)/\(name)"]
          #expect(property.type == "child<\(below?["type"]?.value?.stringValue ?? "")>", "\(path)")
        } else {
          #expect((property.value != nil) != unreadable.contains(name), "\(path) \(name)")
        }
        if property.type.hasPrefix("link<"), let target = property.value?.stringValue,
          !target.isEmpty
        {
          #expect(all[target] != nil, "\(path) \(name)")
        }
      }
    }
    #expect(try client.run("qom-get", #"{"path":"pv0","property":"type"}"#)["return"] == "pvpanic")
    #expect(
      try client.run("qom-list", #"{"path":"isa.0/child[0]"}"#)["return"]?.arrayValue != nil)
    let shared = try client.run("qom-list", #"{"path":"lapic"}"#)["error"]?["desc"]
    #expect(shared == "Path 'lapic' is ambiguous")
    // Paths that nobody would write, made of parts that exist.
    var generator = SystemRandomNumberGenerator()
    let parts =
      all.keys.flatMap { $0.split(separator: "/").map(String.init) } + ["", "..", "x", "type"]
    for _ in 0..<300 {
      let count = Int.random(in: 0...5, using: &generator)
      var path = (0..<count).map { _ in parts.randomElement(using: &generator) ?? "" }
        .joined(separator: "/")
      if Bool.random(using: &generator) { path = "/" + path }
      let reply = try client.run("qom-list", #"{"path":"\#(path)"}"#)
      let reason = reply["error"]?["desc"]?.stringValue
      #expect(
        reply["return"] != nil || reason == "Path '\(path)' is ambiguous"
          || reason == "Device '\(path)' not found", "\(path)")
    }
    // The memory is the machine's.
    let busy = try client.run("object-del", #"{"id":"pc.ram"}"#)["error"]?["desc"]
    #expect(busy == "object 'pc.ram' is in use, can not be deleted")
    #expect(try client.run("object-del", #"{"id":"m"}"#)["return"] != nil)
    _ = try client.run("quit")
  }

  /// Of each type that both have: the same properties with the same types and values, but for the differences below.
  @Test func objectsAreAsInQEMU() throws {
    guard let qemu = Process.find("qemu-system-x86_64") else {
      print("SKIPPED: comparison of objects: qemu-system-x86_64 is not installed")
      return
    }
    let folder = Goliath.temporaryFolder()
    defer { _ = try? Process.output(["rm", "-rf", folder]) }
    let goliath = try Goliath(Self.machine)
    let ours = try Self.walk(try goliath.connect())
    let socket = folder + "/qemu"
    let peer = try Process([qemu] + Self.machine + ["-qmp", "unix:\(socket),server=on,wait=off"])
    defer { peer.kill(signal: SIGKILL) }
    let theirs = try Self.walk(try QMPClient(path: socket))
    var byType: [String: [(String, Object)]] = [:]
    for (path, object) in theirs.sorted(by: { $0.key < $1.key }) {
      byType[object["type"]?.value?.stringValue ?? "", default: []].append((path, object))
    }
    var seen: [String: Int] = [:]
    for (_, our) in ours.sorted(by: { $0.key < $1.key }) {
      let type = our["type"]?.value?.stringValue ?? ""
      let candidates = try #require(byType[type], "\(type)")
      let their = candidates[min(seen[type, default: 0], candidates.count - 1)].1
      seen[type, default: 0] += 1
      if type == "container" || type == "chardev-socket" || type == "memory-region" { continue }
      for (name, property) in their where !Self.isLeftOut(type, name, property.type) {
        guard let own = our[name] else {
          Issue.record("\(type) has no '\(name)'")
          continue
        }
        #expect(own.type == property.type, "\(type).\(name)")
        if !Self.differs(type, name, property.type) {
          #expect(own.value == property.value, "\(type).\(name)")
        }
      }
      for name in our.keys where their[name] == nil {
        Issue.record("QEMU's \(type) has no '\(name)'")
      }
    }
  }

  /// Wires and what hangs on a bus are not modelled as objects; parts of the machine that are not there yet.
  private static func isLeftOut(_ type: String, _ name: String, _ propertyType: String) -> Bool {
    propertyType == "link<irq>" || name.hasPrefix("child[")
      || [
        // System management RAM; PCI hot plug; the legacy CPU hot plug registers.
        "pc-i440fx-7.2-machine.smram", "PCI.acpi-pcihp-bsel", "PIIX4_PM.acpi-pcihp-io-len",
        "PIIX4_PM.acpi-pcihp-io-base", "PIIX4_PM.cpu-hotplug-legacy", "PIIX4_PM.pm_io_base",
      ].contains("\(type).\(name)")
  }

  /// Values that may differ, and why.
  private static func differs(_ type: String, _ name: String, _ propertyType: String) -> Bool {
    // Paths have other numbers: there are fewer devices. Dates go on.
    if propertyType.hasPrefix("link<") || propertyType == "struct tm" { return true }
    return [
      // Not emulated yet, and said so: system management mode, VMware's port, SATA.
      "pc-i440fx-7.2-machine.vmport", "pc-i440fx-7.2-machine.smm", "pc-i440fx-7.2-machine.sata",
      "PIIX4_PM.smm-enabled",
      // The software CPU has x2APIC and no SVM.
      "qemu64-x86_64-cpu.x2apic", "qemu64-x86_64-cpu.svm", "qemu64-x86_64-cpu.feature-words",
      "qemu64-x86_64-cpu.filtered-features",
      // The clock keeps the century itself; fw_cfg has more slots for files.
      "mc146818rtc.base_year", "fw_cfg_io.x-file-slots",
    ].contains("\(type).\(name)")
  }
}
