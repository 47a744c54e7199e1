import Glibc

/// The process's environment.
package enum Environment {
  /// The value of a variable; nil when it is not set.
  package static func value(_ name: String) -> String? {
    unsafe getenv(name).map { unsafe String(cString: $0) }  // SAFETY: copied at once.
  }
}
