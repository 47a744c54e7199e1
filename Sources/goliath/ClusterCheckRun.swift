import CPU
import Cluster
import DeviceModel
import Glibc
import Host
import JSON
import Machine
import Monitor
import Options
import QAPI
import Security

/// `-cluster …,check=on`: the nodes meet, compare what they are, say it, and end. No machine is made, nothing is opened but the links.
@MainLoop
enum ClusterCheckRun {
  /// Ends the process: status 0 when the nodes would start, 1 when they would not.
  static func start(_ configuration: LaunchConfiguration, _ form: ClusterCheckForm) {
    Task { @MainLoop in
      var status: Int32 = 1
      do {
        guard let wanted = configuration.cluster else { return }
        let objects = ObjectRegistry(
          make: ObjectFactory(configuration.machine, cpus: configuration.smp.cpus).make)
        for object in configuration.objects where object.isEarly {
          try objects.add(object.options)
        }
        let credentials = try ClusterNode.credentials(wanted, in: objects)
        let facts = try facts(configuration, wanted)
        let report = try await HostThread.value(name: "check") {
          try meet(wanted, facts, credentials)
        }
        print(report, form)
        if report["ok"]?.boolValue == true { status = 0 }
      } catch {
        let reason = FailureText.parts(error).reason
        if form == .json {
          print(["ok": false, "reason": .string(reason)], form)
        } else {
          FailureText.lines(error).forEach(Log.line)
        }
      }
      MainLoop.stop(status: status)
    }
  }

  private static func print(_ report: JSONValue, _ form: ClusterCheckForm) {
    let lines =
      form == .json
      ? [report.text] : report["text"]?.arrayValue?.compactMap(\.stringValue) ?? []
    FileDescriptor.writeToStandardOutput(lines.joined(separator: "\n") + "\n")
  }

  private static func facts(
    _ configuration: LaunchConfiguration, _ cluster: ClusterConfiguration
  ) throws -> ClusterFacts {
    let choice = try AcceleratorChoice(configuration)
    var items = try ClusterItems.of(
      configuration, accelerator: choice.accelerator.name,
      firmwareFolders: BootFile.firmwareDirectories, usualFirmware: BootFile.defaultFirmware)
    if choice.capabilities.kind == .kvm {
      items.append(ConfigurationItem("CPU vendor", choice.capabilities.host.vendor))
    }
    let ram = Int(clamping: configuration.memory.size)
    let nodes = max(cluster.addresses.count, 1)
    return ClusterFacts(
      node: Int(cluster.node.rawValue), host: HostFacts.name,
      address: cluster.addresses[Int(cluster.node.rawValue)].text,
      vcpus: cluster.vcpus.map(Int.init), items: items,
      features: FeatureSet(table: choice.cpuid).names, available: HostFacts.availableMemory,
      needed: cluster.memory == .shm ? ram : ram / nodes,
      program: VersionInfo.current.qemu.text, counterKilohertz: choice.counterKilohertz)
  }

  /// Waits for all nodes; gives what node 0 found, on every node.
  private nonisolated static func meet(
    _ configuration: ClusterConfiguration, _ facts: ClusterFacts,
    _ credentials: ClusterCredentials?
  ) throws -> JSONValue {
    let joined = try ClusterMembership.join(
      configuration, items: [], offer: facts.json.printed(), credentials: credentials)
    defer { joined.leave() }
    var payload: [UInt8] = []
    if joined.node == .devices {
      // Until the links have been measured and the others have said how well they know the time.
      HostClock.sleep(nanoseconds: 500_000_000)
      var all = [facts]
      for offer in joined.offers where !offer.isEmpty {
        guard let other = (try? JSONValue(parsing: offer)).flatMap({ ClusterFacts($0) }),
          other.node != facts.node
        else { continue }
        all.append(other)
      }
      var links: [Int: ClusterCheck.Link] = [:]
      for node in joined.status.nodes where node.node != joined.node {
        links[Int(node.node.rawValue)] = ClusterCheck.Link(
          roundTripMicroseconds: node.roundTripNanoseconds.map { Double($0) / 1000 },
          clockErrorNanoseconds: node.clockErrorNanoseconds.map { Int(clamping: $0) },
          isProtected: node.isProtected)
      }
      payload = ClusterCheck(id: configuration.id, all, links: links).json.printed()
    }
    joined.ready()
    let report = try joined.waitForStart(payload: payload)
    return try JSONValue(parsing: report)
  }
}

/// What a host tells of itself.
private enum HostFacts {
  static var name: String {
    let bytes = try? FileDescriptor.contents(of: "/proc/sys/kernel/hostname", limit: 4096)
    let text = String(decoding: bytes ?? [], as: UTF8.self)
    return text.split(separator: "\n").first.map(String.init) ?? "?"
  }

  /// Bytes that can be had without swapping.
  static var availableMemory: Int? {
    guard let bytes = try? FileDescriptor.contents(of: "/proc/meminfo", limit: 1 << 16) else {
      return nil
    }
    for line in String(decoding: bytes, as: UTF8.self).split(separator: "\n")
    where line.hasPrefix("MemAvailable:") {
      return line.split(separator: " ").compactMap { Int($0) }.first.map { $0 &* 1024 }
    }
    return nil
  }
}
