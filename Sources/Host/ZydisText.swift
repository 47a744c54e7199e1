/// Rewrites Zydis's AT&T syntax to what QEMU's listings look like, which are Capstone's: sizes at mnemonics also when a register tells
/// them, the usual names of conditions, small numbers in decimal.
enum ZydisText {
  /// A line as Zydis formats it, in a listing of code of size `mode`.
  static func rewritten(_ line: String, _ mode: Disassembler.Mode) -> String {
    var words = line.split(separator: " ", omittingEmptySubsequences: true)[...]
    var prefixes = ""
    while let word = words.first, words.count > 1, isPrefix.contains(String(word)) {
      prefixes += word + " "
      words.removeFirst()
    }
    guard let first = words.first else { return line }
    var mnemonic = renamed(String(first))
    var operands = split(words.dropFirst().joined(separator: " ")).map(operand)
    if mnemonic == "nop" || mnemonic == "nopw" || mnemonic == "nopl" {
      // The register field of a long nop means nothing.
      if let size = operands.first.flatMap(suffix), operands.count == 2 {
        operands.removeFirst()
        mnemonic = "nop\(size)"
      }
    }
    if mnemonic == "jmp" || mnemonic == "call", let target = operands.first, target.contains("%") {
      operands[0] = "*" + target
    }
    mnemonic = sized(mnemonic, operands, mode)
    let name = prefixes + mnemonic
    let padding = String(repeating: " ", count: max(0, 8 - name.utf8.count))
    return "\(name)\(padding) \(operands.joined(separator: ", "))"
  }

  private static let isPrefix: Set<String> = [
    "lock", "rep", "repe", "repne", "repz", "repnz", "notrack", "bnd", "data16", "xacquire",
    "xrelease",
  ]

  private static let conditions = [
    "z": "e", "nz": "ne", "nbe": "a", "nb": "ae", "nle": "g", "nl": "ge",
  ]
  private static let others = [
    "ret": "ret", "movzxb": "movzb", "movzxw": "movzw", "movsxb": "movsb", "movsxw": "movsw",
    "movsxd": "movslq", "cdqe": "cltq", "cqo": "cqto", "cdq": "cltd", "cwde": "cwtl",
    "cbw": "cbtw", "cwd": "cwtd", "int3": "int3", "stosd": "stosl", "movsd ": "movsl",
  ]

  private static func renamed(_ mnemonic: String) -> String {
    if let other = others[mnemonic] { return other }
    for stem in ["j", "set", "cmov"] where mnemonic.hasPrefix(stem) {
      if let condition = conditions[String(mnemonic.dropFirst(stem.count))] {
        return stem + condition
      }
    }
    return mnemonic
  }

  /// Splits at the commas that are not within parentheses.
  private static func split(_ text: String) -> [String] {
    var parts: [String] = []
    var part = ""
    var depth = 0
    for character in text {
      if character == "(" { depth += 1 }
      if character == ")" { depth -= 1 }
      if character == ",", depth == 0 {
        parts.append(part)
        part = ""
      } else if !(character == " " && part.isEmpty) {
        part.append(character)
      }
    }
    return part.isEmpty ? parts : parts + [part]
  }

  private static func operand(_ text: String) -> String {
    var out = text
    if let open = out.lastIndex(of: "("), out.hasSuffix(")") {
      var inner = out[out.index(after: open)...].dropLast().split(
        separator: ",", omittingEmptySubsequences: false)
      if inner.count == 3, inner[2] == "1" { inner.removeLast() }
      out = out[..<open] + "(" + inner.joined(separator: ", ") + ")"
    }
    // One digit needs no prefix.
    if let range = out.range0x {
      let digits = out[range].dropFirst(2)
      if digits.count == 1, let digit = digits.first, digit.isNumber {
        out.replaceSubrange(range, with: String(digit))
      }
    }
    return out
  }

  private static let integer: Set<String> = [
    "mov", "add", "or", "adc", "sbb", "and", "sub", "xor", "cmp", "test", "inc", "dec", "neg",
    "not", "lea", "shl", "shr", "sar", "rol", "ror", "rcl", "rcr", "xchg", "imul", "mul", "div",
    "idiv", "bt", "bts", "btr", "btc", "cmpxchg", "xadd", "shld", "shrd", "bsf", "bsr", "bswap",
    "movzb", "movzw", "movsb", "movsw", "popcnt", "lzcnt", "tzcnt", "movabs",
  ]
  private static let stack: Set<String> = [
    "push", "pop", "call", "ret", "leave", "pushf", "popf", "enter",
  ]

  private static func sized(
    _ mnemonic: String, _ operands: [String], _ mode: Disassembler.Mode
  ) -> String {
    let natural = mode == .long ? "q" : mode == .protected ? "l" : "w"
    if stack.contains(mnemonic) {
      let isRegister = operands.first?.hasPrefix("%") == true
      return mnemonic + ((isRegister ? operands.first.flatMap(suffix) : nil) ?? natural)
    }
    if mnemonic == "jmp", operands.first?.hasPrefix("*") == true { return "jmp" + natural }
    if mnemonic == "movzx" || mnemonic == "movsx", operands.count == 2,
      let from = suffix(operands[0]), let to = suffix(operands[1])
    {
      return mnemonic.dropLast() + from + to
    }
    guard integer.contains(mnemonic) || mnemonic.hasPrefix("cmov") else { return mnemonic }
    // The destination comes last; a count in CL tells nothing.
    for operand in operands.reversed() {
      if let size = suffix(operand) { return mnemonic + size }
    }
    return mnemonic
  }

  /// The size letter of a general register.
  private static func suffix(_ operand: String) -> String? {
    guard operand.hasPrefix("%"), !operand.contains(":") else { return nil }
    let name = operand.dropFirst()
    let extended = name.first == "r" && name.dropFirst().first?.isNumber == true
    if extended {
      switch name.last {
      case "d": return "l"
      case "w": return "w"
      case "b": return "b"
      default: return "q"
      }
    }
    if name.count == 3, name.first == "r" { return "q" }
    if name.count == 3, name.first == "e" { return "l" }
    if ["spl", "bpl", "sil", "dil"].contains(name) { return "b" }
    guard name.count == 2, let last = name.last else { return nil }
    if last == "l" || last == "h" { return "b" }
    return ["ax", "bx", "cx", "dx", "si", "di", "sp", "bp", "cs", "ds", "es", "fs", "gs", "ss"]
      .contains(name) ? "w" : nil
  }
}

extension String {
  /// The first hexadecimal number with its `0x`.
  fileprivate var range0x: Range<String.Index>? {
    var at = startIndex
    while at < endIndex {
      let next = index(after: at)
      if self[at] == "0", next < endIndex, self[next] == "x" {
        var end = index(after: next)
        while end < endIndex, self[end].isHexDigit { end = index(after: end) }
        return at..<end
      }
      at = next
    }
    return nil
  }
}
