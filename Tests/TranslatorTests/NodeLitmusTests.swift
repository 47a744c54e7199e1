import Cluster
import Guests
import Host
import Shm
import Testing
import Translator

/// What vCPUs on different nodes may see of each other's stores, when pages go from node to node: sequential consistency, and nothing
/// lost (distributed.md, sections 5 and 15).
@Suite(.serialized) struct NodeLitmusTests {
  private static let modes: [LitmusTests.Mode] = LitmusTests.Mode.all.filter {
    ["interpreter", "translated at once"].contains($0.testDescription)
  }
  private static let x: UInt64 = 0x10_0000
  private static let y: UInt64 = 0x18_0000
  private static let results: [UInt64] = [0x20_0000, 0x28_0000, 0x30_0000, 0x38_0000]
  private static let barrier: UInt64 = 0x08_0000
  private static let rounds = 120

  /// How often each list of values was seen: the results of the processors in `readers` (both words of each), then the variables at the end.
  private func outcomes(
    _ mode: LitmusTests.Mode, _ bodies: [[UInt8]], crossed: [Bool], readers: [Int]
  ) throws -> [[UInt32]: Int] {
    let nodes = try Nodes(
      bodies.count, mode.tuning, .init(seed: 7, longestDelayMicroseconds: 30))
    let programs = bodies.map { NodePrograms.rounds(of: UInt8(bodies.count), $0) }
    let registers = bodies.indices.map { n -> [Int: UInt64] in
      [
        7: crossed[n] ? Self.y : Self.x, 6: crossed[n] ? Self.x : Self.y, 3: Self.results[n],
        8: Self.barrier, 9: 0, 1: UInt64(Self.rounds),
      ]
    }
    try nodes.run(programs, registers)
    var seen: [[UInt32]: Int] = [:]
    for n in 0..<UInt64(Self.rounds) {
      var values: [UInt32] = []
      for reader in readers {
        values.append(nodes.word(Self.results[reader] + n * 8))
        values.append(nodes.word(Self.results[reader] + n * 8 + 4))
      }
      values += [nodes.word(Self.x + n * 64), nodes.word(Self.y + n * 64)]
      seen[values, default: 0] += 1
    }
    #expect(nodes.end() == [])
    #expect(seen.values.reduce(0, +) == Self.rounds)
    return seen
  }

  @Test(arguments: modes)
  func storeBuffering(_ mode: LitmusTests.Mode) throws {
    let body = NodePrograms.storeFenceLoad
    let seen = try outcomes(mode, [body, body], crossed: [false, true], readers: [0, 1])
    for values in seen.keys {
      #expect(values[0] | values[2] == 1, "\(seen)")
      #expect(values.suffix(2) == [1, 1])
    }
  }

  @Test(arguments: modes)
  func messagePassing(_ mode: LitmusTests.Mode) throws {
    // The reader looks at y, which is written last, first.
    let seen = try outcomes(
      mode, [NodePrograms.writeTwo, NodePrograms.readTwo], crossed: [false, true], readers: [1])
    for values in seen.keys { #expect(!(values[0] == 1 && values[1] == 0), "\(seen)") }
  }

  @Test(arguments: modes)
  func loadBuffering(_ mode: LitmusTests.Mode) throws {
    let body = NodePrograms.loadStore
    let seen = try outcomes(mode, [body, body], crossed: [false, true], readers: [0, 1])
    for values in seen.keys { #expect(!(values[0] == 1 && values[2] == 1), "\(seen)") }
  }

  @Test(arguments: modes)
  func twoWritesEach(_ mode: LitmusTests.Mode) throws {
    let body = NodePrograms.writeOneTwo
    let seen = try outcomes(mode, [body, body], crossed: [false, true], readers: [])
    for values in seen.keys {
      #expect(values != [1, 1], "\(seen)")
      #expect(values.allSatisfy { $0 == 1 || $0 == 2 })
    }
  }

  @Test(arguments: modes)
  func independentReadsOfIndependentWrites(_ mode: LitmusTests.Mode) throws {
    let seen = try outcomes(
      mode,
      [
        NodePrograms.writeOne, NodePrograms.writeOne, NodePrograms.readTwo, NodePrograms.readTwo,
      ],
      crossed: [false, true, false, true], readers: [2, 3])
    for values in seen.keys {
      #expect(Array(values.prefix(4)) != [1, 0, 1, 0], "\(seen)")
      #expect(values.suffix(2) == [1, 1])
    }
  }

  /// Aligned, across a cache line, across a page: nothing is lost.
  @Test(arguments: modes, [0x10_0100, 0x10_013C, 0x10_0FFC] as [UInt64])
  func lockedAdditions(_ mode: LitmusTests.Mode, _ address: UInt64) throws {
    for (body, step) in [(NodePrograms.incrementShared, 1), (NodePrograms.addThreeShared, 3)] {
      let nodes = try Nodes(3, mode.tuning)
      // All come to the addition at the same time, in each round.
      let registers: [Int: UInt64] = [
        7: Self.x + 0x4_0000, 6: Self.y, 3: Self.results[0], 8: Self.barrier, 9: 0,
        1: UInt64(Self.rounds), 10: address,
      ]
      let code = NodePrograms.rounds(of: 3, body)
      try nodes.run([code, code, code], [registers, registers, registers])
      #expect(nodes.long(address) == UInt64(3 * Self.rounds * step))
      #expect(nodes.end() == [])
    }
  }

  @Test(arguments: modes)
  func exchangesOf16Bytes(_ mode: LitmusTests.Mode) throws {
    let nodes = try Nodes(2, mode.tuning)
    let registers: [Int: UInt64] = [7: Self.x, 1: 2000]
    let code = LitmusPrograms.compareExchange16
    try nodes.run([code, code], [registers, registers])
    #expect(nodes.long(Self.x) == 4000)
    #expect(nodes.long(Self.x + 8) == 8000)
    #expect(nodes.end() == [])
  }

  @Test(arguments: modes)
  func spinLock(_ mode: LitmusTests.Mode) throws {
    let nodes = try Nodes(2, mode.tuning, .init(seed: 3, longestDelayMicroseconds: 20))
    let registers: [Int: UInt64] = [7: Self.x, 6: Self.y, 1: 300]
    let code = LitmusPrograms.spinLock
    try nodes.run([code, code], [registers, registers])
    #expect(nodes.long(Self.x) == 600)
    #expect(nodes.word(Self.x + 64) == 3000)
    #expect(nodes.end() == [])
  }

  @Test(arguments: modes)
  func sequenceLock(_ mode: LitmusTests.Mode) throws {
    let nodes = try Nodes(2, mode.tuning)
    let registers: [Int: UInt64] = [7: Self.x, 6: Self.y, 1: 500, 11: Self.results[0], 12: 500]
    try nodes.run(
      [NodePrograms.sequenceWriter, NodePrograms.sequenceReader], [registers, registers])
    #expect(nodes.word(Self.results[0]) == 0)
    #expect(nodes.word(Self.x + 4096) == 500)
    #expect(nodes.end() == [])
  }

  /// A block of three pages, off all boundaries, filled and copied by string instructions.
  @Test(arguments: modes)
  func stringInstructions(_ mode: LitmusTests.Mode) throws {
    let nodes = try Nodes(2, mode.tuning)
    var writer: [Int: UInt64] = [10: 0, 12: Self.x + 0xFF9, 13: 60, 8: Self.results[1], 6: Self.y]
    try nodes.run(
      [NodePrograms.blockWriter, NodePrograms.blockReader],
      [
        writer,
        {
          writer[14] = Self.y
          writer[5] = Self.results[2] + 3
          writer[11] = Self.results[0]
          return writer
        }(),
      ])
    #expect(nodes.word(Self.results[0]) == 0)
    #expect(nodes.word(Self.results[1]) == 60)
    #expect(nodes.end() == [])
  }

  /// As Linux patches its text, the writer on another node than the one that executes.
  @Test(arguments: modes)
  func codeIsPatchedUnderARunningVCPU(_ mode: LitmusTests.Mode) throws {
    let nodes = try Nodes(2, mode.tuning)
    let function: UInt64 = 0x4_0000
    nodes.memories[0].write(GuestAddress(function), [0xB8, 0, 0, 0, 0, 0xC3])
    let registers: [Int: UInt64] = [
      7: function, 8: Self.x, 9: Self.x + 64, 10: Self.x + 128, 11: Self.x + 192, 1: 20,
    ]
    try nodes.run([LitmusPrograms.runner, LitmusPrograms.patcher], [registers, registers])
    // 0x77: the new code was not executed; odd otherwise: a torn instruction.
    #expect(nodes.word(Self.x + 64) == 0)
    #expect(nodes.word(Self.x + 192) == 20 &* 0x0101_0101)
    #expect(nodes.end() == [])
  }
}
