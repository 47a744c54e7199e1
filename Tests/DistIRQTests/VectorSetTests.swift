import DistIRQ
import Testing

/// Numbers with a seed.
struct SeededWords: RandomNumberGenerator {
  var state: UInt64
  init(seed: UInt64) { state = seed }
  mutating func next() -> UInt64 {
    state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
    return (state ^ state >> 29) &* 0xBF58_476D_1CE4_E5B9 ^ state >> 32
  }
}

@Suite struct VectorSetTests {
  @Test func behavesAsASetOfNumbers() {
    var generator = SeededWords(seed: 1)
    var set = VectorSet()
    var model = Set<UInt8>()
    for _ in 0..<5_000 {
      let vector = UInt8.random(in: 0...255, using: &generator)
      if Bool.random(using: &generator) {
        set.insert(vector)
        model.insert(vector)
      } else {
        set.remove(vector)
        model.remove(vector)
      }
      #expect(set.highest == model.max())
      #expect(set.contains(vector) == model.contains(vector))
      #expect(set.isEmpty == model.isEmpty)
    }
    for register in 0..<8 {
      let expected = (0..<32).reduce(UInt32(0)) {
        $0 | (model.contains(UInt8(register * 32 + $1)) ? 1 << UInt32($1) : 0)
      }
      #expect(set[register: register] == expected)
    }
  }

  @Test func registersCanBeWrittenAndReadBack() {
    var set = VectorSet()
    for register in 0..<8 { set[register: register] = 0x8000_0001 &+ UInt32(register) << 8 }
    for register in 0..<8 {
      #expect(set[register: register] == 0x8000_0001 &+ UInt32(register) << 8)
    }
    #expect(set.highest == 255)
  }

  @Test func vcpuSetBehavesAsASetOfNumbers() {
    var generator = SeededWords(seed: 2)
    var set = VCPUSet()
    var model = Set<Int>()
    for _ in 0..<1_000 {
      let index = Int.random(in: -3...520, using: &generator)
      if Int.random(in: 0..<3, using: &generator) > 0 {
        set.insert(index)
        if (0..<VCPUSet.capacity).contains(index) { model.insert(index) }
      } else {
        set.remove(index)
        model.remove(index)
      }
      let start = Int.random(in: 0...520, using: &generator)
      #expect(set.first(from: start) == model.filter { $0 >= start }.min())
      #expect(set.count == model.count)
    }
    #expect(Array(set.indices) == model.sorted())
  }
}
