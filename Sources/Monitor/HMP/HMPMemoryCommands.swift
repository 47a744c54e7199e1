import CPU
import Host
import QAPI

/// Commands about memory, numbers and ports.
extension HMPCommandTable {
  static let memoryCommands = [
    HMPCommand(
      "x", "fmt:/,addr:l", "/fmt addr", help: "show virtual memory from 'addr' on", .looks
    ) { session, arguments in
      await dump(session, arguments, isPhysical: false)
    },
    HMPCommand(
      "xp", "fmt:/,addr:l", "/fmt addr", help: "show physical memory from 'addr' on", .looks
    ) { session, arguments in
      await dump(session, arguments, isPhysical: true)
    },
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
      let sum = await checksum(session, start, arguments.integer("size") ?? 0)
      session.print(
        "\(TextForm.decimal(Int(sum), 5))\n")
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
  private static func checksum(
    _ session: HMPSession, _ start: UInt64, _ size: Int64
  ) async -> UInt16 {
    var sum: UInt16 = 0
    var done: Int64 = 0
    while done < size {
      let count = Int(min(size - done, 4096))
      let bytes = session.machine.readPhysical(start &+ UInt64(done), count: count)
      for index in 0..<count {
        sum = (sum >> 1 | sum << 15) &+ UInt16(bytes?[index] ?? 0)
      }
      done += Int64(count)
      if done % (256 << 10) == 0 { await MainLoop.nextTurn() }
    }
    return sum
  }
}
