import COracle
import Glibc

/// Sequences as text.
enum SequenceReport {
  static func hex(_ byte: UInt8) -> String { (byte < 16 ? "0" : "") + String(byte, radix: 16) }

  /// The listing: by `objdump` where it is installed, else names and bytes.
  static func listing(_ sequence: Sequence) -> String {
    let (code, starts) = sequence.layout()
    let assembler = disassemble(code, at: starts.first ?? 0)
    var text = ""
    for (n, item) in sequence.items.enumerated() {
      let from = Int(starts[n] - starts[0])
      let bytes = code[from..<from + item.bytes.count]
      text += "  \(String(starts[n], radix: 16))"
      text += " [\(item.id) \(item.name)] \(bytes.map(hex).joined(separator: " "))\n"
      for address in starts[n]..<starts[n] + UInt64(item.bytes.count) {
        if let line = assembler[address] { text += "        \(line)\n" }
      }
    }
    return text
  }

  static func state(_ sequence: Sequence) -> String {
    let names = [
      "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12",
      "r13", "r14", "r15",
    ]
    var text = " "
    for (name, value) in zip(names, sequence.registers) {
      text += " \(name)=\(String(value, radix: 16))"
    }
    return text + " flags=\(String(sequence.flags, radix: 16))\n"
  }

  /// Instruction texts by address.
  private static func disassemble(_ code: [UInt8], at start: UInt64) -> [UInt64: String] {
    var path = Array("/tmp/cpu-oracle-XXXXXX".utf8CString)
    let file = unsafe mkstemp(&path)
    guard file >= 0 else { return [:] }
    let name = unsafe path.withUnsafeBufferPointer { buffer in
      unsafe buffer.baseAddress.map { unsafe String(cString: $0) } ?? ""
    }
    defer { unlink(name) }
    _ = unsafe code.withUnsafeBytes { unsafe write(file, $0.baseAddress, $0.count) }
    close(file)
    let command =
      "objdump -D -b binary -mi386:x86-64 -M intel --no-show-raw-insn"
      + " --adjust-vma=0x\(String(start, radix: 16)) \(name) 2>/dev/null"
    guard let pipe = unsafe popen(command, "r") else { return [:] }
    defer { unsafe pclose(pipe) }
    var result: [UInt64: String] = [:]
    var buffer = [CChar](repeating: 0, count: 512)
    while unsafe fgets(&buffer, 512, pipe) != nil {
      let line = unsafe String(
        decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
      let parts = line.split(separator: ":", maxSplits: 1)
      guard parts.count == 2 else { continue }
      let address = parts[0].drop { $0 == " " }
      guard let value = UInt64(address, radix: 16) else { continue }
      result[value] = String(parts[1].drop { $0 == "\t" || $0 == " " }.prefix { $0 != "\n" })
    }
    return result
  }
}
