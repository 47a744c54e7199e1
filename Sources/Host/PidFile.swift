import Glibc

/// A file with this process's id, locked as long as the process lives, so that a second one with the same file does not start.
package final class PidFile {
  private let file: FileDescriptor
  /// Absolute, as a daemon changes its folder.
  private let path: String

  /// Writes the file. Throws `PidFileError` when it cannot be made or another process holds it.
  package init(_ path: String) throws(PidFileError) {
    while true {
      let file: FileDescriptor
      do {
        file = try FileDescriptor.open(path, O_WRONLY | O_CREAT, mode: 0o600)
      } catch {
        throw PidFileError(message: "Could not create '\(path)': \(error.reason)")
      }
      guard PidFile.lock(file.rawValue) else {
        throw PidFileError(message: "Cannot lock pid file '\(path)': another process holds it")
      }
      // Whoever held it before may have removed it after we opened it: then ours is no longer the file of that name.
      guard PidFile.isSame(file.rawValue, path) else { continue }
      let text = Array("\(getpid())\n".utf8)
      guard ftruncate(file.rawValue, 0) == 0, (try? file.write(text)) == text.count else {
        throw PidFileError(message: "Failed to write '\(path)'")
      }
      self.path = PidFile.absolute(path)
      self.file = file
      return
    }
  }

  /// Removes the file.
  package func remove() { FileDescriptor.remove(path) }

  private static func lock(_ descriptor: Int32) -> Bool {
    var lock = flock()
    lock.l_type = Int16(F_WRLCK)
    lock.l_whence = Int16(SEEK_SET)
    // SAFETY: `lock` outlives the call.
    return unsafe fcntl(descriptor, F_SETLK, &lock) == 0
  }

  private static func isSame(_ descriptor: Int32, _ path: String) -> Bool {
    var opened = stat()
    var named = stat()
    // SAFETY: both are filled by the calls and outlive them.
    guard unsafe fstat(descriptor, &opened) == 0, unsafe stat(path, &named) == 0 else {
      return false
    }
    return opened.st_ino == named.st_ino && opened.st_dev == named.st_dev
  }

  private static func absolute(_ path: String) -> String {
    // SAFETY: realpath allocates the string, which is copied and freed here.
    guard let real = unsafe realpath(path, nil) else { return path }
    defer { unsafe free(real) }
    return unsafe String(cString: real)
  }
}

/// The pid file cannot be written; `message` is the sentence for the user.
package struct PidFileError: Error, Equatable, Sendable {
  package let message: String
}
