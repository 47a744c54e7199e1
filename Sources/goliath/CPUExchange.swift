import CPU
import Cluster
import Options

/// CPUs of several hosts become one guest's CPU while nodes join: what they tell each other (distributed.md, section 3).
enum CPUExchange {
  /// What a node offers.
  static func bytes(_ offer: CPUOffer) -> [UInt8] {
    var writer = MessageWriter()
    writer.append(offer.isHardware ? 1 : 0 as UInt8)
    writer.append(offer.vendor)
    append(offer.features, to: &writer)
    writer.append(offer.counterKilohertz)
    return writer.bytes
  }

  static func offer(_ bytes: [UInt8]) -> CPUOffer? {
    var reader = MessageReader(bytes)
    guard let kind = reader.integer(UInt8.self), let vendor = reader.text(),
      let features = features(&reader), let kilohertz = reader.integer(UInt64.self)
    else { return nil }
    return CPUOffer(
      isHardware: kind == 1, vendor: vendor, features: features, counterKilohertz: kilohertz)
  }

  /// What node 0 makes of all offers.
  static func bytes(_ agreement: CPUAgreement) -> [UInt8] {
    var writer = MessageWriter()
    append(agreement.common, to: &writer)
    writer.append(UInt32(clamping: agreement.missing.count))
    for set in agreement.missing { append(set, to: &writer) }
    writer.append(UInt32(clamping: agreement.table.entries.count))
    for entry in agreement.table.entries {
      for word in [entry.leaf, entry.subleaf, entry.hasSubleaves ? 1 : 0] { writer.append(word) }
      for word in [entry.eax, entry.ebx, entry.ecx, entry.edx] { writer.append(word) }
    }
    return writer.bytes
  }

  static func agreement(_ bytes: [UInt8]) -> CPUAgreement? {
    var reader = MessageReader(bytes)
    guard let common = features(&reader), let count = reader.count(elementSize: 4) else {
      return nil
    }
    var missing: [FeatureSet] = []
    for _ in 0..<count {
      guard let set = features(&reader) else { return nil }
      missing.append(set)
    }
    guard let entries = reader.count(elementSize: 28) else { return nil }
    var table = CPUIDTable()
    for _ in 0..<entries {
      var words: [UInt32] = []
      for _ in 0..<7 {
        guard let word = reader.integer(UInt32.self) else { return nil }
        words.append(word)
      }
      table.entries.append(
        CPUIDTable.Entry(
          words[0], subleaf: words[2] == 0 ? nil : words[1], eax: words[3], ebx: words[4],
          ecx: words[5], edx: words[6]))
    }
    return CPUAgreement(table: table, common: common, missing: missing)
  }

  /// Node 0's part: what follows from the offers. Throws `ClusterError`.
  static func agree(
    _ offers: [[UInt8]], _ configuration: LaunchConfiguration, _ capabilities: CPUCapabilities
  ) throws(ClusterError) -> [UInt8] {
    var known: [CPUOffer] = []
    for (node, bytes) in offers.enumerated() {
      guard let offer = offer(bytes) else {
        throw ClusterError(.configuration, "node \(node) does not say what its CPU can do")
      }
      known.append(offer)
    }
    do throws(CPUModelError) {
      return bytes(
        try CPUAgreement(
          CPUModel.parse(configuration.cpuText), known, capabilities,
          topology: CPUTopology(configuration.smp)))
    } catch {
      throw ClusterError(.configuration, error.message)
    }
  }

  private static func append(_ set: FeatureSet, to writer: inout MessageWriter) {
    writer.append(UInt32(clamping: set.registers.count))
    for word in set.registers { writer.append(word) }
  }

  private static func features(_ reader: inout MessageReader) -> FeatureSet? {
    guard let count = reader.count(elementSize: 4) else { return nil }
    var words: [UInt32] = []
    for _ in 0..<count {
      guard let word = reader.integer(UInt32.self) else { return nil }
      words.append(word)
    }
    return FeatureSet(registers: words)
  }
}
