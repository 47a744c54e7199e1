// What must be the same on all nodes of a machine.

package import Cluster
internal import Host

/// The items of a launch configuration that nodes compare before they start (distributed.md, section 3).
///
/// Compared is what the guest, or the memory between nodes, depends on wherever it is computed. Left out is what only one node needs
/// (devices, drives, networks, character devices, monitors: node 0's, or each node's own), and what is a process's business (log, sandbox,
/// names of threads, the addresses by which this node reaches the others).
package enum ClusterItems {
  /// The items by the names of their options, in a fixed order.
  ///
  /// - Parameters:
  ///   - accelerator: the one in use, when it is known.
  ///   - folders: where firmware is looked for behind the folders of `-L`.
  ///   - usual: the name of the firmware when `-bios` gives none.
  /// - Throws: a file that cannot be read, with the option's name.
  package static func of(
    _ configuration: LaunchConfiguration, accelerator: String? = nil,
    firmwareFolders folders: [String] = [], usualFirmware usual: String = "bios-256k.bin"
  ) throws(OptionError) -> [ConfigurationItem] {
    guard let cluster = configuration.cluster else { return [] }
    let machine = configuration.machine
    let smp = configuration.smp
    var items = [
      ConfigurationItem("-cluster id", cluster.id),
      ConfigurationItem("nodes", String(cluster.addresses.count)),
      ConfigurationItem("-machine", machine.type),
      ConfigurationItem("-machine acpi", machine.acpi.rawValue),
      ConfigurationItem("-machine hpet", machine.hpet ? "on" : "off"),
      ConfigurationItem("-machine pit", machine.pit.rawValue),
      ConfigurationItem(
        "-machine max-ram-below-4g", machine.maximumRAMBelow4GiB.map(size) ?? "by default"),
      ConfigurationItem(
        "-smp",
        "\(smp.cpus),maxcpus=\(smp.maxCPUs),sockets=\(smp.sockets),dies=\(smp.dies)"
          + ",cores=\(smp.cores),threads=\(smp.threads)"),
      ConfigurationItem("-m", size(configuration.memory.size)),
      ConfigurationItem(
        "-m maxmem",
        configuration.memory.slots == 0
          ? "no slots"
          : "\(size(configuration.memory.maxSize)),slots=\(configuration.memory.slots)"),
      ConfigurationItem("-cpu", configuration.cpu?.text ?? "by default"),
      ConfigurationItem("-kernel", try file(configuration.boot.kernel, "-kernel")),
      ConfigurationItem("-initrd", try files(configuration.boot.initrd)),
      ConfigurationItem("-append", configuration.boot.append ?? ""),
      ConfigurationItem("-bios", try firmware(configuration.boot, folders, usual)),
      ConfigurationItem("memory", cluster.memory.rawValue),
      ConfigurationItem("home", cluster.homePolicy.rawValue),
      ConfigurationItem("page size", "4096"),
      ConfigurationItem("on-node-loss", cluster.lossPolicy.rawValue),
      ConfigurationItem("lease-ms", String(cluster.leaseMilliseconds)),
      ConfigurationItem("heartbeat-ms", String(cluster.heartbeatMilliseconds)),
    ]
    if let name = cluster.sharedMemoryName {
      items.append(ConfigurationItem("-shm-path", name))
    }
    if let accelerator { items.append(ConfigurationItem("-accel", accelerator)) }
    return items
  }

  /// The text that the digest is taken of: a line `name=value` for each item, where `%`, `=` and line ends are written as `%XX`.
  package static func canonicalText(_ items: [ConfigurationItem]) -> String {
    items.map { "\(escaped($0.name))=\(escaped($0.value))\n" }.joined()
  }

  /// SHA-256 of the canonical text, 32 bytes.
  package static func digest(_ items: [ConfigurationItem]) -> [UInt8] {
    SHA256.hash([UInt8](canonicalText(items).utf8))
  }

  private static func escaped(_ text: String) -> String {
    var result: [UInt8] = []
    for byte in text.utf8 {
      switch byte {
      case UInt8(ascii: "%"): result += Array("%25".utf8)
      case UInt8(ascii: "="): result += Array("%3D".utf8)
      case UInt8(ascii: "\n"): result += Array("%0A".utf8)
      default: result.append(byte)
      }
    }
    return String(decoding: result, as: UTF8.self)
  }

  /// A size as users write it: the largest unit that leaves no fraction.
  private static func size(_ bytes: UInt64) -> String {
    for (shift, unit) in [(40, "T"), (30, "G"), (20, "M"), (10, "k")] as [(UInt64, String)]
    where bytes != 0 && bytes & (1 << shift - 1) == 0 {
      return "\(bytes >> shift)\(unit)"
    }
    return String(bytes)
  }

  private static func file(_ path: String?, _ option: String) throws(OptionError) -> String {
    guard let path else { return "none" }
    do throws(SystemError) {
      return "sha256:\(try SHA256.text(ofFile: path))"
    } catch {
      throw OptionOrigin(option: option, argument: path).failure(
        "the file cannot be read: \(error.reason)")
    }
  }

  /// Multiboot's form of `-initrd` names several, with arguments: then the text counts, and the machine reads them on node 0.
  private static func files(_ text: String?) throws(OptionError) -> String {
    if let text, FileNames.version(of: text) == nil, text.contains(",") || text.contains(" ") {
      return "text:\(text)"
    }
    return try file(text, "-initrd")
  }

  /// Found as the machine finds it: a path as it is, else a name in the folders of `-L` and then in `folders`.
  private static func firmware(
    _ boot: BootSources, _ folders: [String], _ usual: String
  ) throws(OptionError) -> String {
    let name = boot.firmware ?? usual
    let others = name.contains("/") ? [] : (boot.dataDirectories + folders).map { "\($0)/\(name)" }
    for path in [name] + others where FileNames.version(of: path) != nil {
      return try file(path, "-bios")
    }
    // A kernel that needs none may start without; who needs it says so.
    return "\(name), which is not there"
  }
}
