import CX86
import Glibc
import Shm

/// The memory of one vCPU's state, zero at first: guard page, stack for the C helpers of translated code, state.
@safe final class StateMemory {
  private static let guardBytes = 4096
  private static let size = guardBytes + Int(X86_STACK_BYTES) + Int(X86_STATE_BYTES)

  // SAFETY: a mapping of `size` bytes, unmapped in deinit.
  private let map: UnsafeMutableRawPointer
  /// The state, page-aligned; below it lie X86_STACK_BYTES of stack, and below these a page that cannot be touched.
  let pointer: UnsafeMutablePointer<X86State>

  /// What others write to tell the vCPU something: part of the state, but in memory that other processes see where there are any.
  let mailbox: UnsafeMutablePointer<X86Mailbox>

  /// `shared`: the vCPU's mailbox lies in an object that other processes map too. Nil when the host has no memory left.
  init?(shared: SharedMailbox? = nil) {
    let map = unsafe mmap(
      nil, StateMemory.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    guard let map = unsafe map, unsafe map != MAP_FAILED else { return nil }
    // SAFETY: the first page of the mapping.
    guard unsafe mprotect(map, StateMemory.guardBytes, PROT_NONE) == 0 else {
      unsafe munmap(map, StateMemory.size)
      return nil
    }
    unsafe self.map = map
    unsafe pointer = (map + StateMemory.guardBytes + Int(X86_STACK_BYTES))
      .assumingMemoryBound(to: X86State.self)
    unsafe mailbox = x86_mailbox(pointer)
    // SAFETY: pages of our own mapping, whose place another mapping of the same length takes.
    if let shared, unsafe !shared.map(over: mailbox, count: Int(X86_MAILBOX_BYTES)) {
      unsafe munmap(map, StateMemory.size)
      return nil
    }
  }

  deinit { unsafe munmap(map, StateMemory.size) }
}
