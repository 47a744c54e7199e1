import CPU
import Host
import QAPI

extension HMPCommandTable {
  static let preconfigCommands = [
    HMPCommand("exit_preconfig", help: "make the machine that -preconfig holds back") {
      session, _ throws(QAPIError) in try session.commands.xExitPreconfig()
    }
  ]

  /// What works before the machine exists: commands, and those below `info` with it before them.
  private static let early: Set<String> = [
    "closefd", "exit_preconfig", "getfd", "help", "info", "info chardev", "info history",
    "info hotpluggable-cpus", "info iothreads", "info memdev", "info name", "info qom-tree",
    "info status", "info uuid", "info version", "object_add", "object_del", "qom-get", "qom-list",
    "qom-set", "quit",
  ]

  /// Whether a command works before the machine exists; `path` is its first name, `info ` and such included.
  static func isEarly(_ path: String) -> Bool { early.contains(path) }
}

/// What the human monitor sees of a machine that is not made yet: nothing.
@MainLoop
final class UnmadeMachine: HMPMachine {
  let isMade = false
  let cpuCount = 0
  let memoryBlocks: [HMPMemoryBlock] = []
  let interruptControllers: [HMPInterruptController] = []
  let memoryTree: [HMPAddressSpace] = []
  let deviceTree = HMPBus(name: "main-system-bus", type: "System")
  let roms: [HMPROM] = []
  var isSingleStepping = false

  init() {}

  func cpuState(_ index: Int) -> CPUState? { nil }
  func readPhysical(_ address: UInt64, count: Int) -> [UInt8]? { nil }
  func readPort(_ port: UInt16, width: Int) -> UInt32 { ~0 }
  func writePort(_ port: UInt16, width: Int, _ value: UInt32) {}
  func hostAddress(of address: UInt64) -> HMPHostAddress { .unmapped }
  func setBootOrder(_ order: String) -> String? { nil }
  func moveMouse(x: Int, y: Int, wheel: Int) {}
  func holdMouseButtons(_ buttons: UInt8) {}
  func localAPIC(_ cpuIndex: Int) -> HMPLocalAPIC? { nil }
  func cpuIndex(apicID: UInt32) -> Int? { nil }
  func objectTree(_ path: String) -> HMPObject? { nil }
  func logChanged() {}
}
