import CPU
import Host

/// What the human monitor sees before there is a machine (`-preconfig`). The commands that need one are not available then.
@MainLoop
final class HMPAbsentMachine: HMPMachine {
  var cpuCount: Int { 0 }
  func cpuState(_ index: Int) -> CPUState? { nil }
  func readPhysical(_ address: UInt64, count: Int) -> [UInt8]? { nil }
  func readPort(_ port: UInt16, width: Int) -> UInt32 { .max }
  func writePort(_ port: UInt16, width: Int, _ value: UInt32) {}
  func hostAddress(of address: UInt64) -> HMPHostAddress { .unmapped }
  func setBootOrder(_ order: String) -> String? {
    "no function defined to set boot device list for this architecture"
  }
  func localAPIC(_ cpuIndex: Int) -> HMPLocalAPIC? { nil }
  func cpuIndex(apicID: UInt32) -> Int? { nil }
  var interruptControllers: [HMPInterruptController] { [] }
  var memoryTree: [HMPAddressSpace] { [] }
  var deviceTree: HMPBus { HMPBus(name: "main-system-bus", type: "System") }
  var roms: [HMPROM] { [] }
  var isSingleStepping: Bool {
    get { false }
    set {}
  }
  func logChanged() {}
}
