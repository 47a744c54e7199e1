import Block
import DeviceModel
import Devices
import Host
import Options
import PCI
import Virtio

// Devices with disks.

extension DeviceTable {
  /// Disks and optical drives.
  static let disks: [DeviceRecipe] = [
    DeviceRecipe(VirtioBlockPCI.type) { (assembly) throws(DeviceError) in
      try assembly.virtioBlock()
    },
    DeviceRecipe(IDEHardDisk.type) { (assembly) throws(DeviceError) in
      IDEHardDisk(try assembly.ideDrive(isOptical: false))
    },
    DeviceRecipe(IDEOpticalDrive.type) { (assembly) throws(DeviceError) in
      IDEOpticalDrive(try assembly.ideDrive(isOptical: true))
    },
  ]
}

/// A device has a drive, until it goes.
@MainLoop
private final class DriveAttachment: DeviceAttachment {
  private let drives: DriveProperty
  private let backend: BlockBackend

  init(_ drives: DriveProperty, _ backend: BlockBackend) {
    self.drives = drives
    self.backend = backend
  }

  func detach() {}
  func abandon() { drives.release(backend) }
  var ending: (@Sendable () -> Void)? {
    { [graph = drives.graph, backend] in DriveProperty.end(backend, in: graph) }
  }
}

extension PIIX3IDE: DeviceBusOwner {
  func buses(id: String?, path: String) -> [DeviceBus] {
    (0..<2).map { index in
      DeviceBus(
        name: id.map { "\($0).\(index)" } ?? "ide.\(index)", type: "IDE", owner: path,
        isHotpluggable: false, capacity: 2)
    }
  }
}

extension DeviceAssembly {
  /// Sizes that all disks may be told, checked as QEMU does.
  private func blockSizes() throws(DeviceError) -> (logical: UInt32, physical: UInt32) {
    func size(_ name: String) throws(DeviceError) -> UInt32 {
      let value = try properties.size(name, default: 0)
      guard value == 0 || (512...2 << 20).contains(value) else {
        throw DeviceError(
          .badValue,
          "Property \(properties.type.name).\(name) doesn't take value \(value)"
            + " (minimum: 512, maximum: 2 MiB)")
      }
      guard value & (value &- 1) == 0 || value == 0 else {
        throw DeviceError(
          .badValue,
          "Property \(properties.type.name).\(name) doesn't take value '\(value)',"
            + " it's not a power of 2")
      }
      return UInt32(value)
    }
    let logical = try size("logical_block_size")
    let physical = try size("physical_block_size")
    let used = (logical == 0 ? 512 : logical, physical == 0 ? max(512, logical) : physical)
    guard used.0 <= used.1 else {
      throw DeviceError(.badValue, "logical_block_size > physical_block_size not supported")
    }
    return used
  }

  /// The disk that `drive=` names, with what the other properties say about it. Throws with QEMU's sentences.
  private func disk(
    of type: String, isOptical: Bool, isResizable: Bool
  ) throws(DeviceError) -> BlockBackend {
    let drives = board.parts.drives
    let backend: BlockBackend
    if let name = properties.text("drive"), !name.isEmpty {
      backend = try drives.backend(name, of: type)
    } else if isOptical {
      backend = drives.emptyBackend()
    } else {
      throw DeviceError(
        .missingProperty,
        type == "virtio-blk-device" ? "drive property not set" : "No drive specified")
    }
    attachments.append(DriveAttachment(drives, backend))
    if !isOptical {
      guard backend.isInserted else {
        throw DeviceError(.unavailable, "Device needs media, but drive is empty")
      }
    }
    switch properties.text("write-cache") ?? "auto" {
    case "on": backend.hasWriteCache = true
    case "off": backend.hasWriteCache = false
    case "auto": break
    case let other:
      throw DeviceError(.badValue, "Parameter 'write-cache' does not accept value '\(other)'")
    }
    let read = try policy("rerror") ?? backend.onReadError
    guard read != .enospc else {
      throw DeviceError(.badValue, "rerror doesn't support 'enospc'")
    }
    backend.setErrorPolicy(read: read, write: try policy("werror") ?? backend.onWriteError)
    let sharesWriting = try properties.flag("share-rw", default: false)
    let isReadOnly = isOptical || backend.isReadOnly
    try drives.setUse(
      of: backend, isReadOnly: isReadOnly, isResizable: isResizable, sharesWriting: sharesWriting)
    return backend
  }

  private func policy(_ name: String) throws(DeviceError) -> BlockErrorPolicy? {
    let text = properties.text(name) ?? "auto"
    if text == "auto" { return nil }
    guard let policy = BlockErrorPolicy(rawValue: text) else {
      throw DeviceError(.badValue, "Parameter '\(name)' does not accept value '\(text)'")
    }
    return policy
  }

  /// The place in the order in which firmware tries devices. Throws when another device has it.
  func bootIndex() throws(DeviceError) -> Int32? {
    guard let text = properties.text("bootindex") else { return nil }
    guard let index = Int32(text) else {
      throw DeviceError(.badValue, "Parameter 'bootindex' expects int32_t")
    }
    if index < 0 { return nil }
    guard !board.bootIndices.contains(index) else {
      throw DeviceError(.busy, "The bootindex \(index) has already been used")
    }
    return index
  }

  /// Cylinders, heads and sectors: as the user says, or as is usual for the size.
  private func geometry(
    _ backend: BlockBackend, _ names: (String, String, String) = ("cyls", "heads", "secs")
  ) throws(DeviceError) -> DriveShape.Geometry {
    let cylinders = try properties.number(names.0, default: 0)
    let heads = try properties.number(names.1, default: 0)
    let sectors = try properties.number(names.2, default: 0)
    guard cylinders | heads | sectors != 0 else {
      return DriveShape.Geometry(sectorCount: backend.length / 512)
    }
    for (name, value, limit) in [
      ("cyls", cylinders, 65535), ("heads", heads, 16), ("secs", sectors, 255),
    ] as [(String, UInt64, UInt64)] where !(1...limit).contains(value) {
      throw DeviceError(.badValue, "\(name) must be between 1 and \(limit)")
    }
    return DriveShape.Geometry(
      cylinders: UInt32(cylinders), heads: UInt32(heads), sectors: UInt32(sectors))
  }

  // MARK: - virtio-blk

  fileprivate func virtioBlock() throws(DeviceError) -> any Device {
    var settings = DiskSettings()
    let processors = UInt16(clamping: board.parts.apicIDs.count)
    let queues = try properties.number("num-queues", default: 65535)
    settings.queueCount = queues == 65535 ? processors : UInt16(clamping: queues)
    guard settings.queueCount > 0 else {
      throw DeviceError(.badValue, "num-queues property must be larger than 0")
    }
    guard settings.queueCount <= 1024 else {
      throw DeviceError(.badValue, "num-queues property must not be larger than 1024")
    }
    let queueSize = try properties.number("queue-size", default: 256)
    guard queueSize > 2 else {
      throw DeviceError(
        .badValue, "invalid queue-size property (\(queueSize)), must be larger than 2")
    }
    guard queueSize & (queueSize - 1) == 0, queueSize <= 1024 else {
      throw DeviceError(
        .badValue,
        "invalid queue-size property (\(queueSize)), must be a power of 2 (max 1024)")
    }
    settings.queueSize = UInt16(clamping: queueSize)
    if try properties.flag("scsi", default: false) {
      throw DeviceError(
        .badValue, "Please set scsi=off for virtio-blk devices in order to use virtio 1.0")
    }
    settings.canDiscard = try properties.flag("discard", default: true)
    settings.canWriteZeroes = try properties.flag("write-zeroes", default: true)
    settings.canChangeCache = try properties.flag("config-wce", default: true)
    settings.adjustsSegments = try properties.flag("seg-max-adjust", default: true)
    settings.reportsGranularity = try properties.flag(
      "report-discard-granularity", default: true)
    settings.mergesRequests = try properties.flag("request-merging", default: true)
    settings.serial = properties.text("serial") ?? ""
    for name in ["max-discard-sectors", "max-write-zeroes-sectors"] {
      let value = try properties.number(name, default: 4_194_303)
      guard value > 0, value <= 4_194_303 else {
        throw DeviceError(
          .badValue,
          "invalid \(name) property (\(value)), must be between 1 and 4194303")
      }
      if name == "max-discard-sectors" {
        settings.maximumDiscard = UInt32(value)
      } else {
        settings.maximumWriteZeroes = UInt32(value)
      }
    }
    let sizes = try blockSizes()
    (settings.logicalBlockSize, settings.physicalBlockSize) = sizes
    settings.minimumIOSize = UInt32(clamping: try properties.size("min_io_size", default: 0))
    settings.optimalIOSize = UInt32(clamping: try properties.size("opt_io_size", default: 0))
    let granularity = try properties.size("discard_granularity", default: 0xFFFF_FFFF)
    settings.discardGranularity =
      granularity == 0xFFFF_FFFF ? sizes.logical : UInt32(clamping: granularity)
    let index = try bootIndex()
    let placement = try placement()
    let thread = try ioThread()
    let transport = try virtio(
      vectors: Int(settings.queueCount) + 1, classCode: 0x01_0000)
    let backend = try disk(of: "virtio-blk-device", isOptical: false, isResizable: true)
    let shape = try geometry(backend)
    settings.cylinders = UInt16(clamping: shape.cylinders)
    settings.heads = UInt8(clamping: shape.heads)
    settings.sectors = UInt8(clamping: shape.sectors)
    let device = Disk(backend, settings, thread: thread)
    backend.trackIOStatus()
    return VirtioBlockPCI(
      placement, transport, device, driveName: driveName(backend), bootIndex: index)
  }

  private func driveName(_ backend: BlockBackend) -> String {
    backend.name.isEmpty ? backend.node?.name ?? "" : backend.name
  }

  private func ioThread() throws(DeviceError) -> IOThread? {
    guard let name = properties.text("iothread") else { return nil }
    guard let object = board.objects[name] as? IOThreadObject else {
      throw DeviceError(.notFound, "Device '\(name)' not found")
    }
    return object.thread
  }

  // MARK: - IDE

  fileprivate func ideDrive(isOptical: Bool) throws(DeviceError) -> IDEUnit {
    guard let controller = board.ide, let bus, let last = bus.name.last,
      let channel = last.wholeNumberValue, controller.channels.indices.contains(channel)
    else { throw DeviceError(.badValue, "No 'IDE' bus found for device '\(properties.type.name)'") }
    let taken = board.devices.compactMap { placed in
      placed.bus == bus ? (placed.device as? any IDEDriveDevice)?.drive.unit : nil
    }
    let unset: UInt64 = 0xFFFF_FFFF
    var unit = try properties.number("unit", default: unset)
    if unit == unset { unit = taken.contains(0) ? 1 : 0 }
    guard unit < 2 else { throw DeviceError(.badValue, "Invalid IDE unit \(unit)") }
    guard !taken.contains(Int(unit)) else {
      throw DeviceError(.busy, "IDE unit \(unit) is in use")
    }
    var options = IDEDriveOptions()
    options.blockSizes = try blockSizes()
    guard isOptical || options.blockSizes.logical == 512 else {
      throw DeviceError(.badValue, "logical_block_size must be 512 for IDE")
    }
    options.bootIndex = try bootIndex()
    options.shape.isOptical = isOptical
    options.shape.serial =
      properties.text("serial") ?? "QM0000\(channel * 2 + Int(unit) + 1)"
    options.shape.model =
      properties.text("model") ?? (isOptical ? "QEMU DVD-ROM" : "QEMU HARDDISK")
    options.shape.firmware = properties.text("ver") ?? "2.5+"
    options.shape.worldWideName = try properties.number("wwn", default: 0)
    let backend = try disk(
      of: properties.type.name, isOptical: isOptical, isResizable: !isOptical)
    if !isOptical {
      guard !backend.isReadOnly else {
        throw DeviceError(.badValue, "Block node is read-only")
      }
      options.shape.geometry = try geometry(backend)
      options.shape.canTrim = true
      options.shape.rotationRate = UInt16(
        clamping: try properties.number("rotation_rate", default: 0))
      options.shape.physicalBlockExponent = UInt16(
        (options.blockSizes.physical / 512).trailingZeroBitCount)
      let translations = ["auto", "none", "lba", "large", "rechs"]
      options.translation = properties.text("bios-chs-trans") ?? "auto"
      guard translations.contains(options.translation) else {
        throw DeviceError(
          .badValue,
          "Parameter 'bios-chs-trans' does not accept value '\(options.translation)'")
      }
      if try properties.number("lcyls", default: 0) > 0 {
        options.firmwareGeometry = try geometry(backend, ("lcyls", "lheads", "lsecs"))
      }
    }
    options.driveName = driveName(backend)
    let drive = IDEUnit(controller.channels[channel], unit: Int(unit), backend, options)
    backend.trackIOStatus()
    return drive
  }
}
