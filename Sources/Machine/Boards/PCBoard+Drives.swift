import Block
import DeviceModel
import Devices
import Host
import JSON
import Options
import PCI
import Virtio

// The drives of the command line as devices, and in which order firmware tries devices.

extension PCBoard {
  /// The controller of the board's own IDE buses.
  var ide: PIIX3IDE? {
    devices.lazy.compactMap { $0.device as? PIIX3IDE }.first
  }

  /// Drives with `if=ide`, which is usual: on the board's own buses. Those with `if=virtio` come as devices from the command line.
  func makeIDEDrives() throws(MachineError) {
    for drive in configuration.drives where drive.interface == .ide {
      guard drive.bus < 2 else {
        throw MachineError(
          "Too many IDE buses defined (\(drive.bus + 1) > 2)", origin: drive.origin)
      }
      try make(
        drive, drive.isCDROM ? IDEOpticalDrive.type : IDEHardDisk.type,
        [("bus", "ide.\(drive.bus)"), ("unit", "\(drive.unit)"), ("drive", drive.id)])
    }
  }

  private func make(
    _ drive: DriveConfiguration, _ type: DeviceType, _ properties: [(String, String)]
  ) throws(MachineError) {
    let wanted = DeviceConfiguration(
      driver: type.name, id: nil,
      properties: properties.map { DeviceProperty(name: $0.0, value: .text($0.1)) },
      origin: drive.origin)
    do throws(DeviceError) {
      try plug(wanted, isHotplugged: false, isBoards: drive.interface == .ide)
    } catch {
      throw MachineError(error.message, origin: drive.origin)
    }
  }

  /// Tells the drive what the device that has it is called, and the machine when the guest moves its tray.
  func nameDrive(of placed: PlacedDevice) {
    switch placed.device {
    case let device as VirtioBlockPCI:
      device.disk.backend.attach(
        device.disk, id: placed.id, path: placed.path + "/virtio-backend")
    case let device as any IDEDriveDevice:
      let unit = device.drive
      unit.backend.attach(unit, id: placed.id, path: placed.path)
      let request = parts.context.request
      let (name, path) = (unit.backend.name, placed.path)
      unit.onTrayMoved { isOpen in
        request(.trayMoved(drive: name, path: placed.id ?? path, isOpen: isOpen))
      }
    default: break
    }
  }

  // MARK: - Boot order

  /// What has a place in the order: `bootindex`, and the path that firmware knows the device by.
  private var bootEntries: [(index: Int32, path: String)] {
    devices.compactMap { placed in
      switch placed.device {
      case let device as VirtioBlockPCI:
        device.bootIndex.map {
          ($0, "/pci@i0cf8/scsi@\(PCBoard.unitAddress(device.placement.address))/disk@0,0")
        }
      case let device as VirtioNetPCI:
        device.bootIndex.map {
          let place = PCBoard.unitAddress(device.placement.address)
          return ($0, "/pci@i0cf8/ethernet@\(place)/ethernet-phy@0")
        }
      case let device as any IDEDriveDevice:
        device.drive.options.bootIndex.flatMap { index in
          guard let channel = placed.bus?.name.last else { return nil }
          return (
            index,
            "/pci@i0cf8/ide@\(PCBoard.unitAddress(PIIX3IDE.address))/drive@\(channel)"
              + "/disk@\(device.drive.unit)"
          )
        }
      default: nil
      }
    }
  }

  var bootIndices: [Int32] { bootEntries.map(\.index) }

  private static func unitAddress(_ address: PCIAddress) -> String {
    let device = String(address.device, radix: 16)
    return address.function == 0 ? device : "\(device),\(address.function)"
  }

  /// Writes the file that firmware reads the order from: at each start, since devices come and go. Throws when it does not fit.
  func publishBootOrder() throws(DeviceError) {
    let paths = bootEntries.sorted { $0.index < $1.index }.map(\.path)
    // A kernel that firmware is to start goes before all.
    let lines = boot.bootOrder + paths + (configuration.bootOrder.strict ? ["HALT"] : [])
    guard !lines.isEmpty else { return }
    try fwCfg.setFile("bootorder", Array(lines.joined(separator: "\n").utf8) + [0])
  }

  // MARK: - CMOS

  /// What firmware learns of the board's hard disks from the clock's memory: type, geometry, translation.
  func describeDisks() {
    var kinds: UInt8 = 0
    var translations: UInt8 = 0
    for placed in devices {
      guard let disk = placed.device as? IDEHardDisk,
        let channel = placed.bus?.name.last?.wholeNumberValue
      else { continue }
      let shape = disk.drive.options.shape.geometry
      let number = channel * 2 + disk.drive.unit
      translations |= PCBoard.translation(disk.drive.options) << UInt8(number * 2)
      guard number < 2 else { continue }
      kinds |= number == 0 ? 0xF0 : 0x0F
      rtc[byte: number == 0 ? 0x19 : 0x1A] = 47
      let low = UInt8(truncatingIfNeeded: shape.cylinders)
      let high = UInt8(truncatingIfNeeded: shape.cylinders >> 8)
      let bytes: [UInt8] = [
        low, high, UInt8(clamping: shape.heads), 0xFF, 0xFF, shape.heads > 8 ? 0xC8 : 0xC0, low,
        high, UInt8(clamping: shape.sectors),
      ]
      for (index, byte) in bytes.enumerated() {
        rtc[byte: UInt8((number == 0 ? 0x1B : 0x24) + index)] = byte
      }
    }
    rtc[byte: 0x12] = kinds
    rtc[byte: 0x39] = translations
  }

  /// 0 none, 1 LBA, 2 large, 3 revised.
  private static func translation(_ options: IDEDriveOptions) -> UInt8 {
    switch options.translation {
    case "none": return 0
    case "lba": return 1
    case "large": return 2
    case "rechs": return 3
    default:
      let shape = options.shape.geometry
      let fits = shape.cylinders <= 1024 && shape.heads <= 16 && shape.sectors <= 63
      return fits ? 0 : 1
    }
  }
}
