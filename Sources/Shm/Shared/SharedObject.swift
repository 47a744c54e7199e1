import CLinux
import Glibc
package import Host
import Synchronization

/// Why a shared object cannot be used.
package enum SharedObjectError: Error, Equatable, Sendable {
  case system(SystemError)
  /// Processes of another machine use the object of that name.
  case inUse(String)
  /// The object is not complete: whoever makes it has not finished, or died over it. Worth another try.
  case notReady
  /// It was made for another machine, or by another version.
  case differs

  /// A sentence for the user, without full stop.
  package var text: String {
    switch self {
    case .system(let error): "cannot use shared memory: \(error)"
    case .inUse(let name): "shared memory object '\(name)' is in use by another machine"
    case .notReady: "the shared memory object is not complete"
    case .differs:
      "the shared memory object was made for another amount of memory or number of CPUs, or by another version"
    }
  }
}

/// The POSIX shared-memory object, or nameless memory file, that holds the RAM of a machine whose nodes are processes of one host
/// (distributed.md, section 14).
///
/// Every process that has it open holds a shared lock on it (flock(2)), so an object that a crashed machine left behind can be told from one
/// in use. Only the user who made it can open it.
@safe package final class SharedObject: Sendable {
  package let layout: SharedLayout
  /// The name without the leading slash; nil for a nameless one.
  package let name: String?
  /// Closed with the object. Another process may get it over a unix socket.
  package let descriptor: Int32

  // SAFETY: the object's first page, mapped as long as the object lives; words 0 to 255 are atomics.
  nonisolated(unsafe) private let header: UnsafeMutablePointer<Atomic<UInt64>>
  private static let headerSize = 4096
  /// "GOLIATH" and a number.
  private static let magic: UInt64 = 0x01_48_54_41_49_4C_4F_47

  private init(
    _ layout: SharedLayout, _ name: String?, _ file: consuming FileDescriptor
  ) throws(SystemError) {
    self.layout = layout
    self.name = name
    // SAFETY: a fresh mapping at an address of the kernel's choice.
    let map = unsafe mmap(
      nil, SharedObject.headerSize, PROT_READ | PROT_WRITE, MAP_SHARED, file.rawValue, 0)
    guard let map = unsafe map, unsafe map != MAP_FAILED else {
      throw SystemError(call: "mmap", code: errno)
    }
    unsafe header = map.bindMemory(to: Atomic<UInt64>.self, capacity: SharedObject.headerSize / 8)
    descriptor = file.release()
  }

  deinit {
    unsafe munmap(UnsafeMutableRawPointer(header), SharedObject.headerSize)
    close(descriptor)
  }

  // MARK: - Making and opening

  /// Makes the object; `name` with or without the leading slash, nil for a nameless one. One that a crashed machine left is replaced.
  package static func create(
    name: String?, layout: SharedLayout
  ) throws(SharedObjectError) -> SharedObject {
    do throws(SystemError) {
      let file: FileDescriptor
      if let name {
        guard let made = try make(name) else { throw SystemError(call: "", code: EBUSY) }
        file = made
      } else {
        let number = unsafe goliath_memfd("goliath-ram")
        if number < 0 { throw SystemError(call: "memfd_create", code: -number) }
        file = FileDescriptor(owning: number)
      }
      let target = file.rawValue
      let length = Int(clamping: layout.size)
      try SystemError.check("ftruncate") { () -> Int32 in ftruncate(target, length) }
      if name == nil { _ = goliath_seal_size(target) }
      let object = try SharedObject(layout, name.map(bare), file)
      object.publish()
      return object
    } catch {
      if error.call.isEmpty { throw .inUse(name ?? "") }
      throw .system(error)
    }
  }

  /// Nil: someone uses an object of that name.
  private static func make(_ name: String) throws(SystemError) -> FileDescriptor? {
    for _ in 0..<8 {
      let number = unsafe shm_open("/" + bare(name), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
      if number >= 0 {
        let file = FileDescriptor(owning: number)
        if flock(number, LOCK_SH | LOCK_NB) == 0 { return file }
        // Somebody who looked whether it was left behind has it for a moment.
        continue
      }
      let code = errno
      if code != EEXIST { throw SystemError(call: "shm_open", code: code) }
      let old = unsafe shm_open("/" + bare(name), O_RDWR | O_CLOEXEC, 0)
      if old < 0 {
        if errno == ENOENT { continue }
        throw SystemError(call: "shm_open", code: errno)
      }
      let file = FileDescriptor(owning: old)
      if flock(file.rawValue, LOCK_EX | LOCK_NB) != 0 { return nil }
      unsafe shm_unlink("/" + bare(name))
    }
    return nil
  }

  /// Opens the object that another process made for the same layout.
  package static func open(
    name: String, layout: SharedLayout
  ) throws(SharedObjectError) -> SharedObject {
    let number = unsafe shm_open("/" + bare(name), O_RDWR | O_CLOEXEC, 0)
    if number < 0 { throw .system(SystemError(call: "shm_open", code: errno)) }
    return try adopt(number, name: name, layout: layout)
  }

  /// Takes over an open descriptor of such an object.
  package static func adopt(
    _ number: Int32, name: String? = nil, layout: SharedLayout
  ) throws(SharedObjectError) -> SharedObject {
    let file = FileDescriptor(owning: number)
    if name != nil, flock(number, LOCK_SH | LOCK_NB) != 0 { throw .notReady }
    var status = stat()
    // SAFETY: it outlives the call.
    if unsafe fstat(number, &status) != 0 {
      throw .system(SystemError(call: "fstat", code: errno))
    }
    if status.st_size == 0 { throw .notReady }
    if status.st_uid != geteuid() || status.st_size != Int64(clamping: layout.size) {
      throw .differs
    }
    do throws(SystemError) {
      let object = try SharedObject(layout, name.map(bare), file)
      switch object.isComplete {
      case true?: return object
      case false?: break
      case nil: throw SystemError(call: "", code: EAGAIN)
      }
    } catch {
      throw error.call.isEmpty ? .notReady : .system(error)
    }
    throw .differs
  }

  /// Takes the name away, when all processes have the object open: it is gone with the last of them, however that one ends.
  package func unlink() {
    guard let name else { return }
    unsafe shm_unlink("/" + name)
  }

  private static func bare(_ name: String) -> String {
    name.hasPrefix("/") ? String(name.dropFirst()) : name
  }

  // MARK: - The first page

  private func publish() {
    // SAFETY: at most 4 + `blockLimit` words, behind the first.
    for (index, word) in layout.words.enumerated() {
      unsafe header[index + 1].store(word, ordering: .relaxed)
    }
    unsafe header[0].store(SharedObject.magic, ordering: .sequentiallyConsistent)
  }

  /// Nil: not yet written.
  private var isComplete: Bool? {
    let mark = unsafe header[0].load(ordering: .sequentiallyConsistent)
    if mark == 0 { return nil }
    if mark != SharedObject.magic { return false }
    for (index, word) in layout.words.enumerated()
    where unsafe header[index + 1].load(ordering: .relaxed) != word {
      return false
    }
    return true
  }
}
