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
  /// Where in the file it begins.
  private let fileOffset: UInt64

  /// Whether the process may not write there.
  package let isReadOnly: Bool
  /// The address of the guest's own mapping; 0: none.
  private let guestMapping = Atomic<UInt>(0)

  /// What backs the mapping.
  package enum Backing: Sendable {
    case anonymous
    /// Anonymous memory that a forked process would share.
    case sharedAnonymous
    /// Anonymous file, so that other processes can map it.
    case memfd
    /// An open file of at least the size, which the block owns from now on.
    case file(Int32, isShared: Bool, isReadOnly: Bool)
    /// A block of an object that the processes of the machine share, its pages' flags too.
    case object(SharedObject, block: Int)
  }

  /// Reserves the memory. `alignment` of its address is a power of two (0: a page); `reservesSwap` has the host set swap space aside.
  ///
  /// Throws `SystemError` for `mmap` or `memfd_create`.
  package init(
    name: String, size: Int, backing: Backing = .anonymous, alignment: UInt64 = 0,
    reservesSwap: Bool = false
  ) throws(SystemError) {
    let page = Int(GuestAddress.pageSize)
    guard size <= 1 << 52 else { throw SystemError(call: "mmap", code: ENOMEM) }
    let length = max((size &+ page &- 1) / page * page, page)
    var file: Int32 = -1
    var isReadOnly = false
    var sharing = MAP_PRIVATE
    var offset: UInt64 = 0
    var flagsOffset: UInt64?
    switch backing {
    case .anonymous: sharing |= MAP_ANONYMOUS
    case .sharedAnonymous: sharing = MAP_SHARED | MAP_ANONYMOUS
    case .memfd:
      file = unsafe goliath_memfd(name)
      if file < 0 { throw SystemError(call: "memfd_create", code: -file) }
      let target = file
      try SystemError.check("ftruncate") { () -> Int32 in ftruncate(target, length) }
      sharing = MAP_SHARED
    case .file(let descriptor, let isShared, let readOnly):
      file = descriptor
      isReadOnly = readOnly
      if isShared { sharing = MAP_SHARED }
    case .object(let object, let block):
      guard object.layout.blocks.indices.contains(block),
        object.layout.blocks[block] == UInt64(length)
      else { throw SystemError(call: "mmap", code: EINVAL) }
      let shared = object.descriptor
      file = try SystemError.check("fcntl") { () -> Int32 in fcntl(shared, F_DUPFD_CLOEXEC, 3) }
      sharing = MAP_SHARED
      offset = object.layout.block(block)
      flagsOffset = object.layout.flags(block)
    }
    self.name = name
    self.size = length
    self.isReadOnly = isReadOnly
    descriptor = file
    fileOffset = offset
    if !reservesSwap { sharing |= MAP_NORESERVE }
    do throws(SystemError) {
      unsafe base = try RAMBlock.map(
        length, sharing, file, protection: isReadOnly ? PROT_READ : PROT_READ | PROT_WRITE,
        alignment: Int(clamping: min(alignment, 1 << 40)), offset: Int(offset))
      let flags =
        if let flagsOffset {
          unsafe try RAMBlock.map(
            length / page, MAP_SHARED | MAP_NORESERVE, file, offset: Int(flagsOffset))
        } else {
          unsafe try RAMBlock.map(
            length / page, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1)
        }
      // SAFETY: a mapping of at least that many bytes, zero at first; an Atomic<UInt8> is one byte, zero a valid value.
      unsafe pageFlags = flags.bindMemory(to: Atomic<UInt8>.self, capacity: length / page)
    } catch {
      if file >= 0 { close(file) }
      throw error
    }
  }

  deinit {
    // SAFETY: the last reference is gone, so nobody uses the mappings any more.
    unsafe munmap(base, size)
    if let guest = unsafe UnsafeMutableRawPointer(
      bitPattern: guestMapping.load(ordering: .acquiring))
    {
      unsafe munmap(guest, size)
    }
    unsafe munmap(UnsafeMutableRawPointer(pageFlags), size / Int(GuestAddress.pageSize))
    if descriptor >= 0 { close(descriptor) }
  }

  /// Where the guest of an accelerator that works with the host's page tables is to have the block: `base`, or the mapping that
  /// `mapForGuest` made, in which pages may be missing.
  package var guestBase: UnsafeMutableRawPointer {
    unsafe UnsafeMutableRawPointer(bitPattern: guestMapping.load(ordering: .acquiring)) ?? base
  }

  /// Maps the block a second time, for the guest; again: answers what it made. Only memory of a file can be. Throws `SystemError` for `mmap`.
  package func mapForGuest() throws(SystemError) -> UnsafeMutableRawPointer {
    let made = guestMapping.load(ordering: .acquiring)
    if let made = unsafe UnsafeMutableRawPointer(bitPattern: made) { return unsafe made }
    if descriptor < 0 { throw SystemError(call: "mmap", code: EBADF) }
    let guest = unsafe try RAMBlock.map(
      size, MAP_SHARED | MAP_NORESERVE, descriptor,
      protection: isReadOnly ? PROT_READ : PROT_READ | PROT_WRITE, alignment: 2 << 20,
      offset: Int(fileOffset))
    guestMapping.store(unsafe UInt(bitPattern: guest), ordering: .releasing)
    return unsafe guest
  }

  /// Gives the host back what pages of the block hold: they read as zero afterwards.
  func discard(_ start: UnsafeMutableRawPointer, count: Int) {
    // SAFETY: pages of our own mapping, which stays; shared memory is emptied for all who map it.
    _ = unsafe madvise(start, count, descriptor < 0 ? Int32(MADV_DONTNEED) : Int32(MADV_REMOVE))
  }

  private static func map(
    _ length: Int, _ flags: Int32, _ file: Int32, protection: Int32 = PROT_READ | PROT_WRITE,
    alignment: Int = 0, offset: Int = 0
  ) throws(SystemError) -> UnsafeMutableRawPointer {
    let page = Int(GuestAddress.pageSize)
    var place: UnsafeMutableRawPointer?
    if alignment > page {
      // Room enough for an aligned part, which the mapping then takes; the rest stays reserved and costs nothing.
      let room = unsafe mmap(
        nil, length &+ alignment, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
      guard let room = unsafe room, unsafe room != MAP_FAILED else {
        throw SystemError(call: "mmap", code: errno)
      }
      let start = UInt(bitPattern: unsafe room)
      let aligned = (start &+ UInt(alignment) &- 1) / UInt(alignment) * UInt(alignment)
      // SAFETY: within the room just made.
      unsafe place = room + Int(aligned &- start)
    }
    let fixed = unsafe place == nil ? 0 : MAP_FIXED
    // SAFETY: a fresh mapping at an address of the kernel's choice, or over the room above that nothing uses.
    let address = unsafe mmap(place, length, protection, flags | fixed, file, offset)
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
