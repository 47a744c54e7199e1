/// Rewrites Zydis's AT&T syntax to what QEMU's listings look like, which are Capstone's: sizes at mnemonics also when a register tells
/// them, the usual names of conditions, small numbers in decimal.
enum ZydisText {
  /// A line as Zydis formats it, in a listing of code of size `mode`; `code` begins with the instruction.
  static func rewritten(_ line: String, _ mode: Disassembler.Mode, _ code: [UInt8]) -> String {
    let legacy: Set<UInt8> = [0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3]
    let bytes = Set(code.prefix { legacy.contains($0) })
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
      if bytes.contains(0x2E), let memory = operands.last { operands = ["%cs:" + memory] }
    }
    if mnemonic == "jmp" || mnemonic == "call", let target = operands.first, target.contains("%") {
      operands[0] = "*" + target
    }
    if signed.contains(mnemonic) || mnemonic == "movq", let first = operands.first {
      operands[0] = negative(
        first, wide: operands.last.flatMap(suffix) ?? String(mnemonic.suffix(1)))
    }
    mnemonic = sized(mnemonic, operands, mode, hasPrefix66: bytes.contains(0x66))
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
    "movzxb": "movzb", "movzxw": "movzw", "movsxb": "movsb", "movsxw": "movsw",
    "movsxd": "movslq", "cdqe": "cltq", "cqo": "cqto", "cdq": "cltd", "cwde": "cwtl",
    "cbw": "cbtw", "cwd": "cwtd", "movsxdl": "movslq", "movqq": "movq", "movdl": "movd",
    "vmovqq": "vmovq", "vmovdl": "vmovd",
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
    "movzb", "movzw", "movsb", "movsw", "popcnt", "lzcnt", "tzcnt", "movabs", "movbe", "shlx",
    "shrx", "sarx", "rorx", "bzhi", "blsi", "blsr", "blsmsk",
    "andn", "pdep", "pext", "mulx", "adcx", "adox",
  ]
  private static let stack: Set<String> = [
    "push", "pop", "call", "ret", "leave", "pushf", "popf", "enter",
  ]

  /// Whose immediate operands are shown as signed numbers.
  private static let signed: Set<String> = [
    "add", "sub", "cmp", "adc", "sbb", "addl", "subl", "cmpl", "addq", "subq", "cmpq", "addw",
    "subw",
    "cmpw",
  ]

  /// `$-1` for an immediate that is negative in the operand's size.
  private static func negative(_ operand: String, wide: String) -> String {
    guard operand.hasPrefix("$0x"), let value = UInt64(operand.dropFirst(3), radix: 16) else {
      return operand
    }
    let number: Int64
    switch wide {
    case "q": number = Int64(bitPattern: value)
    case "l" where value <= UInt32.max: number = Int64(Int32(truncatingIfNeeded: value))
    case "w" where value <= UInt16.max: number = Int64(Int16(truncatingIfNeeded: value))
    default: return operand
    }
    // Sign-extended immediates only: those of 32 bits in full stay as they are.
    guard number < 0, number >= (wide == "q" ? Int64(Int32.min) : -128) else { return operand }
    let digits = number.magnitude < 10 ? "" : "0x"
    return "$-\(digits)\(String(number.magnitude, radix: 16))"
  }

  private static func sized(
    _ mnemonic: String, _ operands: [String], _ mode: Disassembler.Mode, hasPrefix66: Bool
  ) -> String {
    let natural =
      mode == .long ? hasPrefix66 ? "w" : "q" : (mode == .protected) != hasPrefix66 ? "l" : "w"
    if mnemonic == "lret" { return mnemonic + (mode == .long && !hasPrefix66 ? "l" : natural) }
    if mnemonic == "in" || mnemonic == "out" {
      let register = mnemonic == "in" ? operands.last : operands.first
      return mnemonic + (register.flatMap(suffix) ?? "")
    }
    if mode == .real, hasPrefix66, ["pushw", "callw", "popw"].contains(mnemonic) {
      return mnemonic.dropLast() + "l"
    }
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
    if mnemonic == "mov", operands.count == 2, suffix(operands[1]) == "q",
      operands[0].hasPrefix("$0x"),
      let value = UInt64(operands[0].dropFirst(3), radix: 16),
      Int64(bitPattern: value) != Int64(Int32(truncatingIfNeeded: value))
    {
      return "movabsq"
    }
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
