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
