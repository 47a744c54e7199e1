import CPU
import CX86
import Host

/// What `-d in_asm,out_asm,exec,cpu` writes about blocks, for interpreter and translator alike.
///
/// Each question is one relaxed load and a branch. Ask `traces` where a block is looked up, never within one: while it is true blocks are
/// executed one at a time and nothing is chained, so that no block runs unseen. `TCGVirtualMachine.logChanged` undoes chains made before.
enum TranslationLog {
  /// Whether a line is due before every block (`exec`, `cpu`).
  @inline(__always) static var traces: Bool { Log.isEnabled([.execution, .registers]) }

  /// Whether the guest's instructions of new blocks are wanted (`in_asm`).
  @inline(__always) static var logsGuestCode: Bool { Log.isEnabled(.guestAssembly) }

  /// Whether the host code of new blocks is wanted (`out_asm`).
  @inline(__always) static var logsHostCode: Bool { Log.isEnabled(.hostAssembly) }

  /// `in_asm`: the guest's instructions of a block that was decoded or translated just now. `linear` is the address of the first,
  /// `codeSize` 2, 4 or 8.
  @inline(never)
  static func logGuestCode(_ code: UnsafeRawBufferPointer, at linear: UInt64, codeSize: UInt8) {
    guard Log.includes(linear) else { return }
    let mode: Disassembler.Mode = codeSize == 8 ? .long : codeSize == 4 ? .protected : .real
    Log.write(
      .guestAssembly,
      unsafe "----------------\nIN: \n" + Disassembler(mode).listing(code, at: linear))
  }

  /// Where the host code of a guest instruction begins, for `logHostCode`.
  struct Mark {
    /// Bytes from the start of the block's code.
    let offset: Int
    /// Linear address of the guest instruction.
    let linear: UInt64
  }

  /// `out_asm`: the host code of a block that was translated just now, as it will execute. `code` may be the writable mapping; `address`
  /// is where it is executed. `marks` are in order of their offsets; `linear` is the block's guest address.
  @inline(never)
  static func logHostCode(
    _ code: UnsafeRawBufferPointer, executedAt address: UInt, of linear: UInt64,
    marks: [Mark] = []
  ) {
    guard Log.includes(linear) else { return }
    var text = "OUT: [size=\(code.count)]\n"
    let disassembler = Disassembler(.long)
    var done = 0
    func list(to end: Int) {
      guard end > done, end <= code.count else { return }
      let part = unsafe UnsafeRawBufferPointer(rebasing: code[done..<end])
      text += unsafe disassembler.listing(part, at: UInt64(address) &+ UInt64(done))
      done = end
    }
    for (index, mark) in marks.enumerated() {
      list(to: mark.offset)
      text += "  -- guest addr 0x\(hex(mark.linear, 16))\(index == 0 ? " + tb prologue" : "")\n"
    }
    list(to: code.count)
    Log.write(.hostAssembly, text)
  }

  static func hex(_ value: UInt64, _ digits: Int) -> String {
    let text = String(value, radix: 16)
    return String(repeating: "0", count: max(0, digits - text.utf8.count)) + text
  }
}

extension Core {
  /// `exec`, `cpu`: a block is about to be executed at RIP; `hostCode` is the address of its code, 0 when it is interpreted.
  ///
  /// The vCPU's state must be in memory (between blocks, vector registers saved).
  @inline(never)
  func logExecution(hostCode: UInt = 0) {
    let base = segment(Core.cs).base
    guard Log.includes((rip &+ base) & linearMask) else { return }
    var text = ""
    if Log.isEnabled(.execution) {
      let host = String(UInt64(hostCode), radix: 16)
      let place =
        "\(TranslationLog.hex(base, 16))/\(TranslationLog.hex((rip &+ base) & linearMask, 16))"
      let mode = TranslationLog.hex(UInt64(modeFlags), 8)
      let flags = TranslationLog.hex(environment.tuning.maximumInstructions == 1 ? 1 : 0, 8)
      text = "Trace \(environment.index): 0x\(host) [\(place)/\(mode)/\(flags)] \n"
    }
    if Log.isEnabled(.registers) {
      text += logRegisters(withFloatingPoint: Log.isEnabled(.floatingPoint))
    }
    if !text.isEmpty { Log.write([.execution, .registers], String(text.dropLast())) }
  }

  /// The registers for the log, lines with `\n`, with another RIP if `at` says so. Nothing about the vCPU changes.
  func logRegisters(withFloatingPoint: Bool, at place: UInt64? = nil) -> String {
    let tsc = environment.exportedTSC
    defer { environment.exportedTSC = tsc }
    var state = readState()
    if let place { state.rip = place }
    return state.registerText(withFloatingPoint: withFloatingPoint)
  }

  /// The mode of the processor as the third number of a `Trace` line, where QEMU has its own flags of this meaning.
  private var modeFlags: UInt32 {
    var flags = UInt32(cpl)
    func add(_ bit: UInt32, _ isSet: Bool) { if isSet { flags |= 1 &<< bit } }
    let isProtected = cr0 & CR0.pe != 0
    let isLong = codeSize == 8
    add(3, shadow != 0)
    add(4, codeSize >= 4)
    add(5, stackSize >= 4)
    let hasBase =
      segment(Core.ds).base | segment(Core.es).base | segment(Core.ss).base != 0
    add(6, !isLong && (!isProtected || isVirtual8086 || codeSize == 2 || hasBase))
    add(7, isProtected)
    add(8, eflags & EFLAGS.tf != 0)
    add(9, cr0 & CR0.mp != 0)
    add(10, cr0 & CR0.em != 0)
    add(11, cr0 & CR0.ts != 0)
    flags |= eflags & 0x3000
    add(14, isLongModeActive)
    add(15, isLong)
    add(16, eflags & EFLAGS.rf != 0)
    add(17, isVirtual8086)
    add(18, eflags & EFLAGS.ac != 0)
    add(22, cr4 & CR4.osfxsr != 0)
    add(23, cr4 & CR4.smap != 0)
    return flags
  }
}
