import CPU
import CX86
import Host

/// What `-d in_asm,out_asm,exec,cpu` writes about blocks, for interpreter and translator alike.
///
/// Each question is one relaxed load and a branch. Ask `traces` where a block is looked up, never within one: while it is true blocks are
/// executed one at a time and nothing is chained, so that no block runs unseen. `TCGVirtualMachine.logChanged` undoes chains made before.
enum TranslationLog {
  /// Whether a line is due before every block (`exec`, `cpu`). Not one set of both: an array literal would be allocated at every step.
  @inline(__always) static var traces: Bool {
    Log.isEnabled(.execution) || Log.isEnabled(.registers)
  }

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

  /// `in_asm`, `out_asm`: a block that was translated just now. `page` is the host's address of the guest's code page.
  @inline(never)
  static func logTranslation(
    _ block: UnsafePointer<TranslatedBlock>, _ cache: TranslationCache, page: UInt64
  ) {
    let linear = unsafe block.pointee.linear
    guard Log.includes(linear) else { return }
    // SAFETY: the block's guest bytes lie in one page; its host bytes in the cache.
    let guest = unsafe UnsafeRawBufferPointer(
      start: UnsafeRawPointer(bitPattern: UInt(page &+ linear & Core.pageMask)),
      count: Int(block.pointee.length))
    if logsGuestCode { unsafe logGuestCode(guest, at: linear, codeSize: 8) }
    guard logsHostCode else { return }
    let code = unsafe UnsafeRawBufferPointer(
      start: block.pointee.host, count: Int(block.pointee.hostBytes))
    let marks = unsafe (0..<Int(block.pointee.sideCount)).map { k in
      let side = unsafe block.pointee.sides[k]
      return Mark(offset: Int(side.host), linear: linear &+ UInt64(side.guest))
    }
    let address = unsafe cache.executable(block.pointee.host)
    Log.write(.hostAssembly, unsafe hostListing(code, executedAt: address, marks: marks))
  }

  /// Where host code of a guest instruction begins.
  struct Mark {
    /// Bytes from the start of the block's code.
    let offset: Int
    /// Linear address of the guest instruction.
    let linear: UInt64
  }

  /// The text of `out_asm`, without the last line end. Behind an exit's jump lie eight bytes that the LEA before it points at: data.
  static func hostListing(
    _ code: UnsafeRawBufferPointer, executedAt address: UInt64, marks: [Mark]
  ) -> String {
    var text = "OUT: [size=\(code.count)]\n"
    let disassembler = Disassembler(.long)
    let bytes = unsafe [UInt8](code)
    var marks = marks[...]
    var data: Set<Int> = []
    var at = 0
    while at < bytes.count {
      while let mark = marks.first, mark.offset <= at {
        if marks.count == 1 || marks[marks.startIndex + 1].offset > at {
          text += "  -- guest addr 0x\(hex(mark.linear, 16))\n"
        }
        marks.removeFirst()
      }
      let place = address &+ UInt64(at)
      if data.contains(at), at + 8 <= bytes.count {
        let value = bytes[at..<at + 8].reversed().reduce(0 as UInt64) { $0 << 8 | UInt64($1) }
        text += "0x\(hex(place, 8)):  .quad  0x\(hex(value, 16))\n"
        at += 8
        continue
      }
      guard let line = disassembler.decode(bytes[at...], at: place) else { break }
      let piece = bytes[at..<min(at + line.length, bytes.count)]
      if piece.count == 7, piece.starts(with: [0x4C, 0x8D, 0x1D]) {
        let distance = piece.suffix(4).reversed().reduce(0 as UInt32) { $0 << 8 | UInt32($1) }
        data.insert(at + 7 + Int(Int32(bitPattern: distance)))
      }
      for row in Disassembler.lines(of: piece, line.text, at: place) { text += row + "\n" }
      at += line.length
    }
    return text
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
  func logExecution(hostCode: UInt64 = 0) {
    let base = segment(Core.cs).base
    guard Log.includes((rip &+ base) & linearMask) else { return }
    var text = ""
    if Log.isEnabled(.execution) {
      let host = String(hostCode, radix: 16)
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
