import CPU
import Host
import QAPI

/// Commands about memory, numbers and ports.
extension HMPCommandTable {
  static let memoryCommands = [
    HMPCommand(
      "x", "fmt:/,addr:l", "/fmt addr", help: "show virtual memory from 'addr' on", .looks
    ) { session, arguments in dump(session, arguments, isPhysical: false) },
    HMPCommand(
      "xp", "fmt:/,addr:l", "/fmt addr", help: "show physical memory from 'addr' on", .looks
    ) { session, arguments in dump(session, arguments, isPhysical: true) },
    HMPCommand(
      "print|p", "fmt:/,val:l", "/fmt expr",
      help: "show the value of an expression ($reg is a CPU register)", .looks
    ) { session, arguments in
      let value = UInt64(bitPattern: arguments.integer("val") ?? 0)
      session.print(TextForm.number(value, kind: arguments.format("fmt").kind) + "\n")
    },
    HMPCommand("i", "fmt:/,addr:i,index:i.", "/fmt addr", help: "read an I/O port") {
      session, arguments in
      var port = UInt16(truncatingIfNeeded: arguments.integer("addr") ?? 0)
      let width = portWidth(arguments.format("fmt"))
      if let index = arguments.integer("index") {
        session.machine.writePort(port, width: 1, UInt32(truncatingIfNeeded: index & 0xFF))
        port &+= 1
      }
      let value = session.machine.readPort(port, width: width)
      let letter = width == 1 ? "b" : width == 2 ? "w" : "l"
      session.print(
        "port\(letter)[0x\(TextForm.hex(port, 4))] = 0x\(TextForm.hex(value, width * 2))\n")
    },
    HMPCommand("o", "fmt:/,addr:i,val:i", "/fmt addr value", help: "write an I/O port") {
      session, arguments in
      let port = UInt16(truncatingIfNeeded: arguments.integer("addr") ?? 0)
      let width = portWidth(arguments.format("fmt"))
      let value = UInt32(truncatingIfNeeded: arguments.integer("val") ?? 0)
      let mask: UInt32 = width == 4 ? .max : 1 << UInt32(width * 8) - 1
      session.machine.writePort(port, width: width, value & mask)
    },
    HMPCommand(
      "sum", "start:i,size:i", "addr size", help: "show the checksum of physical memory", .looks
    ) { session, arguments in
      let start = UInt64(arguments.integer("start") ?? 0)
      session.print(
        "\(TextForm.decimal(Int(checksum(session, start, arguments.integer("size") ?? 0)), 5))\n")
    },
    HMPCommand(
      "memsave", "val:l,size:i,filename:s", "addr size file",
      help: "save virtual memory from 'addr' on, 'size' bytes"
    ) { session, arguments throws(QAPIError) in
      try await session.commands.memsave(
        val: Int(arguments.integer("val") ?? 0), size: Int(arguments.integer("size") ?? 0),
        filename: arguments.text("filename") ?? "", cpuIndex: session.currentCPU)
    },
    HMPCommand(
      "pmemsave", "val:l,size:i,filename:s", "addr size file",
      help: "save physical memory from 'addr' on, 'size' bytes"
    ) { session, arguments throws(QAPIError) in
      try await session.commands.pmemsave(
        val: Int(arguments.integer("val") ?? 0), size: Int(arguments.integer("size") ?? 0),
        filename: arguments.text("filename") ?? "")
    },
    HMPCommand(
      "gpa2hva", "addr:l", "addr", help: "show where physical memory is in this process", .looks
    ) {
      session, arguments in
      let address = UInt64(bitPattern: arguments.integer("addr") ?? 0)
      let hex = String(address, radix: 16)
      guard let (block, place) = hostMemory(session, address) else { return }
      session.print(
        "Host virtual address for 0x\(hex) (\(block)) is 0x\(String(place, radix: 16))\n")
    },
    HMPCommand(
      "gpa2hpa", "addr:l", "addr",
      help: "show where physical memory is in the host's physical memory", .looks
    ) { session, arguments in
      let address = UInt64(bitPattern: arguments.integer("addr") ?? 0)
      let hex = String(address, radix: 16)
      guard let (block, place) = hostMemory(session, address) else { return }
      switch ProcessMemory.physicalAddress(of: place) {
      case .success(let physical):
        session.print(
          "Host physical address for 0x\(hex) (\(block)) is 0x\(String(physical, radix: 16))\n")
      case .failure(let error): session.print("\(error.text)\n")
      }
    },
    HMPCommand(
      "gva2gpa", "addr:l", "addr", help: "show the physical address of a virtual one", .looks
    ) {
      session, arguments in
      let address = UInt64(bitPattern: arguments.integer("addr") ?? 0)
      guard let state = session.machine.cpuState(session.currentCPU) else {
        session.print("No cpu\n")
        return
      }
      if let physical = virtualMemory(session, state).translate(address) {
        session.print("gpa: \(physical == 0 ? "0" : "0x" + String(physical, radix: 16))\n")
      } else {
        session.print("Unmapped\n")
      }
    },
  ]

  /// The block behind a guest-physical address and where it is in this process; says so and answers nil when it is no memory.
  @MainLoop
  private static func hostMemory(
    _ session: HMPSession, _ address: UInt64
  ) -> (block: String, place: UInt64)? {
    let hex = String(address, radix: 16)
    switch session.machine.hostAddress(of: address) {
    case .memory(let block, let place): return (block, place)
    case .device: session.print("Memory at address 0x\(hex) is not RAM\n")
    case .unmapped: session.print("No memory is mapped at address 0x\(hex)\n")
    }
    return nil
  }

  // MARK: - Ports

  /// Ports are at most four bytes wide.
  private static func portWidth(_ format: HMPFormat) -> Int {
    switch format.size {
    case 1: 1
    case 2: 2
    default: 4
    }
  }

  // MARK: - Memory

  @MainLoop
  static func virtualMemory(_ session: HMPSession, _ state: CPUState) -> PageTables {
    let machine = session.machine
    return PageTables(state) { address, count in
      MainLoop.assumeIsolated { machine.readPhysical(address, count: count) }
    }
  }

  /// The checksum of the BSD `sum` program. What is not memory counts as zeros.
  @MainLoop
  private static func checksum(_ session: HMPSession, _ start: UInt64, _ size: Int64) -> UInt16 {
    var sum: UInt16 = 0
    var done: Int64 = 0
    while done < size {
      let count = Int(min(size - done, 4096))
      let bytes = session.machine.readPhysical(start &+ UInt64(done), count: count)
      for index in 0..<count {
        sum = (sum >> 1 | sum << 15) &+ UInt16(bytes?[index] ?? 0)
      }
      done += Int64(count)
    }
    return sum
  }

  /// Most bytes of one dump: printing holds up everything else.
  private static let dumpLimit = 1 << 20
  /// Most instructions of one listing.
  private static let instructionLimit = 1 << 14

  @MainLoop
  private static func dump(_ session: HMPSession, _ arguments: HMPArguments, isPhysical: Bool) {
    let format = arguments.format("fmt")
    let address = UInt64(bitPattern: arguments.integer("addr") ?? 0)
    let state = session.machine.cpuState(session.currentCPU)
    if state == nil, !isPhysical {
      session.print("Can not dump without CPU\n")
      return
    }
    let tables = state.map { virtualMemory(session, $0) }
    func read(_ address: UInt64, _ count: Int) -> [UInt8]? {
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
      disassemble(session, state, address, count: min(count, instructionLimit), read)
      if count > instructionLimit {
        session.print("(cut off after \(instructionLimit) instructions)\n")
      }
      return
    }
    let dump = MemoryDump(format: format)
    var left = min(count * (format.size ?? 4), dumpLimit)
    var at = address
    while left > 0 {
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
    _ read: (UInt64, Int) -> [UInt8]?
  ) {
    let mode: Disassembler.Mode =
      state.map { RegisterText.isLong($0) ? .long : $0.cs.isBig ? .protected : .real } ?? .long
    let disassembler = Disassembler(mode)
    if !disassembler.namesInstructions { session.print(Disassembler.missingLibrary + "\n") }
    var at = start
    for _ in 0..<count {
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
