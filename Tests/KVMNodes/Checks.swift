import Cluster
import Guests
import Host
import KVM
import Shm

/// What guests on nodes with KVM must do, for the tests here and for `kvm-selftest --nodes` on another host.
package enum NodeChecks {
  /// A check and what went wrong in it, nil for nothing.
  package typealias Result = (name: String, complaint: String?)

  private static let x: UInt64 = 0x10_0000
  private static let y: UInt64 = 0x18_0000
  private static let results: [UInt64] = [0x20_0000, 0x28_0000]
  /// mov eax, [rsi]; mov [rdi], eax; hlt.
  private static let copy: [UInt8] = [0x8B, 0x06, 0x89, 0x07, 0xF4]
  private static let barrier: UInt64 = 0x08_0000

  /// All of them; `rounds` of each. `report` gets figures.
  package static func run(rounds: Int, _ report: (String) -> Void) -> [Result] {
    func check(_ name: String, _ nodes: Int, _ body: (KVMNodes) throws -> String?) -> Result {
      do {
        let cluster = try KVMNodes(nodes)
        defer { cluster.end() }
        return (name, try body(cluster))
      } catch {
        return (name, "\(error)")
      }
    }
    return [
      check("page-by-turns", 2) { nodes in
        let turns = rounds * 5
        var registers: [Int: UInt64] = [7: x, 9: 0, 1: UInt64(turns)]
        let first = registers
        registers[9] = 1
        let time = try nodes.run(
          [NodePrograms.takeTurns, NodePrograms.takeTurns], [first, registers])
        let faults = nodes.mappings.reduce(0) { $0 + $1.faultCount }
        let statistics = nodes.coherent.map(\.statistics)
        let upgrades = statistics.reduce(0) {
          $0 + $1.readFaults + $1.writeFaults + $1.upgradeFaults
        }
        let waited = statistics.reduce(0) {
          $0 + $1.readNanoseconds + $1.writeNanoseconds + $1.upgradeNanoseconds
        }
        report(
          "page by turns: \(time / Int64(2 * turns)) ns a turn, \(faults) faults, \(upgrades) requests of \(waited / max(upgrades, 1)) ns"
        )
        return nodes.word(x) == UInt32(2 * turns) ? nil : "counted to \(nodes.word(x))"
      },
      check("locked-additions", 2) { nodes in
        let registers: [Int: UInt64] = [7: x + 8, 1: UInt64(rounds * 20)]
        try nodes.run([NodePrograms.increment, NodePrograms.increment], [registers, registers])
        let sum = nodes.long(x + 8)
        return sum == UInt64(rounds * 40) ? nil : "added up to \(sum)"
      },
      check("spin-lock", 2) { nodes in
        let registers: [Int: UInt64] = [7: x, 6: y, 1: UInt64(rounds)]
        try nodes.run([NodePrograms.spinLock, NodePrograms.spinLock], [registers, registers])
        let sums = (nodes.long(x), nodes.word(x + 64))
        return sums == (UInt64(2 * rounds), UInt32(10 * rounds)) ? nil : "added up to \(sums)"
      },
      check("store-buffering", 2) { nodes in
        try litmus(
          nodes, rounds, [NodePrograms.storeFenceLoad, NodePrograms.storeFenceLoad], [false, true]
        ) { $0[0] | $0[2] == 1 }
      },
      check("message-passing", 2) { nodes in
        try litmus(nodes, rounds, [NodePrograms.writeTwo, NodePrograms.readTwo], [false, true]) {
          !($0[2] == 1 && $0[3] == 0)
        }
      },
      check("load-buffering", 2) { nodes in
        try litmus(nodes, rounds, [NodePrograms.loadStore, NodePrograms.loadStore], [false, true]) {
          !($0[0] == 1 && $0[2] == 1)
        }
      },
      check("two-writes-each", 2) { nodes in
        try litmus(
          nodes, rounds, [NodePrograms.writeOneTwo, NodePrograms.writeOneTwo], [false, true]
        ) { !($0[4] == 1 && $0[5] == 1) && $0[4] * $0[5] != 0 }
      },
      check("sequence-lock", 2) { nodes in
        let registers: [Int: UInt64] = [
          7: x, 6: y, 1: UInt64(rounds), 11: results[0], 12: UInt64(rounds),
        ]
        try nodes.run(
          [NodePrograms.sequenceWriter, NodePrograms.sequenceReader], [registers, registers])
        return nodes.word(results[0]) == 0 ? nil : "values that do not belong together"
      },
      check("string-instructions", 2) { nodes in
        let writer: [Int: UInt64] = [10: 0, 12: x + 0xFF9, 13: UInt64(rounds), 8: results[1], 6: y]
        var reader = writer
        reader[14] = y
        reader[5] = 0x30_0003
        reader[11] = results[0]
        try nodes.run([NodePrograms.blockWriter, NodePrograms.blockReader], [writer, reader])
        return nodes.word(results[0]) == 0 ? nil : "block \(nodes.word(results[0])) was torn"
      },
      check("frozen-memory", 2) { nodes in
        // The vCPU comes out of the guest meanwhile, and then gets what it wanted.
        nodes.memories[1].store(GuestAddress(results[1]), UInt32(77))
        nodes.coherent[0].freeze()
        nonisolated(unsafe) let guests = nodes
        let thaws = try HostThread(name: "thaw") {
          HostClock.sleep(nanoseconds: 50_000_000)
          guests.coherent[0].thaw()
        }
        defer { thaws.join() }
        let time = try nodes.run([copy, []], [[6: results[1], 7: x], [:]])
        if time < 40_000_000 { return "it did not wait" }
        return nodes.word(x) == 77 ? nil : "it read \(nodes.word(x))"
      },
      check("lost-page", 2) { nodes in
        let done = WaitWord()
        nodes.coherent[0].recover(without: NodeSet(NodeID(rawValue: 1))) { done.advance() }
        while done.value == 0 { done.wait(while: 0, nanoseconds: 1_000_000_000) }
        nodes.coherent[0].thaw()
        // This guest takes no machine checks: it must stop, and not read zero.
        do {
          try nodes.run([copy, []], [[6: results[1], 7: x], [:]])
          return "it read \(nodes.word(x))"
        } catch let stuck as KVMNodes.Stuck {
          return stuck.ends.allSatisfy { $0.contains("lost") || $0 == "shutdown" }
            ? nil : "\(stuck.ends)"
        }
      },
      check("time-stamp-counters", 2) { nodes in
        // As they start, after a stop of some seconds, and as they must never be.
        let behind: [(name: String, ticks: [UInt64])] = [
          ("start", [0, 0]), ("stop", [10_000_000_000, 10_000_000_000]), ("apart", [0, 1 << 40]),
        ]
        for step in behind {
          nodes.setCounters(behind: step.ticks)
          let memory = nodes.memories[0]
          for word in UInt64(0)..<4 { memory.store(GuestAddress(x + word * 8), UInt64(0)) }
          memory.store(GuestAddress(x + 32), UInt64.max)
          let first: [Int: UInt64] = [7: x, 9: 0, 1: UInt64(rounds)]
          var second = first
          second[9] = 1
          try nodes.run(
            [NodePrograms.compareCounters, NodePrograms.compareCounters], [first, second])
          let count = nodes.long(x + 16)
          if step.name == "apart" {
            if count > 0 { return nil }
            // PVM gives guests the host's counter whatever it is told.
            if (try? KVMAccelerator.probe()) != nil { return "nobody noticed a wrong counter" }
            report("counters: this host's KVM does not move them")
            return nil
          }
          report(
            "counters (\(step.name)): \(count) of \(2 * rounds) readings behind the other node's, by \(nodes.long(x + 24)) ticks; the least ahead \(nodes.long(x + 32))"
          )
          if count != 0 { return "\(count) readings were behind after \(step.name)" }
        }
        return nil
      },
      check("devices-and-guest", 2) { nodes in
        // A device of node 0 changes the word that the guest of node 1 counts on.
        let registers: [Int: UInt64] = [7: x, 9: 1, 1: UInt64(rounds)]
        let memory = nodes.memories[0]
        nonisolated(unsafe) let guests = nodes
        let device = try HostThread(name: "device") {
          for n in 0..<UInt32(rounds) {
            let limit = HostClock.monotonic + 20_000_000_000
            while guests.word(x) != 2 * n, HostClock.monotonic < limit {
              HostClock.sleep(nanoseconds: 20_000)
            }
            memory.store(GuestAddress(x), 2 * n + 1)
          }
        }
        defer { device.join() }
        try nodes.run([[0xF4], NodePrograms.takeTurns], [[:], registers])
        return nodes.word(x) == UInt32(2 * rounds) ? nil : "counted to \(nodes.word(x))"
      },
    ]
  }

  /// Whether all outcomes are allowed: results of both (two words each), then the variables at the end.
  private static func litmus(
    _ nodes: KVMNodes, _ rounds: Int, _ bodies: [[UInt8]], _ crossed: [Bool],
    _ isAllowed: ([UInt32]) -> Bool
  ) throws -> String? {
    let registers = bodies.indices.map { n -> [Int: UInt64] in
      [
        7: crossed[n] ? y : x, 6: crossed[n] ? x : y, 3: results[n], 8: barrier, 9: 0,
        1: UInt64(rounds),
      ]
    }
    try nodes.run(bodies.map { NodePrograms.rounds(of: 2, $0) }, registers)
    for n in 0..<UInt64(rounds) {
      var values: [UInt32] = []
      for reader in 0..<2 {
        values.append(nodes.word(results[reader] + n * 8))
        values.append(nodes.word(results[reader] + n * 8 + 4))
      }
      values += [nodes.word(x + n * 64), nodes.word(y + n * 64)]
      if !isAllowed(values) { return "round \(n): \(values)" }
    }
    return nil
  }
}
