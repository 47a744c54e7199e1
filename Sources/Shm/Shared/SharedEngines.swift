package import Glibc
package import Host

/// What the software CPUs of a machine's processes tell each other about pages of code, in the shared object: a mailbox for each vCPU, how
/// many vCPUs are marking a page, and the lock for locked accesses that are not one instruction of the host.
///
/// The pages' flags are shared as well (`RAMBlock`), so between processes everything is as between the threads of one: nobody sends a frame,
/// and nobody waits but for vCPUs that execute.
@safe package final class SharedEngines: Sendable {
  /// vCPUs of the whole machine.
  package let vcpuCount: Int
  private let object: SharedObject
  private let count: Int
  // SAFETY: a mapping of `count` bytes, unmapped in deinit.
  nonisolated(unsafe) private let base: UnsafeMutableRawPointer

  /// Bytes of a vCPU's mailbox; what is in it is the translator's.
  package static let mailboxBytes = 4096 + 4096 * 8
  /// Counters of 8 bytes each.
  package static let markCount = 256
  private static let marksOffset = 64
  private static let mailboxesOffset = 4096

  static func size(vcpuCount: Int) -> Int { mailboxesOffset + vcpuCount * mailboxBytes }

  /// Maps them. Throws `SystemError` for `mmap`.
  package init(_ object: SharedObject) throws(SystemError) {
    self.object = object
    vcpuCount = object.layout.vcpuCount
    count = SharedEngines.size(vcpuCount: vcpuCount)
    // SAFETY: a fresh mapping at an address of the kernel's choice.
    let map = unsafe mmap(
      nil, count, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, object.descriptor,
      Int(object.layout.engines))
    guard let map = unsafe map, unsafe map != MAP_FAILED else {
      throw SystemError(call: "mmap", code: errno)
    }
    unsafe base = map
  }

  deinit { unsafe munmap(base, count) }

  /// The word of the lock for split accesses.
  package var splitLock: UnsafeMutableRawPointer { unsafe base }

  /// The counters of marked pages.
  package var marks: UnsafeMutableRawPointer { unsafe base + SharedEngines.marksOffset }

  /// A vCPU's mailbox as all processes see it; nil when there is no such vCPU.
  package func mailbox(_ vcpu: Int) -> UnsafeMutableRawPointer? {
    guard (0..<vcpuCount).contains(vcpu) else { return nil }
    return unsafe base + SharedEngines.mailboxesOffset + vcpu * SharedEngines.mailboxBytes
  }

  /// The same for the process that runs the vCPU, which wants it at an address of its own.
  package func ownMailbox(_ vcpu: Int) -> SharedMailbox? {
    guard (0..<vcpuCount).contains(vcpu) else { return nil }
    let offset = SharedEngines.mailboxesOffset + vcpu * SharedEngines.mailboxBytes
    return SharedMailbox(object: object, offset: Int(object.layout.engines) + offset)
  }
}

/// The mailbox of a vCPU of this process in the shared object.
package struct SharedMailbox: Sendable {
  let object: SharedObject
  let offset: Int

  /// Puts it in the place of `count` bytes of the caller's memory, which begin at a page. False: the host refuses.
  package func map(over place: UnsafeMutableRawPointer, count: Int) -> Bool {
    guard count == SharedEngines.mailboxBytes else { return false }
    // SAFETY: the caller's own pages, which it gives up; the object is as large as its layout says.
    let map = unsafe mmap(
      place, count, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, object.descriptor, offset)
    return unsafe map == place
  }
}
