import CLinux
import Glibc

/// Folders that only this user can enter: what is in them needs no other protection.
package enum PrivateFolder {
  /// Where this user's programs keep their sockets on this host: below `/run/user/UID` where there is one, else `/tmp/goliath-UID`. The
  /// same for all programs of a user, whatever their environment says.
  package static var runtimePath: String {
    let user = geteuid()
    let usual = "/run/user/\(user)"
    return isOurs(usual) ? "\(usual)/goliath" : "/tmp/goliath-\(user)"
  }

  /// Whether `path` is a folder (no symbolic link) of this user's that nobody else can enter.
  package static func isOurs(_ path: String) -> Bool {
    var status = stat()
    // SAFETY: the string and `status` live through the call.
    guard unsafe lstat(path, &status) == 0 else { return false }
    return status.st_mode & S_IFMT == S_IFDIR && status.st_uid == geteuid()
      && status.st_mode & 0o077 == 0
  }

  /// Makes the folder `path` and those above it that are missing, for this user alone. Throws, with a sentence, when it cannot be made or
  /// is there and not ours.
  package static func make(_ path: String) throws(SocketError) {
    guard FileNames.makeFolder(path) else {
      let reason = SystemError(call: "mkdir", code: errno).reason
      throw SocketError("folder '\(path)' cannot be made: \(reason)")
    }
    guard isOurs(path) else {
      throw SocketError(
        "folder '\(path)' is not this user's alone",
        hint: "It must belong to the user that runs this program, with mode 0700.")
    }
  }
}
