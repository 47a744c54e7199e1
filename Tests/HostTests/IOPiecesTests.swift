import Host
import Testing

/// Lists of memory that frames are sent from and received into.
@Suite struct IOPiecesTests {
  /// Memory of a test, filled, or with a byte of its own at each place.
  private final class Room {
    // SAFETY: `count` bytes, freed with this object.
    let base: UnsafeMutableRawPointer
    let count: Int

    init(_ count: Int, filled: UInt8? = nil) {
      self.count = count
      unsafe base = UnsafeMutableRawPointer.allocate(byteCount: count, alignment: 64)
      for place in 0..<count {
        let byte = filled ?? UInt8(truncatingIfNeeded: place &* 7 &+ place >> 8)
        unsafe base.storeBytes(of: byte, toByteOffset: place, as: UInt8.self)
      }
    }
    deinit { unsafe base.deallocate() }

    func bytes(_ range: Range<Int>) -> [UInt8] {
      range.map { unsafe base.load(fromByteOffset: $0, as: UInt8.self) }
    }

    /// Puts a piece of this memory into a list.
    func add(_ range: Range<Int>, to pieces: inout IOPieces) {
      // SAFETY: within this memory, which its test keeps.
      unsafe pieces.append(base + range.lowerBound, count: range.count)
    }
  }

  @Test func piecesThatTouchBecomeOne() {
    let memory = Room(4096)
    var pieces = IOPieces(capacity: 2)
    defer { pieces.free() }
    memory.add(0..<100, to: &pieces)
    memory.add(100..<150, to: &pieces)
    memory.add(200..<200, to: &pieces)
    #expect(pieces.pieceCount == 1 && pieces.count == 150)
    memory.add(1000..<1010, to: &pieces)
    #expect(pieces.pieceCount == 2 && pieces.count == 160)
    #expect(pieces.vector.count == 160)
    #expect(pieces.vector.bytes() == memory.bytes(0..<150) + memory.bytes(1000..<1010))
  }

  /// What is copied in goes to the pieces in order; what one side lacks is left out.
  @Test(arguments: [0, 1, 99, 100, 101, 250, 300, 1000]) func copyFillsPiecesInOrder(_ length: Int)
  {
    let source = IOBuffer((0..<1000).map { UInt8(truncatingIfNeeded: $0 &* 11) })
    let target = Room(1000, filled: 0xEE)
    var pieces = IOPieces(capacity: 3)
    defer { pieces.free() }
    for place in [500, 0, 800] { target.add(place..<place + 100, to: &pieces) }
    pieces.copy(from: source, 0, count: length)
    var expected = [UInt8](repeating: 0xEE, count: 1000)
    for (index, byte) in source.bytes(0..<min(length, 300)).enumerated() {
      expected[[500, 0, 800][index / 100] + index % 100] = byte
    }
    #expect(target.bytes(0..<1000) == expected)
    // Outside of the source: nothing.
    pieces.copy(from: source, 999, count: 2)
    pieces.copy(from: source, -1, count: 2)
    #expect(target.bytes(0..<1000) == expected)
  }

  /// Through a socket, in one call each, from and to pieces that lie apart; also when the beginning had come before.
  @Test(arguments: [0, 1, 149, 150, 299]) func socketsSendAndReceivePieces(_ ahead: Int) throws {
    let (one, other) = try StreamSocket.pair()
    let source = Room(1000)
    let target = Room(1000, filled: 0)
    var from = IOPieces(capacity: 2)
    var into = IOPieces(capacity: 3)
    defer {
      from.free()
      into.free()
    }
    source.add(700..<900, to: &from)
    source.add(0..<100, to: &from)
    for place in [900, 300, 100] { target.add(place..<place + 100, to: &into) }
    let header = SIMD4<UInt64>(1, 2, 3, 4)
    #expect(one.send(header, from) == 332)
    let first = IOBuffer(count: 32 + ahead)
    #expect(other.receive(into: first.vector))
    #expect(first.words(at: 0) == header)
    into.copy(from: first, 32, count: ahead)
    #expect(other.receive(into: into, from: ahead))
    #expect(
      target.bytes(900..<1000) + target.bytes(300..<400) + target.bytes(100..<200)
        == source.bytes(700..<900) + source.bytes(0..<100))
    // The peer ends in the midst of it.
    #expect(one.send(header, from) == 332)
    one.shutDown()
    #expect(other.receive(into: first.vector))
    var rest = IOPieces(capacity: 1)
    defer { rest.free() }
    target.add(0..<300, to: &rest)
    #expect(other.receive(into: rest, from: 0) == (ahead == 0))
  }
}
