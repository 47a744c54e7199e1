import CPU

/// `info registers` and `$register`.
enum RegisterText {
  /// The value of `$name`; nil when there is no such register.
  static func value(_ name: String, in state: CPUState) -> UInt64? {
    let registers: [String: Int] = [
      "eax": 0, "ax": 0, "rax": 0, "ecx": 1, "cx": 1, "rcx": 1, "edx": 2, "dx": 2, "rdx": 2,
      "ebx": 3, "bx": 3, "rbx": 3, "esp": 4, "sp": 4, "rsp": 4, "ebp": 5, "fp": 5, "rbp": 5,
      "esi": 6, "rsi": 6, "edi": 7, "rdi": 7, "r8": 8, "r9": 9, "r10": 10, "r11": 11, "r12": 12,
      "r13": 13, "r14": 14, "r15": 15,
    ]
    if let index = registers[name] { return state.registers[index] }
    switch name {
    case "eflags", "rflags": return state.rflags
    case "eip", "rip": return state.rip
    case "pc": return programCounter(state)
    case "cr0": return state.cr0
    case "cr2": return state.cr2
    case "cr3": return state.cr3
    case "cr4": return state.cr4
    case "efer": return state.efer
    default: break
    }
    let parts = name.split(separator: ".", omittingEmptySubsequences: false)
    guard let segment = parts.first.flatMap({ self.segment(String($0), state) }) else { return nil }
    if parts.count == 1 { return UInt64(segment.selector) }
    guard parts.count == 2 else { return nil }
    return parts[1] == "base"
      ? segment.base : parts[1] == "limit" ? UInt64(segment.limit) : nil
  }

  /// The linear address of the next instruction.
  static func programCounter(_ state: CPUState) -> UInt64 {
    isLong(state) ? state.rip : state.rip &+ state.cs.base
  }

  /// Whether the CPU executes 64-bit code.
  static func isLong(_ state: CPUState) -> Bool { state.isLong }

  /// All registers of one vCPU, lines with `\n`.
  static func dump(_ state: CPUState, index: Int) -> String {
    "\nCPU#\(index)\n" + state.registerText(withFloatingPoint: true)
  }

  // MARK: -

  private static func segment(_ name: String, _ state: CPUState) -> SegmentRegister? {
    switch name {
    case "cs": state.cs
    case "ds": state.ds
    case "es": state.es
    case "ss": state.ss
    case "fs": state.fs
    case "gs": state.gs
    default: nil
    }
  }
}
