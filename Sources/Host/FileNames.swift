import Glibc

/// Names in the file system, for completion.
package enum FileNames {
  /// The paths that begin with `prefix`, folders with a slash at their end, at most 256, in no order.
  package static func completions(of prefix: String) -> [String] {
    let slash = prefix.lastIndex(of: "/")
    let folder = slash.map { String(prefix[...$0]) } ?? ""
    let start = slash.map { String(prefix[prefix.index(after: $0)...]) } ?? prefix
    // SAFETY: the directory stream is closed below; entries are copied before the next call.
    guard let directory = unsafe opendir(folder.isEmpty ? "." : folder) else { return [] }
    defer { unsafe closedir(directory) }
    var result: [String] = []
    while result.count < 256, let entry = unsafe readdir(directory) {
      let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) {
        unsafe $0.withMemoryRebound(to: CChar.self, capacity: 256) {
          unsafe String(cString: $0)
        }
      }
      guard name.hasPrefix(start), name != ".", name != ".." else { continue }
      var status = stat()
      let isFolder = unsafe stat(folder + name, &status) == 0 && status.st_mode & S_IFMT == S_IFDIR
      result.append(folder + name + (isFolder ? "/" : ""))
    }
    return result
  }

  /// Makes a folder and those above it that are missing, for this user alone. False when that fails.
  package static func makeFolder(_ path: String) -> Bool {
    var status = stat()
    // SAFETY: the strings live through the calls.
    if unsafe stat(path, &status) == 0 { return status.st_mode & S_IFMT == S_IFDIR }
    let above = path.split(separator: "/").dropLast().joined(separator: "/")
    if !above.isEmpty, !makeFolder((path.hasPrefix("/") ? "/" : "") + above) { return false }
    return unsafe mkdir(path, 0o700) == 0 || errno == EEXIST
  }

  /// Makes a named pipe. False when that fails.
  package static func makePipe(_ path: String) -> Bool {
    unsafe mkfifo(path, 0o600) == 0  // SAFETY: the string lives through the call.
  }

  /// Removes an empty folder.
  package static func removeFolder(_ path: String) {
    _ = unsafe rmdir(path)  // SAFETY: the string lives through the call.
  }

  /// Whether a name matches a shell pattern (`*`, `?`, `[…]`), where slashes and leading dots are characters like others.
  package static func matches(_ name: String, pattern: String) -> Bool {
    // SAFETY: both strings live through the call.
    unsafe fnmatch(pattern, name, 0) == 0
  }

  /// What tells one content of a file from the next: its identity, size and time of change. Nil when it is not there.
  package static func version(of path: String) -> [Int64]? {
    var status = stat()
    // SAFETY: the string and `status` live through the call.
    guard unsafe stat(path, &status) == 0 else { return nil }
    return [
      Int64(truncatingIfNeeded: status.st_dev), Int64(truncatingIfNeeded: status.st_ino),
      Int64(status.st_size), Int64(status.st_mtim.tv_sec), Int64(status.st_mtim.tv_nsec),
    ]
  }
}
