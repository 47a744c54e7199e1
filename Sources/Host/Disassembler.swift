import CLinux
import Glibc

/// Turns x86 machine code into AT&T syntax with a library of the host, found at run time: Capstone (as QEMU) or Zydis. Without either,
/// every byte is `.byte`. Any thread.
package struct Disassembler: Sendable {
  /// The size of code segment.
  package enum Mode: Int32, Sendable { case real = 16, protected = 32, long = 64 }

  /// The libraries that can do it.
  package enum Library: Sendable, CaseIterable {
    case capstone, zydis

    fileprivate var bit: Int32 { self == .capstone ? GOLIATH_CAPSTONE : GOLIATH_ZYDIS }
    /// Whether this host has it.
    package var isInstalled: Bool { goliath_disassembler_libraries() & bit != 0 }
  }

  /// What the user is told when listings hold bytes only.
  package static let missingLibrary =
    "Disassembly needs the library libcapstone.so.4 or libZydis.so.4.0, and neither is installed"
    + " (Debian packages libcapstone4, libzydis4.0)"

  private let mode: Mode
  private let library: Library?

  /// A disassembler for code of one size, with the best library there is.
  package init(_ mode: Mode) {
    self.init(mode, with: Library.allCases.first { $0.isInstalled })
  }

  /// A disassembler with a certain library, or with none (nil: bytes only).
  package init(_ mode: Mode, with library: Library?) {
    self.mode = mode
    self.library = library
  }

  /// Whether instructions are named; false when no library is installed.
  package var namesInstructions: Bool { library?.isInstalled ?? false }

  /// The first instruction of `code`, which is at `address`: its length and text. Nil when `code` is empty; a byte that begins
  /// no instruction is `.byte`.
  package func decode(_ code: some Collection<UInt8>, at address: UInt64) -> (
    length: Int, text: String
  )? {
    guard let first = code.first else { return nil }
    // No instruction is longer than 15 bytes.
    let window = Array(code.prefix(15))
    if let library {
      var text = [CChar](repeating: 0, count: 256)
      // SAFETY: both buffers live through the call, with their sizes.
      let length = unsafe goliath_disassemble(
        library.bit, mode.rawValue, window, UInt64(window.count), address, &text,
        UInt64(text.count))
      if length > 0 {
        let bytes = text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }
        let text = String(decoding: bytes, as: UTF8.self)
        return (Int(length), library == .zydis ? ZydisText.rewritten(text, mode, window) : text)
      }
    }
    return (1, ".byte    0x\(Disassembler.hex(UInt64(first), 2))")
  }

  /// The lines of a listing, as `x/i` and `-d in_asm` print them: address, up to eight bytes, text; longer instructions go on in a
  /// second line without text.
  package static func lines(
    of bytes: some Collection<UInt8>, _ text: String, at address: UInt64
  ) -> [String] {
    var lines: [String] = []
    var rest = Array(bytes)[...]
    var at = address
    while !rest.isEmpty {
      let part = rest.prefix(8)
      rest = rest.dropFirst(8)
      let digits = part.map { hex(UInt64($0), 2) }.joined(separator: " ")
      let padding = String(repeating: " ", count: max(0, 23 - digits.utf8.count))
      lines.append(
        "0x\(hex(at, 8)):  \(digits)" + (lines.isEmpty ? "\(padding)  \(text)" : ""))
      at &+= UInt64(part.count)
    }
    return lines
  }

  /// A listing of all of `code`, which is at `address`; each line ends with `\n`.
  package func listing(_ code: some Collection<UInt8>, at address: UInt64) -> String {
    var text = ""
    var rest = Array(code)[...]
    var at = address
    while let line = decode(rest, at: at) {
      for piece in Disassembler.lines(of: rest.prefix(line.length), line.text, at: at) {
        text += piece + "\n"
      }
      rest = rest.dropFirst(line.length)
      at &+= UInt64(line.length)
    }
    return text
  }

  private static func hex(_ value: UInt64, _ digits: Int) -> String {
    let text = String(value, radix: 16)
    return String(repeating: "0", count: max(0, digits - text.utf8.count)) + text
  }
}
