package import Block
package import DeviceModel
import Synchronization

/// What a user says about a drive on an IDE bus.
package struct IDEDriveOptions: Sendable {
  package var shape = DriveShape()
  /// Geometry that the firmware uses, when it is not the drive's own.
  package var firmwareGeometry: DriveShape.Geometry?
  /// `bios-chs-trans`.
  package var translation = "auto"
  package var bootIndex: Int32?
  /// As properties show it.
  package var blockSizes: (logical: UInt32, physical: UInt32) = (512, 512)
  package var driveName = ""

  package init() {}
}

/// One place on a channel with a drive in it: the side that faces the user.
package final class IDEUnit: BlockDeviceOperations {
  let port: IDEPort
  /// 0 or 1 on its channel.
  package let unit: Int
  package let backend: BlockBackend
  package let options: IDEDriveOptions
  /// Told when the guest opens (true) or closes the tray.
  private struct Handler: Sendable { let call: @Sendable (Bool) -> Void }
  private let trayHandler = Mutex<Handler?>(nil)

  /// Puts the drive on the channel.
  package init(_ port: IDEPort, unit: Int, _ backend: BlockBackend, _ options: IDEDriveOptions) {
    self.port = port
    self.unit = unit & 1
    self.backend = backend
    self.options = options
    let drive = ATADrive(
      options.shape, mediumSize: backend.length, isWriteCacheOn: backend.hasWriteCache)
    port.attach(drive, backend, at: self.unit) { [weak self] open in
      self?.trayHandler.withLock { $0 }?.call(open)
    }
  }

  /// `handler` is called, from any thread, when the guest moves the tray.
  package func onTrayMoved(_ handler: @escaping @Sendable (_ open: Bool) -> Void) {
    trayHandler.withLock { $0 = Handler(call: handler) }
  }

  package var hasRemovableMedium: Bool { options.shape.isOptical }
  package var isTrayOpen: Bool { port.withDrive(unit) { $0.isTrayOpen } ?? false }
  package var isMediumLocked: Bool { port.withDrive(unit) { $0.isLocked } ?? false }

  package func mediumChanged(isLoaded: Bool) {
    let size = backend.length
    _ = port.withDrive(unit) { $0.changeMedium(size: size, isTrayOpen: !isLoaded) }
  }

  package func requestEject(isForced: Bool) {
    _ = port.withDrive(unit) { drive in
      drive.requestEject()
      if isForced { drive.unlock() }
    }
  }

  package func resized() {
    let size = backend.length
    _ = port.withDrive(unit) { $0.mediumSize = size }
  }

  var values: [(name: String, value: PropertyValue)] {
    [
      ("unit", .unsigned(UInt64(unit))), ("drive", .string(options.driveName)),
      ("logical_block_size", .unsigned(UInt64(options.blockSizes.logical))),
      ("physical_block_size", .unsigned(UInt64(options.blockSizes.physical))),
      ("ver", .string(options.shape.firmware)), ("wwn", .address(options.shape.worldWideName)),
      ("serial", .string(options.shape.serial)), ("model", .string(options.shape.model)),
    ]
  }
}

/// A device on an IDE bus.
package protocol IDEDriveDevice: Device {
  var drive: IDEUnit { get }
}

/// `ide-hd`.
package final class IDEHardDisk: IDEDriveDevice {
  package static let type = DeviceType(
    name: "ide-hd", parent: "ide-device", bus: "IDE", description: "virtual IDE disk",
    properties: BlockProperties.all + IDEHardDisk.unitProperties + [
      PropertyDescription("cyls", "uint32", default: .unsigned(0)),
      PropertyDescription("heads", "uint32", default: .unsigned(0)),
      PropertyDescription("secs", "uint32", default: .unsigned(0)),
      PropertyDescription("lcyls", "uint32", default: .unsigned(0)),
      PropertyDescription("lheads", "uint32", default: .unsigned(0)),
      PropertyDescription("lsecs", "uint32", default: .unsigned(0)),
      PropertyDescription("bios-chs-trans", "BiosAtaTranslation", default: .string("auto")),
      PropertyDescription("rotation_rate", "uint16", default: .unsigned(0)),
    ], isUserCreatable: true, isHotpluggable: false)

  static let unitProperties = [
    PropertyDescription("unit", "uint32", default: .unsigned(0xFFFF_FFFF)),
    PropertyDescription("ver", "str"), PropertyDescription("wwn", "uint64", default: .unsigned(0)),
    PropertyDescription("serial", "str"), PropertyDescription("model", "str"),
  ]

  package let drive: IDEUnit
  package init(_ drive: IDEUnit) { self.drive = drive }
  package var properties: [(name: String, value: PropertyValue)] { drive.values }
  package func realize(in context: MachineContext) throws(DeviceError) {}
  package func reset(_ kind: ResetKind) {}
}

/// `ide-cd`.
package final class IDEOpticalDrive: IDEDriveDevice {
  package static let type = DeviceType(
    name: "ide-cd", parent: "ide-device", bus: "IDE", description: "virtual IDE CD-ROM",
    properties: BlockProperties.all + IDEHardDisk.unitProperties, isUserCreatable: true,
    isHotpluggable: false)

  package let drive: IDEUnit
  package init(_ drive: IDEUnit) { self.drive = drive }
  package var properties: [(name: String, value: PropertyValue)] { drive.values }
  package func realize(in context: MachineContext) throws(DeviceError) {}
  package func reset(_ kind: ResetKind) {}
}
