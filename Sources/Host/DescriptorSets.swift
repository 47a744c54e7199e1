import Glibc
import Synchronization

/// Descriptors that the process was given in numbered sets (`add-fd`, `-add-fd`), to be opened as the file `/dev/fdset/N`.
///
/// A set holds descriptors of different access modes; opening duplicates the one that fits. `FileDescriptor.open` opens here what
/// has such a name, and closing a `FileDescriptor` is noticed, so that a set goes when nobody uses it any more.
package final class DescriptorSets: Sendable {
  /// The process's own.
  package static let shared = DescriptorSets()

  /// What the names of sets begin with.
  package static let prefix = "/dev/fdset/"

  /// A descriptor of a set.
  package struct Member: Equatable, Sendable {
    package let descriptor: Int32
    /// What the user noted with it.
    package let note: String?
    /// It was removed and closes when the machine runs.
    fileprivate var isRemoved = false
  }

  /// A set, as users see it.
  package struct Listing: Equatable, Sendable {
    package let id: Int64
    package let members: [Member]
  }

  private struct Entry {
    let id: Int64
    /// Newest first.
    var members: [Member] = []
    /// Duplicates that are open.
    var duplicates: Set<Int32> = []
  }

  private struct State {
    /// By rising id.
    var entries: [Entry] = []
    var clientCount = 0
    var isMachineRunning: (@Sendable () -> Bool)?
  }

  private let state = Mutex(State())
  /// How many duplicates are open: closing any descriptor asks this first.
  private let duplicateCount = Atomic<Int>(0)

  init() {}

  /// Tells whether the machine runs; asked on the main loop. Sets lose what was removed only while it does.
  package func setMachineProbe(_ isRunning: @escaping @Sendable () -> Bool) {
    state.withLock { $0.isMachineRunning = isRunning }
  }

  /// Adds a descriptor, which the set owns from now on, to the set `id` (not negative), to a new one with the lowest free number
  /// when that is nil. Answers the set's number.
  @discardableResult
  package func add(_ descriptor: consuming FileDescriptor, to id: Int64?, note: String?) -> Int64 {
    let member = Member(descriptor: descriptor.release(), note: note)
    return state.withLock { state in
      let number = id ?? DescriptorSets.lowestFree(state.entries)
      let place = state.entries.firstIndex { $0.id >= number } ?? state.entries.count
      if place == state.entries.count || state.entries[place].id != number {
        state.entries.insert(Entry(id: number), at: place)
      }
      state.entries[place].members.insert(member, at: 0)
      return number
    }
  }

  /// Marks one descriptor of a set, or all of them, as removed. False when there is no such set or descriptor.
  @MainLoop
  package func remove(set id: Int64, descriptor: Int64?) -> Bool {
    let found = state.withLock { state in
      guard let index = state.entries.firstIndex(where: { $0.id == id }) else { return false }
      var found = descriptor == nil
      for place in state.entries[index].members.indices {
        guard descriptor.map({ $0 == state.entries[index].members[place].descriptor }) ?? true
        else { continue }
        state.entries[index].members[place].isRemoved = true
        found = true
      }
      return found
    }
    if found { clean(id) }
    return found
  }

  /// The sets, highest number first; members in the order in which they were added.
  package var list: [Listing] {
    state.withLock { state in
      state.entries.reversed().map { Listing(id: $0.id, members: $0.members.reversed()) }
    }
  }

  /// A monitor client has come, or left: with the last one go the sets that nobody has opened.
  @MainLoop
  package func clientsChanged(by difference: Int) {
    let isLast = state.withLock { state in
      state.clientCount += difference
      return difference < 0 && state.clientCount == 0
    }
    if isLast { clean() }
  }

  /// Duplicates the descriptor of set `id` whose access mode is that of `flags`. Throws `SystemError`: `ENOENT` without such a
  /// set, `EACCES` without such a mode.
  package func open(_ id: Int64, _ flags: Int32) throws(SystemError) -> Int32 {
    let result: Result<Int32, SystemError> = state.withLock { state in
      guard let index = state.entries.firstIndex(where: { $0.id == id }) else {
        return .failure(SystemError(call: "open", code: ENOENT))
      }
      let found = state.entries[index].members.first {
        let own = fcntl($0.descriptor, F_GETFL)
        return own != -1 && own & O_ACCMODE == flags & O_ACCMODE
      }
      guard let found else { return .failure(SystemError(call: "open", code: EACCES)) }
      let copy = fcntl(found.descriptor, F_DUPFD_CLOEXEC, 3)
      guard copy >= 0 else { return .failure(SystemError(call: "fcntl", code: errno)) }
      state.entries[index].duplicates.insert(copy)
      return .success(copy)
    }
    let copy = try result.get()
    duplicateCount.add(1, ordering: .relaxed)
    // What opening by name would have set or done.
    let settable = O_APPEND | O_NONBLOCK
    let own = fcntl(copy, F_GETFL)
    if own & settable != flags & settable {
      _ = fcntl(copy, F_SETFL, own & ~settable | flags & settable)
    }
    if flags & O_TRUNC != 0 { _ = ftruncate(copy, 0) }
    return copy
  }

  /// A set's number from a file's name; nil when the name is none of a set. Throws `SystemError` (`EINVAL`) for one without a number.
  static func number(in path: String) throws(SystemError) -> Int64? {
    guard path.utf8.starts(with: prefix.utf8) else { return nil }
    guard let number = Int64(path.dropFirst(prefix.count)), number >= 0 else {
      throw SystemError(call: "open", code: EINVAL)
    }
    return number
  }

  /// A descriptor is about to be closed. Any thread.
  func closing(_ descriptor: Int32) {
    guard duplicateCount.load(ordering: .relaxed) > 0 else { return }
    let id: Int64? = state.withLock { state in
      for index in state.entries.indices
      where state.entries[index].duplicates.remove(descriptor) != nil {
        return state.entries[index].duplicates.isEmpty ? state.entries[index].id : -1
      }
      return nil
    }
    guard let id else { return }
    duplicateCount.subtract(1, ordering: .relaxed)
    if id >= 0 { MainLoop.post { self.clean(id) } }
  }

  // MARK: -

  /// Closes what was removed, and what nobody uses when no client is left, in one set or in all; forgets empty sets.
  @MainLoop
  private func clean(_ id: Int64? = nil) {
    let isRunning = state.withLock { $0.isMachineRunning }?() ?? false
    let unused: [Int32] = state.withLock { state in
      var unused: [Int32] = []
      for index in state.entries.indices where id.map({ $0 == state.entries[index].id }) ?? true {
        let isIdle = state.entries[index].duplicates.isEmpty && state.clientCount == 0
        state.entries[index].members.removeAll {
          guard isRunning, $0.isRemoved || isIdle else { return false }
          unused.append($0.descriptor)
          return true
        }
      }
      state.entries.removeAll { $0.members.isEmpty && $0.duplicates.isEmpty }
      return unused
    }
    for number in unused { FileDescriptor(owning: number).close() }
  }

  private static func lowestFree(_ entries: [Entry]) -> Int64 {
    var number: Int64 = 0
    for entry in entries {
      if entry.id > number { break }
      number = entry.id &+ 1
    }
    return number
  }
}

/// What cannot be taken from the command line's `-add-fd`.
package enum InheritedDescriptor {
  /// Duplicates a descriptor that the process was started with. Throws the sentence for the user when it is none.
  package static func duplicate(_ number: Int32) throws(SocketError) -> FileDescriptor {
    let flags = fcntl(number, F_GETFD)
    // All that the process has opened itself closes on exec; what it was given does not.
    guard flags != -1, flags & FD_CLOEXEC == 0 else {
      throw SocketError("fd is not valid or already in use")
    }
    let copy = fcntl(number, F_DUPFD_CLOEXEC, 3)
    guard copy >= 0 else {
      let reason = SystemError(call: "fcntl", code: errno).reason
      throw SocketError("error duplicating fd: \(reason)")
    }
    return FileDescriptor(owning: copy)
  }
}
