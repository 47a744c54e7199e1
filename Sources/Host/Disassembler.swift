import CLinux
import Glibc

/// There is no disassembler on this host.
package struct DisassemblerError: Error, Equatable, Sendable {
  /// Names the libraries that would do.
  package let message: String
}

/// Turns x86 machine code into AT&T syntax with a library of the host, found at run time: Capstone (as QEMU) or Zydis.
package struct Disassembler {
  /// The size of code segment.
  package enum Mode: Int32, Sendable { case real = 16, protected = 32, long = 64 }

  private let mode: Mode

  /// Throws when no library is installed.
  package init(_ mode: Mode) throws(DisassemblerError) {
    guard goliath_disassembler_open() == 0 else {
      throw DisassemblerError(
        message: "Disassembly needs the library libcapstone.so.4 or libZydis.so.4.0, and neither "
          + "is installed (Debian packages libcapstone4, libzydis4.0)")
    }
    self.mode = mode
  }

  /// The first instruction of `code`, which is at `address`: its length and text. Nil when `code` is empty; a byte that begins
  /// no instruction is `.byte`.
  package func decode(_ code: [UInt8], at address: UInt64) -> (length: Int, text: String)? {
    guard let first = code.first else { return nil }
    var text = [CChar](repeating: 0, count: 256)
    // SAFETY: both buffers live through the call, with their sizes.
    let length = unsafe goliath_disassemble(
      mode.rawValue, code, UInt64(code.count), address, &text, UInt64(text.count))
    guard length > 0 else {
      let digits = String(first, radix: 16)
      return (1, ".byte    0x\(digits.count < 2 ? "0" : "")\(digits)")
    }
    let bytes = text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }
    return (Int(length), String(decoding: bytes, as: UTF8.self))
  }
}
