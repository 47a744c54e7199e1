import Glibc
package import Host

/// A disk that holds nothing (`null-co`, `null-aio`): for measurements and tests.
package final class NullNode: BlockNode {
  package let driver: String
  package let name: String
  package let length: UInt64
  package let isReadOnly: Bool
  private let readsZeroes: Bool
  private let latency: UInt64

  /// `latency` is what every request takes, in nanoseconds. Without `readsZeroes` memory is left as it is.
  package init(
    name: String, driver: String = "null-co", length: UInt64 = 1 << 30, readsZeroes: Bool = false,
    latency: UInt64 = 0, isReadOnly: Bool = false
  ) {
    self.name = name
    self.driver = driver
    self.length = length
    self.readsZeroes = readsZeroes
    self.latency = latency
    self.isReadOnly = isReadOnly
  }

  package var allocatedSize: UInt64? { 0 }

  package func read(_ offset: UInt64, into target: IOVector) throws(BlockError) {
    wait()
    if readsZeroes { target.fill(0) }
  }

  package func readNow(_ offset: UInt64, into target: IOVector) throws(BlockError) -> Bool {
    guard latency == 0 else { return false }
    if readsZeroes { target.fill(0) }
    return true
  }

  package func write(
    _ offset: UInt64, from source: IOVector, _ flags: WriteFlags
  ) throws(BlockError) { wait() }

  package func writeZeroes(
    _ offset: UInt64, _ count: UInt64, _ flags: WriteFlags
  ) throws(BlockError) { wait() }

  package func discard(_ offset: UInt64, _ count: UInt64) throws(BlockError) { wait() }

  package func flush() throws(BlockError) { wait() }

  package func truncate(
    to length: UInt64, _ preallocation: Preallocation
  ) throws(BlockError) {
    throw BlockError(ENOTSUP, "Image format driver does not support resize")
  }

  package func status(_ offset: UInt64, _ count: UInt64) throws(BlockError) -> BlockStatus {
    let count = offset < length ? min(count, length - offset) : 0
    return BlockStatus(
      length: count, isAllocated: true, isZero: readsZeroes, isData: false, hostOffset: offset)
  }

  private func wait() {
    guard latency > 0 else { return }
    HostClock.sleep(nanoseconds: Int64(clamping: latency))
  }
}
