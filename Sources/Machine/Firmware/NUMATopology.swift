/// Which vCPUs are near which part of RAM, as the guest is told: ACPI's SRAT and SLIT (ACPI 6.4, 5.2.16, 5.2.17), and fw_cfg.
package struct NUMATopology: Equatable, Sendable {
  /// One proximity domain; its number is its place in the list.
  package struct Node: Equatable, Sendable {
    /// vCPUs, by index.
    package var vcpus: [Int]
    /// Its part of RAM, in bytes from the beginning of RAM (not guest-physical: the hole below 4 GiB does not count).
    package var ram: Range<UInt64>

    package init(vcpus: [Int], ram: Range<UInt64>) {
      self.vcpus = vcpus
      self.ram = ram
    }
  }

  package var nodes: [Node]
  /// Distance of two different nodes; of a node from itself it is 10 (5.2.17).
  package var distance: UInt8

  package init(nodes: [Node], distance: UInt8 = 20) {
    self.nodes = nodes
    self.distance = distance
  }

  /// Slices of a machine on several nodes: each node's vCPUs are near its slice of RAM (distributed.md, section 5, "Homes").
  package init(vcpus: [[Int]], ramSize: UInt64) {
    let slices = NUMATopology.slices(ramSize: ramSize, count: vcpus.count)
    self.init(nodes: zip(vcpus, slices).map { Node(vcpus: $0, ram: $1) })
  }

  /// RAM cut in `count` equal slices that begin at multiples of 2 MiB (of 4 KiB, when there is little RAM); the last one has the rest.
  package static func slices(ramSize: UInt64, count: Int) -> [Range<UInt64>] {
    guard count > 0 else { return [] }
    let number = UInt64(count)
    let unit: UInt64 = ramSize / number >= 4 << 20 ? 2 << 20 : 4096
    let size = ramSize / number / unit * unit
    return (0..<number).map { $0 * size..<($0 + 1 == number ? ramSize : ($0 + 1) * size) }
  }

  /// The node of a vCPU; nil for one that is in none.
  package func node(ofVCPU index: Int) -> Int? {
    nodes.firstIndex { $0.vcpus.contains(index) }
  }

  /// Guest-physical ranges of a node's RAM: without the legacy hole of 640 KiB to 1 MiB and the one below 4 GiB.
  func addresses(of node: Node, _ layout: MemoryLayout) -> [Range<UInt64>] {
    let parts: [(ram: Range<UInt64>, address: UInt64)] = [
      (0..<0xA0000, 0), (0x10_0000..<max(0x10_0000, layout.below4G), 0x10_0000),
      (layout.below4G..<layout.ramSize, 1 << 32),
    ]
    return parts.compactMap { part in
      let ram = part.ram.clamped(to: node.ram)
      guard !ram.isEmpty else { return nil }
      let start = part.address + (ram.lowerBound - part.ram.lowerBound)
      return start..<start + UInt64(ram.count)
    }
  }

  // MARK: - Tables

  /// System Resource Affinity Table, without the header.
  func srat(_ processors: [FirmwareConfiguration.Processor], _ layout: MemoryLayout) -> [UInt8] {
    var out: [UInt8] = []
    out.append32(1)
    out.append64(0)
    for (index, processor) in processors.enumerated() {
      let domain = UInt32(node(ofVCPU: index) ?? 0)
      if processor.apicID < 255 {
        out += [0, 16, UInt8(truncatingIfNeeded: domain), UInt8(processor.apicID)]
        out.append32(1)
        out += [0] + (1...3).map { UInt8(truncatingIfNeeded: domain >> (8 * $0)) }
        out.append32(0)
      } else {
        out += [2, 24, 0, 0]
        out.append32(domain)
        out.append32(processor.apicID)
        out.append32(1)
        out.append64(0)
      }
    }
    for (domain, node) in nodes.enumerated() {
      for range in addresses(of: node, layout) {
        out += [1, 40]
        out.append32(UInt32(domain))
        out.append16(0)
        out.append64(range.lowerBound)
        out.append64(UInt64(range.count))
        out.append32(0)
        out.append32(1)
        out.append64(0)
      }
    }
    return out
  }

  /// System Locality Information Table, without the header.
  var slit: [UInt8] {
    var out: [UInt8] = []
    out.append64(UInt64(nodes.count))
    for from in nodes.indices { out += nodes.indices.map { $0 == from ? 10 : distance } }
    return out
  }

  /// The words of fw_cfg's item: number of nodes, then per APIC identifier its node, then per node its bytes.
  func firmwareWords(_ apicIDs: [UInt32], maximumAPICID: UInt32) -> [UInt64] {
    var words = [UInt64](repeating: 0, count: 1 + Int(maximumAPICID) + 1)
    words[0] = UInt64(nodes.count)
    for (index, apicID) in apicIDs.enumerated() where apicID <= maximumAPICID {
      words[1 + Int(apicID)] = UInt64(node(ofVCPU: index) ?? 0)
    }
    return words + nodes.map { UInt64($0.ram.count) }
  }

  // MARK: - Text

  /// `info numa`.
  package var text: String {
    var text = "\(nodes.count) nodes\n"
    for (number, node) in nodes.enumerated() {
      text += "node \(number) cpus:" + node.vcpus.map { " \($0)" }.joined() + "\n"
      text += "node \(number) size: \(node.ram.count >> 20) MB\n"
      text += "node \(number) plugged: 0 MB\n"
    }
    return text
  }
}
