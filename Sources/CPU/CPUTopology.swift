/// How vCPUs are grouped, and the APIC IDs that follow from it (SDM vol. 3A, 9.9; QEMU's assignment).
///
/// Each level takes as many bits as its count needs, so with counts that are no powers of two some APIC IDs stay unused.
package struct CPUTopology: Equatable, Sendable {
  package var sockets: Int
  /// In a socket.
  package var dies: Int
  /// In a die.
  package var cores: Int
  /// In a core.
  package var threads: Int

  /// Counts below 1 are taken as 1.
  package init(sockets: Int = 1, dies: Int = 1, cores: Int = 1, threads: Int = 1) {
    self.sockets = max(1, sockets)
    self.dies = max(1, dies)
    self.cores = max(1, cores)
    self.threads = max(1, threads)
  }

  /// Bits that `count` values need.
  private static func width(_ count: Int) -> UInt32 {
    count <= 1 ? 0 : UInt32(Int.bitWidth - (count - 1).leadingZeroBitCount)
  }

  var coreShift: UInt32 { Self.width(threads) }
  var dieShift: UInt32 { coreShift + Self.width(cores) }
  var packageShift: UInt32 { dieShift + Self.width(dies) }
  var threadsInPackage: Int { threads * cores * dies }

  /// Where the vCPU with this index is: its socket, the die in that, the core in that, the thread in that.
  package func place(
    ofVCPU index: Int
  ) -> (socket: Int, die: Int, core: Int, thread: Int) {
    (
      index / (threads * cores * dies), index / (threads * cores) % dies, index / threads % cores,
      index % threads
    )
  }

  /// The APIC ID of the vCPU with this index, in order of socket, die, core, thread.
  package func apicID(ofVCPU index: Int) -> UInt32 {
    let thread = index % threads
    let core = index / threads % cores
    let die = index / (threads * cores) % dies
    let socket = index / (threads * cores * dies)
    var id = UInt32(truncatingIfNeeded: socket) << packageShift
    id |= UInt32(truncatingIfNeeded: die) << dieShift
    id |= UInt32(truncatingIfNeeded: core) << coreShift
    return id | UInt32(truncatingIfNeeded: thread)
  }

  /// The number of the core in its die that owns `apicID`.
  func core(ofAPIC apicID: UInt32) -> UInt32 {
    apicID >> coreShift & (1 << (dieShift - coreShift) - 1)
  }
}
