import Block
import Host
import Testing

@Suite struct IOVectorTests {
  @Test func piecesAreCutAndCopiedAcrossTheirBorders() {
    let first = IOBuffer([1, 2, 3, 4])
    let target = IOBuffer(count: 6)
    target.vector(1..<5).copy(from: first.vector)
    #expect(target.bytes == [0, 1, 2, 3, 4, 0])
    #expect(target.vector.slice(1, 3).bytes() == [1, 2, 3])
    #expect(target.vector.zeroRun(0, granularity: 1) == (true, 1))
    #expect(target.vector.slice(5, 9).isZero)
    #expect(!target.vector.hasSameBytes(as: first.vector))
  }
}
