import CLinux
import Glibc
package import Host
import Synchronization

// What the host is told about a block's pages, and memory files for blocks.

extension RAMBlock {
  /// Where the host takes the pages from (mbind(2)). Raw values are the kernel interface's order in `goliath_bind_memory`.
  package enum NUMAPolicy: Int32, Sendable { case standard, preferred, bind, interleave }

  /// Sets the NUMA policy; `nodes` are below 128. Throws `SystemError` for `mbind`.
  package func bind(_ policy: NUMAPolicy, nodes: [Int]) throws(SystemError) {
    var words: [UInt64] = [0, 0, 0]
    for node in nodes where (0..<128).contains(node) { words[node / 64] |= 1 << UInt64(node % 64) }
    // SAFETY: our own mapping; three words for 128 bits and the one that the kernel drops.
    let code = unsafe words.withUnsafeBufferPointer {
      unsafe goliath_bind_memory(base, UInt64(size), policy.rawValue, $0.baseAddress)
    }
    if code < 0 { throw SystemError(call: "mbind", code: -code) }
  }

  /// Lets the kernel merge pages with equal ones (KSM), or no longer.
  package func setMerging(_ isOn: Bool) {
    // SAFETY: our own mapping; its contents stay.
    _ = unsafe madvise(base, size, Int32(isOn ? MADV_MERGEABLE : MADV_UNMERGEABLE))
  }

  /// Makes the memory part of core dumps of the process, or not.
  package func setInCoreDumps(_ isOn: Bool) {
    // SAFETY: our own mapping; its contents stay.
    _ = unsafe madvise(base, size, Int32(isOn ? MADV_DODUMP : MADV_DONTDUMP))
  }

  /// Makes all pages now, with `threads` threads; waits for them. Throws `SystemError` for `madvise`.
  package func populate(threads count: Int, pageSize: Int = 4096) throws(SystemError) {
    let count = max(1, min(count, size / pageSize, 64))
    let share = (size / count + pageSize - 1) / pageSize * pageSize
    let result = PopulateResult()
    var threads: [HostThread] = []
    for index in 1..<max(count, 1) {
      threads.append(
        try HostThread(name: "touch/\(index)") { [self] in
          result.note(populate(from: index * share, count: share, pageSize))
        })
    }
    result.note(populate(from: 0, count: share, pageSize))
    for thread in threads { thread.join() }
    let code = result.code
    if code < 0 { throw SystemError(call: "madvise", code: -code) }
  }

  private func populate(from start: Int, count: Int, _ pageSize: Int) -> Int32 {
    guard start < size else { return 0 }
    let count = min(count, size - start)
    // SAFETY: within our own mapping; contents stay.
    return unsafe goliath_populate(
      base + start, UInt64(count), UInt64(pageSize), isReadOnly ? 0 : 1)
  }

  /// Lets go of the pages' contents; the next access finds a file's bytes or zeroes.
  package func discardContents() {
    // SAFETY: our own mapping, which nothing uses any more.
    _ = unsafe madvise(base, size, Int32(MADV_REMOVE))
  }
}

/// The first failure of several threads.
private final class PopulateResult: Sendable {
  private let first = Atomic<Int32>(0)
  var code: Int32 { first.load(ordering: .acquiring) }
  func note(_ code: Int32) {
    if code < 0 { first.store(code, ordering: .releasing) }
  }
}

/// Files for `RAMBlock.Backing.file`.
package enum MemoryFile {
  /// A nameless file of the kernel. `hugePage`: bytes, 0 for ordinary pages, 1 for the host's huge pages.
  ///
  /// Throws `SystemError` for `memfd_create`, `ftruncate`, `fcntl`.
  package static func anonymous(
    _ name: String, size: UInt64, hugePage: UInt64, isSealed: Bool
  ) throws(SystemError) -> Int32 {
    let number = unsafe goliath_memfd_of(name, hugePage)
    if number < 0 { throw SystemError(call: "memfd_create", code: -number) }
    let file = FileDescriptor(owning: number)
    let target = file.rawValue
    let length = Int(clamping: size)
    try SystemError.check("ftruncate") { () -> Int32 in ftruncate(target, length) }
    if isSealed {
      let code = goliath_seal_size(target)
      if code < 0 { throw SystemError(call: "fcntl", code: -code) }
    }
    return file.release()
  }

  /// An opened file with what a mapping must know of it.
  package struct Opened: Sendable {
    package let descriptor: Int32
    /// Bytes that it had.
    package let size: UInt64
    /// Bytes of a page: huge on hugetlbfs.
    package let pageSize: UInt64
    /// It was not there before.
    package let isNew: Bool
  }

  /// Opens the file at `path`, makes it if it is not there; in a directory makes a nameless one. Throws `SystemError` for `open`.
  package static func open(
    _ path: String, readOnly: Bool, name: String
  ) throws(SystemError) -> Opened {
    let access = readOnly ? O_RDONLY : O_RDWR
    var isNew = false
    let file: FileDescriptor
    do throws(SystemError) {
      file = try FileDescriptor.open(path, access)
    } catch  where error.code == ENOENT {
      file = try FileDescriptor.open(path, O_RDWR | O_CREAT | O_EXCL, mode: 0o644)
      isNew = true
    } catch  where error.code == EISDIR {
      file = try nameless(in: path, name)
      isNew = true
    }
    var status = stat()
    // SAFETY: it outlives the call.
    unsafe fstat(file.rawValue, &status)
    let page = goliath_file_page_size(file.rawValue)
    if status.st_mode & S_IFMT == S_IFDIR {
      // A directory opens for reading.
      let inside = try nameless(in: path, name)
      return Opened(descriptor: inside.release(), size: 0, pageSize: page, isNew: true)
    }
    return Opened(
      descriptor: file.release(), size: UInt64(clamping: status.st_size), pageSize: page,
      isNew: isNew)
  }

  private static func nameless(
    in directory: String, _ name: String
  ) throws(SystemError) -> FileDescriptor {
    let clean = String(name.map { $0 == "/" ? "_" : $0 })
    var template = Array(
      ("\(directory)/goliath_back_mem.\(clean)." + String(repeating: "X", count: 6)).utf8CString)
    // SAFETY: the array ends with a zero and lives through both calls.
    let number = unsafe template.withUnsafeMutableBufferPointer { text -> Int32 in
      guard let start = unsafe text.baseAddress else { return -EINVAL }
      return unsafe goliath_nameless_file(start)
    }
    if number < 0 { throw SystemError(call: "open", code: -number) }
    return FileDescriptor(owning: number)
  }

  /// Makes the file longer. Throws `SystemError` for `ftruncate`.
  package static func extend(_ descriptor: Int32, to size: UInt64) throws(SystemError) {
    let length = Int(clamping: size)
    try SystemError.check("ftruncate") { () -> Int32 in ftruncate(descriptor, length) }
  }
}
