import CPU
import Host
import QAPI

/// What `x` and `xp` print. Long listings are cut into turns of the main loop.
extension HMPCommandTable {
  /// Most bytes of one dump: printing holds up everything else.
  private static let dumpLimit = 1 << 20
  private typealias Reader = @MainLoop (_ address: UInt64, _ count: Int) -> [UInt8]?
  /// Most instructions of one listing.
  private static let instructionLimit = 1 << 14

  @MainLoop
  static func dump(
    _ session: HMPSession, _ arguments: HMPArguments, isPhysical: Bool
  ) async {
    let format = arguments.format("fmt")
    let address = UInt64(bitPattern: arguments.integer("addr") ?? 0)
    let state = session.machine.cpuState(session.currentCPU)
    if state == nil, !isPhysical {
      session.print("Can not dump without CPU\n")
      return
    }
    let tables = state.map { virtualMemory(session, $0) }
    let read: Reader = { address, count in
      if isPhysical { return session.machine.readPhysical(address, count: count) }
      var bytes: [UInt8] = []
      while bytes.count < count {
        let at = address &+ UInt64(bytes.count)
        let step = min(count - bytes.count, Int(4096 - at % 4096))
        guard let physical = tables?.translate(at),
          let piece = session.machine.readPhysical(physical, count: step)
        else { return nil }
        bytes += piece
      }
      return bytes
    }
    let count = min(format.count, dumpLimit)
    if format.kind == UInt8(ascii: "i") {
      await disassemble(session, state, address, count: min(count, instructionLimit), read)
      if count > instructionLimit {
        session.print("(cut off after \(instructionLimit) instructions)\n")
      }
      return
    }
    let dump = MemoryDump(format: format)
    var left = min(count * (format.size ?? 4), dumpLimit)
    var at = address
    var lines = 0
    while left > 0 {
      lines += 1
      if lines % 256 == 0 { await MainLoop.nextTurn() }
      let step = min(left, dump.lineSize)
      guard let bytes = read(at, step) else {
        session.print("\(TextForm.hex(at, 16)): Cannot access memory\n")
        return
      }
      session.print("\(TextForm.hex(at, 16)):\(dump.items(bytes))\n")
      at &+= UInt64(step)
      left -= step
    }
    if count < format.count || count * (format.size ?? 4) > dumpLimit {
      session.print("(cut off after \(dumpLimit) bytes)\n")
    }
  }

  @MainLoop
  private static func disassemble(
    _ session: HMPSession, _ state: CPUState?, _ start: UInt64, count: Int,
    _ read: Reader
  ) async {
    let mode: Disassembler.Mode =
      state.map { RegisterText.isLong($0) ? .long : $0.cs.isBig ? .protected : .real } ?? .long
    let disassembler = Disassembler(mode)
    if !disassembler.namesInstructions { session.print(Disassembler.missingLibrary + "\n") }
    var at = start
    for number in 1...max(count, 1) where count > 0 {
      if number % 128 == 0 { await MainLoop.nextTurn() }
      var bytes: [UInt8] = []
      for size in [15, 8, 4, 2, 1] where bytes.isEmpty { bytes = read(at, size) ?? [] }
      // A window that ends at unmapped memory: as much as there is.
      while bytes.count < 15, !bytes.isEmpty, let more = read(at &+ UInt64(bytes.count), 1) {
        bytes += more
      }
      guard let line = disassembler.decode(bytes, at: at) else {
        session.print("0x\(TextForm.hex(at, 8)): unable to read memory\n")
        return
      }
      for text in Disassembler.lines(of: bytes.prefix(line.length), line.text, at: at) {
        session.print(text + "\n")
      }
      at &+= UInt64(line.length)
    }
  }
}

/// How a dump's lines are filled (`x`, `xp`).
struct MemoryDump {
  let format: HMPFormat
  private var size: Int { format.size ?? 4 }

  /// Bytes of a line.
  var lineSize: Int { size == 1 ? 8 : 16 }

  /// The items of one line, each after a blank.
  func items(_ bytes: [UInt8]) -> String {
    let isCharacter = format.kind == UInt8(ascii: "c")
    let step = isCharacter ? 1 : size
    var text = ""
    var index = 0
    while index < bytes.count {
      let item = bytes[index..<min(index + step, bytes.count)]
      let value = item.reversed().reduce(0 as UInt64) { $0 << 8 | UInt64($1) }
      text += " " + TextForm.number(value, kind: format.kind, width: width, size: size)
      index += step
    }
    return text
  }

  /// Digits that the largest value of the size needs.
  private var width: Int {
    switch format.kind {
    case UInt8(ascii: "x"): size * 2
    case UInt8(ascii: "o"): (size * 8 + 2) / 3
    case UInt8(ascii: "u"), UInt8(ascii: "d"): (size * 80 + 32) / 33
    default: 0
    }
  }
}
