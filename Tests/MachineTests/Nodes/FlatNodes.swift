import DeviceModel
import Host
import Machine
import QAPI
import Shm
import Testing

/// A flat guest on several nodes: what tests look at.
struct FlatNodes: Sendable {
  let cluster: MachinesOfACluster

  /// Where the vCPUs are, and how RAM is shared.
  struct Layout: CustomTestStringConvertible, Sendable {
    let placement: [Int]
    var memory: MachinesOfACluster.Memory = .shared
    var testDescription: String { "\(placement) \(memory)" }

    /// Three vCPUs: the boot processor with the devices and apart from them, every other where it makes a difference.
    static let three: [Layout] = [
      Layout(placement: [0, 0, 0]), Layout(placement: [0, 1, 2]),
      Layout(placement: [1, 0, 1]), Layout(placement: [0, 1, 1], memory: .coherent),
    ]
    /// Two vCPUs.
    static let two: [Layout] = [
      Layout(placement: [0, 1]), Layout(placement: [1, 0]),
      Layout(placement: [0, 1], memory: .coherent),
    ]
  }

  /// Runs `guest`, begun, and clears up.
  static func run(
    _ guest: FlatGuest, _ layout: Layout, _ arguments: [String] = [], isRunning: Bool = true,
    _ body: @Sendable (FlatNodes) async throws -> Void
  ) async throws {
    try await MachinesOfACluster.run(
      ["-m", "4", "-debugcon", "file:FOLDER/out"] + arguments, placement: layout.placement,
      nodes: max((layout.placement.max() ?? 0) + 1, 2), memory: layout.memory,
      firmware: guest.firmware
    ) { cluster in
      if isRunning { try await cluster.machines[0].resume() }
      try await body(FlatNodes(cluster: cluster))
    }
  }

  /// A word of guest memory, as node 0 sees it.
  func word(_ address: UInt32) async -> UInt32 {
    await cluster.machines[0].memory.load(GuestAddress(UInt64(address))) ?? 0xDEAD_BEEF
  }

  /// How often the handler of `vector` has run on `vcpu`.
  func count(_ vcpu: Int, _ vector: Int) async -> UInt32 {
    await word(FlatGuest.counter(vcpu, vector))
  }

  /// All handlers that have run: vCPU, vector and how often.
  func counts(_ vcpus: Int) async -> [[Int]] {
    var result: [[Int]] = []
    for vcpu in 0..<vcpus {
      for vector in 0..<256 {
        let value = await count(vcpu, vector)
        if value != 0 { result.append([vcpu, vector, Int(value)]) }
      }
    }
    return result
  }

  /// Waits until the guest has said all of this.
  func expect(
    _ text: String, seconds: Double = 300, sourceLocation: SourceLocation = #_sourceLocation
  ) async {
    let isThere = await cluster.expect(text, seconds: seconds)
    #expect(
      isThere, "the guest said \"\(cluster.output())\"", sourceLocation: sourceLocation)
  }

  /// Waits until a word of guest memory has this value.
  func expect(
    _ address: UInt32, is value: UInt32, seconds: Double = 300,
    sourceLocation: SourceLocation = #_sourceLocation
  ) async {
    let isThere = await cluster.until(seconds: seconds) { await word(address) == value }
    let last = await word(address)
    #expect(isThere, "the word is \(last)", sourceLocation: sourceLocation)
  }
}
