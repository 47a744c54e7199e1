package import DeviceModel
import Host
import Options

/// A device with its place in the object tree.
package struct PlacedDevice: Sendable {
  /// QOM path, such as `/machine/unattached/device[3]`.
  package let path: String
  /// The `id=` of a user's device.
  package let id: String?
  package let device: any Device
  /// Properties that the device itself does not know, such as `chardev`.
  var settings: [String: PropertyValue] = [:]
  /// Where it sits; nil for a device without a bus, and for the board's own.
  var bus: DeviceBus?
  /// It came after the machine was made.
  package var isHotplugged = false
  /// What must be undone when it goes.
  var attachments: [any DeviceAttachment] = []
}

/// How a machine type puts its devices together.
@MainLoop
protocol Board: AnyObject {
  /// All devices, in order of creation.
  var devices: [PlacedDevice] { get }
  /// Changes whenever `devices` does.
  var generation: Int { get }
  /// Brings memory, firmware and kernel back to what the first instruction finds. All vCPUs are paused, devices are reset.
  func prepareStart(_ threads: [VCPUThread]) throws(MachineError)
  /// Remembers what survives ACPI S3 beside RAM. All vCPUs are paused, devices are not yet reset.
  func prepareWake()
  /// After the devices' reset: the guest's memory is as it was, the first vCPU starts where it resumes.
  func finishWake(_ threads: [VCPUThread]) throws(MachineError)
  /// Presses the power button; false when the machine has none.
  func pressPowerButton() -> Bool
  /// Tells the firmware which drives to try, by letters that are right for a PC; false when no firmware reads such an order.
  func changeBootOrder(to order: String) -> Bool
  /// What vCPUs begin with beside the architecture's initial values. Node 0's board has it from its boot plan, and gives it to those of other
  /// nodes.
  var start: ResetState { get set }
}

/// `none`: no devices, no memory, no vCPU. Serves tools that only ask what the program can do.
@MainLoop
final class EmptyBoard: Board {
  let devices: [PlacedDevice] = []
  let generation = 0
  var start = ResetState()

  /// Throws `MachineError` for a device: there is no bus to put it on.
  init(_ configuration: LaunchConfiguration) throws(MachineError) {
    guard let wanted = configuration.devices.first else { return }
    throw MachineError(complaint(about: wanted).message, origin: wanted.origin)
  }

  /// Why there cannot be such a device.
  func complaint(about wanted: DeviceConfiguration) -> DeviceError {
    guard let type = Machine.userDeviceTypes.first(where: { $0.name == wanted.driver }) else {
      return DeviceError(.unknownType, "'\(wanted.driver)' is not a valid device model name")
    }
    return DeviceError(
      .badValue, "No '\(type.bus ?? "System")' bus found for device '\(type.name)'")
  }

  func prepareStart(_ threads: [VCPUThread]) throws(MachineError) {}
  func prepareWake() {}
  func finishWake(_ threads: [VCPUThread]) throws(MachineError) {}
  func pressPowerButton() -> Bool { false }
  func changeBootOrder(to order: String) -> Bool { false }
}
