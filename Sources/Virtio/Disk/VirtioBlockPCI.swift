package import Block
package import DeviceModel
import Host
package import PCI
import Synchronization

/// `virtio-blk-pci`.
package final class VirtioBlockPCI: VirtioFunction {
  package static let type = DeviceType(
    name: "virtio-blk-pci", parent: "virtio-blk-pci-base", bus: "PCI", description: "",
    properties: PCIPlacement.properties + VirtioProperties.common + BlockProperties.all + [
      PropertyDescription("vectors", "uint32", default: .unsigned(0xFFFF_FFFF)),
      PropertyDescription("class", "uint32", default: .unsigned(0)),
      PropertyDescription("ioeventfd", "bool", default: .bool(true), "on/off"),
      PropertyDescription("cyls", "uint32", default: .unsigned(0)),
      PropertyDescription("heads", "uint32", default: .unsigned(0)),
      PropertyDescription("secs", "uint32", default: .unsigned(0)),
      PropertyDescription("lcyls", "uint32", default: .unsigned(0)),
      PropertyDescription("lheads", "uint32", default: .unsigned(0)),
      PropertyDescription("lsecs", "uint32", default: .unsigned(0)),
      PropertyDescription("serial", "str"),
      PropertyDescription("config-wce", "bool", default: .bool(true), "on/off"),
      PropertyDescription("scsi", "bool", default: .bool(false), "on/off"),
      PropertyDescription("request-merging", "bool", default: .bool(true), "on/off"),
      PropertyDescription("num-queues", "uint16", default: .unsigned(65535)),
      PropertyDescription("queue-size", "uint16", default: .unsigned(256)),
      PropertyDescription("seg-max-adjust", "bool", default: .bool(true)),
      PropertyDescription("discard", "bool", default: .bool(true), "on/off"),
      PropertyDescription("report-discard-granularity", "bool", default: .bool(true)),
      PropertyDescription("write-zeroes", "bool", default: .bool(true), "on/off"),
      PropertyDescription("max-discard-sectors", "uint32", default: .unsigned(4_194_303)),
      PropertyDescription("max-write-zeroes-sectors", "uint32", default: .unsigned(4_194_303)),
      PropertyDescription("iothread", "link<iothread>"),
    ], isUserCreatable: true)

  package let disk: Disk
  package let placement: PCIPlacement
  package let bootIndex: Int32?
  package let settings: VirtioPCI.Settings
  private let driveName: String
  private let transport = Mutex<VirtioPCI?>(nil)

  package init(
    _ placement: PCIPlacement, _ settings: VirtioPCI.Settings, _ disk: Disk, driveName: String,
    bootIndex: Int32?
  ) {
    self.placement = placement
    self.settings = settings
    self.disk = disk
    self.driveName = driveName
    self.bootIndex = bootIndex
  }

  package var properties: [(name: String, value: PropertyValue)] {
    placement.values + settings.values + [
      ("vectors", .unsigned(UInt64(settings.vectors))), ("drive", .string(driveName)),
      ("logical_block_size", .unsigned(UInt64(disk.settings.logicalBlockSize))),
      ("physical_block_size", .unsigned(UInt64(disk.settings.physicalBlockSize))),
      ("serial", .string(disk.settings.serial)),
      ("config-wce", .bool(disk.settings.canChangeCache)),
      ("num-queues", .unsigned(UInt64(disk.settings.queueCount))),
      ("queue-size", .unsigned(UInt64(disk.settings.queueSize))),
      ("discard", .bool(disk.settings.canDiscard)),
      ("write-zeroes", .bool(disk.settings.canWriteZeroes)),
    ]
  }

  package func realize(in context: MachineContext) throws(DeviceError) {
    let transport = VirtioPCI(disk, settings, in: context)
    disk.attach(to: transport)
    try transport.connect(at: placement, in: context)
    self.transport.withLock { $0 = transport }
  }

  package func reset(_ kind: ResetKind) { transport.withLock { $0 }?.resetAll() }

  package func unrealize(finished: @escaping @Sendable () -> Void) {
    guard let transport = transport.withLock({ $0 }) else { return finished() }
    transport.disconnectFromBus()
    // Requests in flight have time to end.
    WorkerPool.shared.submit {
      transport.resetAfterDisconnection()
      finished()
    }
  }
}
