package import Block
package import Host
import Synchronization

/// A medium all of whose bytes have bit 7 set, so that nothing on it names memory. Every other read is had at once; of the rest, and of writes, some
/// take a while, and some fail if they may.
package final class MoodyNode: BlockNode {
  package let driver = "null-co"
  package let name: String
  package let isReadOnly = false
  package let length: UInt64
  private let fails: Bool
  private let count = Atomic<UInt64>(0)
  /// What was written to the first 512 bytes last.
  private let first = Mutex([UInt8](repeating: 0x80, count: 512))

  package init(_ name: String, length: UInt64, fails: Bool) {
    self.name = name
    self.length = length
    self.fails = fails
  }

  private func meet() throws(BlockError) {
    let number = count.wrappingAdd(1, ordering: .relaxed).newValue
    if number % 5 == 0 { WaitWord().wait(while: 0, nanoseconds: 50_000) }
    if fails, number % 13 == 0 { throw BlockError(5, "no") }
  }
  package func read(_ offset: UInt64, into target: IOVector) throws(BlockError) {
    try meet()
    target.fill(0x80)
    if offset == 0, target.count == 512 { target.store(first.withLock { $0 }) }
  }
  package func readNow(_ offset: UInt64, into target: IOVector) throws(BlockError) -> Bool {
    if count.wrappingAdd(1, ordering: .relaxed).newValue % 2 == 0 { return false }
    try read(offset, into: target)
    return true
  }
  package func write(_ offset: UInt64, from source: IOVector, _ flags: WriteFlags)
    throws(BlockError)
  {
    try meet()
    if offset == 0, source.count == 512 { first.withLock { $0 = source.bytes() } }
  }
  package func writeZeroes(_ offset: UInt64, _ count: UInt64, _ flags: WriteFlags)
    throws(BlockError)
  {
    try meet()
  }
  package func discard(_ offset: UInt64, _ count: UInt64) throws(BlockError) { try meet() }
  package func flush() throws(BlockError) { try meet() }
  package func truncate(to length: UInt64, _ preallocation: Preallocation) throws(BlockError) {}
  package func status(_ offset: UInt64, _ count: UInt64) throws(BlockError) -> BlockStatus {
    BlockStatus(length: count, isAllocated: true, isZero: false, isData: true)
  }
}
