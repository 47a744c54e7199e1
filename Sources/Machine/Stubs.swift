import CPU
import DeviceModel
import Devices
import Host
import Options
import Shm
final class RTC: Device {
  static let type = DeviceType(
    name: "mc146818rtc", parent: "isa-device", bus: "ISA", description: "")
  func realize(in context: MachineContext) throws(DeviceError) {}
  func reset(_ kind: ResetKind) {}
}
final class PIT: Device {
  static let type = DeviceType(name: "isa-pit", parent: "isa-device", bus: "ISA", description: "")
  func realize(in context: MachineContext) throws(DeviceError) {}
  func reset(_ kind: ResetKind) {}
}
final class HPET: Device {
  static let type = DeviceType(name: "hpet", parent: "isa-device", bus: "ISA", description: "")
  init(pit: PIT, rtc: RTC) {}
  func realize(in context: MachineContext) throws(DeviceError) {}
  func reset(_ kind: ResetKind) {}
}
package struct BootPlan {
  var firmware: [UInt8]?
  static func make(_ c: LaunchConfiguration, map: PCMemoryMap) throws(MachineError) -> BootPlan {
    BootPlan(firmware: try? FileDescriptor.contents(of: "/usr/share/seabios/bios-256k.bin"))
  }
  package static let firmwareDirectories = ["/usr/share/seabios"]
  func load(into m: GuestMemory, boot: VCPUThread?) throws(MachineError) {}
}
