import CLinux
import Glibc
package import Host
package import Synchronization

/// A piece of guest RAM or ROM: one host mapping and a byte of flags for each of its pages.
///
/// The mapping is made at once and never moves; untouched pages cost nothing.
@safe package final class RAMBlock: Sendable {
  /// The name that `info ramblock` and errors use, such as `pc.ram`.
  package let name: String
  /// Bytes; a multiple of the page size.
  package let size: Int
  /// The first byte. Valid for `size` bytes as long as the block lives; guest, devices and the monitor may all write there.
  nonisolated(unsafe) package let base: UnsafeMutableRawPointer
  /// Its address in this process, as a number to show.
  // SAFETY: no access goes through the number.
  package var hostAddress: UInt64 { UInt64(UInt(bitPattern: unsafe base)) }
  /// One byte for each page, see `PageFlags`.
  nonisolated(unsafe) package let pageFlags: UnsafeMutablePointer<Atomic<UInt8>>
  /// The file behind the mapping, or -1 for private memory.
  package let descriptor: Int32

  /// What backs the mapping.
  package enum Backing: Sendable {
    case anonymous
    /// Anonymous file, so that other processes can map it.
    case memfd
  }

  /// Reserves the memory. Throws `SystemError` for `mmap` or `memfd_create`.
  package init(name: String, size: Int, backing: Backing = .anonymous) throws(SystemError) {
    let page = Int(GuestAddress.pageSize)
    let length = max((size &+ page &- 1) / page * page, page)
    var file: Int32 = -1
    if backing == .memfd {
      file = unsafe goliath_memfd(name)
      if file < 0 { throw SystemError(call: "memfd_create", code: -file) }
      let target = file
      try SystemError.check("ftruncate") { () -> Int32 in ftruncate(target, length) }
    }
    self.name = name
    self.size = length
    descriptor = file
    let sharing = file < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED
    unsafe base = try RAMBlock.map(length, sharing | MAP_NORESERVE, file)
    let flags = unsafe try RAMBlock.map(
      length / page, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1)
    // SAFETY: fresh zero pages of exactly that many bytes; an Atomic<UInt8> is one byte, zero a valid value.
    unsafe pageFlags = flags.bindMemory(to: Atomic<UInt8>.self, capacity: length / page)
  }

  deinit {
    // SAFETY: the last reference is gone, so nobody uses the mappings any more.
    unsafe munmap(base, size)
    unsafe munmap(UnsafeMutableRawPointer(pageFlags), size / Int(GuestAddress.pageSize))
    if descriptor >= 0 { close(descriptor) }
  }

  /// Lets the kernel merge pages with equal ones (KSM), where it can (`-machine mem-merge=on`).
  package func allowMerging() {
    // SAFETY: our own mapping; its contents stay.
    _ = unsafe madvise(base, size, Int32(MADV_MERGEABLE))
  }

  /// Leaves the memory out of core dumps of the process (`-machine dump-guest-core=off`).
  package func excludeFromCoreDumps() {
    // SAFETY: our own mapping; its contents stay.
    _ = unsafe madvise(base, size, Int32(MADV_DONTDUMP))
  }

  private static func map(
    _ length: Int, _ flags: Int32, _ file: Int32
  ) throws(SystemError) -> UnsafeMutableRawPointer {
    // SAFETY: a fresh mapping at an address of the kernel's choice.
    let address = unsafe mmap(nil, length, PROT_READ | PROT_WRITE, flags, file, 0)
    guard let address = unsafe address, unsafe address != MAP_FAILED else {
      throw SystemError(call: "mmap", code: errno)
    }
    return unsafe address
  }

  /// Sets flags on the page that holds byte `offset`. Any thread.
  package func setPageFlags(_ flags: PageFlags, at offset: UInt64) {
    let page = Int(truncatingIfNeeded: offset / GuestAddress.pageSize)
    guard page < size / Int(GuestAddress.pageSize) else { return }
    unsafe pageFlags[page].bitwiseOr(flags.rawValue, ordering: .acquiringAndReleasing)
  }

  /// Clears flags on the page that holds byte `offset`. Any thread.
  package func clearPageFlags(_ flags: PageFlags, at offset: UInt64) {
    let page = Int(truncatingIfNeeded: offset / GuestAddress.pageSize)
    guard page < size / Int(GuestAddress.pageSize) else { return }
    unsafe pageFlags[page].bitwiseAnd(~flags.rawValue, ordering: .acquiringAndReleasing)
  }
}

/// What is known of a page of RAM.
package struct PageFlags: OptionSet, Sendable {
  package let rawValue: UInt8
  package init(rawValue: UInt8) { self.rawValue = rawValue }
  /// The software CPU has decoded instructions from this page: whoever writes to it must say so.
  package static let code = PageFlags(rawValue: 1)
  /// Another node has the right to read this page: its bytes here mean nothing. Set together with `noWrite`.
  package static let noRead = PageFlags(rawValue: 2)
  /// Another node has the right to write this page, or also reads it.
  package static let noWrite = PageFlags(rawValue: 4)
}
