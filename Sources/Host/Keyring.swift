import CLinux
import Glibc

/// The kernel's keys (keyrings(7)).
package enum Keyring {
  /// The payload of a key. Throws `SystemError`.
  package static func read(_ serial: Int32) throws(SystemError) -> [UInt8] {
    var bytes: [UInt8] = []
    while true {
      // SAFETY: the array lives through the call, with its size.
      let size = unsafe goliath_read_key(serial, &bytes, UInt64(bytes.count))
      if size < 0 {
        throw SystemError(call: "keyctl", code: Int32(truncatingIfNeeded: -size))
      }
      // The kernel says how much there is; the key may have grown since it was asked.
      if size <= bytes.count { return Array(bytes.prefix(Int(size))) }
      bytes = [UInt8](repeating: 0, count: Int(size))
    }
  }
}
