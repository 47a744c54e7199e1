import CLinux
import Glibc

/// Terminals: the process's own, pseudo-terminals, serial lines.
package enum Terminal {
  /// Puts a terminal into raw mode until the process ends; nothing when `descriptor` is none.
  ///
  /// With `signals`, ^C and its like still raise signals.
  package static func makeRaw(_ descriptor: Int32, signals: Bool) {
    _ = goliath_terminal_raw(descriptor, signals ? 1 : 0)
  }

  /// Restores the mode now; `exit` does it as well.
  package static func restore() { goliath_terminal_restore() }

  /// Whether the descriptor is a terminal.
  package static func isTerminal(_ descriptor: Int32) -> Bool { isatty(descriptor) == 1 }

  /// How many columns the terminal shows; nil when the descriptor is none.
  package static func columns(_ descriptor: Int32) -> Int? {
    let columns = goliath_terminal_columns(descriptor)
    return columns > 0 ? Int(columns) : nil
  }

  /// A new pseudo-terminal in raw mode and the path of its other side. Throws `SystemError`.
  package static func openPseudoTerminal() throws(SystemError) -> (
    master: Int32, path: String
  ) {
    var name = [CChar](repeating: 0, count: 128)
    // SAFETY: the buffer's size is passed along.
    let number = unsafe goliath_open_pty(&name, 128)
    if number < 0 { throw SystemError(call: "posix_openpt", code: -number) }
    let bytes = name.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }
    return (number, String(decoding: bytes, as: UTF8.self))
  }

  /// Whether someone has opened the other side of the pseudo-terminal `master`.
  package static func isPeerOpen(_ master: Int32) -> Bool { goliath_pty_is_open(master) != 0 }

  /// Begins or ends a break condition on a serial line.
  package static func setBreak(_ descriptor: Int32, _ on: Bool) {
    _ = ioctl(descriptor, on ? 0x5427 : 0x5428)
  }

  /// Takes a parallel port (ppdev) for this process. Throws `SystemError` when it is none.
  package static func claimParallelPort(_ descriptor: Int32) throws(SystemError) {
    try SystemError.check("ioctl") { () -> Int32 in ioctl(descriptor, 0x708B) }
  }

  /// Gives it back.
  package static func releaseParallelPort(_ descriptor: Int32) { _ = ioctl(descriptor, 0x708C) }

  /// Sets speed and frame of a serial line. Throws `SystemError`.
  package static func setSerial(
    _ descriptor: Int32, speed: Int32, dataBits: Int32 = 8, parity: Character = "N",
    stopBits: Int32 = 1
  ) throws(SystemError) {
    let code = Int32(parity.asciiValue ?? 0x4E)
    let result = goliath_serial_set(descriptor, speed, dataBits, code, stopBits)
    if result < 0 { throw SystemError(call: "tcsetattr", code: -result) }
  }
}
