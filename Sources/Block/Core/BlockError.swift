package import Host

/// Why a block node refused or failed.
package struct BlockError: Error, Equatable, Sendable, CustomStringConvertible {
  /// `errno` of the failure, positive: what a guest's request fails with, and what werror/rerror decide on (`ENOSPC`).
  package let code: Int32
  /// A sentence without its final dot, naming the object, in QEMU's wording where clients match on it.
  package let message: String
  /// What may help the user, in lines; shown after the message on terminals.
  package let hint: String?

  package init(_ code: Int32, _ message: String, hint: String? = nil) {
    self.code = code
    self.message = message
    self.hint = hint
  }

  /// A refused system call on `subject`, such as `Could not open 'disk.img': No such file or directory`.
  package init(_ error: SystemError, _ subject: String) {
    code = error.code
    message = "\(subject): \(error.reason)"
    hint = nil
  }

  package var description: String { message }

  /// The lines of the hint.
  package var hintLines: [String] {
    hint?.split(separator: "\n").map(String.init) ?? []
  }
}
