import CPU
import Host
import Monitor
import QAPI

/// A machine without memory and devices, which answers what the guest chooses with what is nothing.
@MainLoop
private final class EmptyMachine: HMPMachine {
  var isSingleStepping = false
  let cpuCount = 1
  func cpuState(_ index: Int) -> CPUState? {
    index == 0 ? CPUState.reset(signature: 0x60FB1) : nil
  }
  func readPhysical(_ address: UInt64, count: Int) -> [UInt8]? {
    address < 1 << 32 && count < 1 << 20 ? [UInt8](repeating: 0x90, count: count) : nil
  }
  func readPort(_ port: UInt16, width: Int) -> UInt32 { 0xFFFF_FFFF }
  func writePort(_ port: UInt16, width: Int, _ value: UInt32) {}
  func hostAddress(of address: UInt64) -> HMPHostAddress { .unmapped }
  func setBootOrder(_ order: String) -> String? { nil }
  func localAPIC(_ cpuIndex: Int) -> HMPLocalAPIC? { HMPLocalAPIC() }
  func cpuIndex(apicID: UInt32) -> Int? { nil }
  var interruptControllers: [HMPInterruptController] { [] }
  var memoryTree: [HMPAddressSpace] { [] }
  var deviceTree: HMPBus { HMPBus(name: "main-system-bus", type: "System") }
  var roms: [HMPROM] { [] }
  func logChanged() {}
}

/// Lines of the human monitor: each ends, and what it prints ends its lines.
struct HMPFuzzer: Fuzzer {
  private final class Handlers: DecliningHandlers {}

  init() {
    // This thread is the main loop from here on.
    _ = MainLoop.run { MainLoop.stop(status: 0) }
  }

  func run(_ input: [UInt8]) {
    let lines = input.split(separator: 10).prefix(16).map { String(decoding: $0, as: UTF8.self) }
    // `logfile` writes to any file.
    for line in lines where !line.contains("logfile") {
      MainLoop.assumeIsolated {
        let session = HMPSession(commands: Handlers(), machine: EmptyMachine())
        let text = session.run(commandLine: line)
        require(text.isEmpty || text.utf8.count < 1 << 24, "a line prints without end")
      }
    }
  }
}

/// Keys of the human monitor's line editor: lines stay within their limit.
struct EditorFuzzer: Fuzzer {
  func run(_ input: [UInt8]) {
    var editor = LineEditor(prompt: "(qemu) ")
    var output = editor.begin()
    for byte in input {
      switch editor.receive(byte, into: &output) {
      case .editing: break
      case .line(let line):
        require(line.count <= LineEditor.lineLimit, "a line of \(line.count) bytes")
        output += editor.begin()
      case .completion(let text):
        output += editor.complete(["info", "info ", "inject-nmi"], typed: min(3, text.count))
      }
      output.removeAll(keepingCapacity: true)
    }
  }
}
