package import Devices
package import DeviceModel

/// The fw_cfg contents of a `pc` machine that do not come from the boot plan or the tables.
package struct StandardItems: Sendable {
  /// `-boot` in the terms that firmware reads.
  package struct BootOptions: Equatable, Sendable {
    /// The first letter of `order=`: `a` floppy, `c` disk, `d` CD-ROM, `n` network.
    package var firstDevice: UInt8 = 0x63
    package var showsMenu = false
    /// `splash-time=`, in milliseconds.
    package var menuWaitMilliseconds: UInt16?
    /// `reboot-timeout=`, in milliseconds; nil (or -1) to stop.
    package var rebootTimeoutMilliseconds: Int32?

    package init() {}
  }

  package var memory: MemoryLayout
  /// Of each vCPU, by index.
  package var apicIDs: [UInt32]
  package var numa: NUMATopology?
  package var uuid: [UInt8]?
  /// `-nographic`: firmware then uses the serial port as its console too.
  package var isGraphic = false
  package var boot = BootOptions()
  package var allowsS3 = true
  package var allowsS4 = true
  /// `SLP_TYP` of S4.
  package var s4Value: UInt8 = 2

  package init(memory: MemoryLayout, apicIDs: [UInt32]) {
    self.memory = memory
    self.apicIDs = apicIDs
  }

  private var cpuCount: UInt16 { UInt16(clamping: apicIDs.count) }
  private var maximumAPICID: UInt32 { apicIDs.max() ?? 0 }

  /// Puts everything in. Throws what `FwCfg.setFile` throws.
  package func install(into device: FwCfg) throws(DeviceError) {
    func little(_ value: UInt64, _ width: Int) -> [UInt8] {
      (0..<width).map { UInt8(truncatingIfNeeded: value >> UInt64($0 * 8)) }
    }
    device.setItem(FwCfgKey.uuid, uuid ?? [UInt8](repeating: 0, count: 16))
    device.setItem(FwCfgKey.ramSize, little(memory.ramSize, 8))
    device.setItem(FwCfgKey.noGraphic, [isGraphic ? 0 : 1, 0])
    device.setItem(FwCfgKey.cpuCount, little(UInt64(cpuCount), 2))
    // Despite its name: one more than the highest APIC identifier.
    device.setItem(
      FwCfgKey.maximumCPUs, little(UInt64(UInt16(clamping: UInt64(maximumAPICID) + 1)), 2))
    device.setItem(FwCfgKey.bootDevice, [boot.firstDevice, 0])
    device.setItem(FwCfgKey.bootMenu, [boot.showsMenu ? 1 : 0, 0])
    let topology = numa ?? NUMATopology(nodes: [])
    let words = topology.firmwareWords(apicIDs, maximumAPICID: maximumAPICID)
    device.setItem(FwCfgKey.numa, words.flatMap { little($0, 8) })
    device.setItem(FwCfgKey.irq0Override, [1, 0, 0, 0])

    try device.setFile("etc/e820", BootMemory.firmwareMap(memory))
    // Bit 7: the state exists; below: its SLP_TYP.
    let s3: UInt8 = 1 | (allowsS3 ? 0x80 : 0)
    let s4: UInt8 = (s4Value & 0x7F) | (allowsS4 ? 0x80 : 0)
    try device.setFile("etc/system-states", [128, 0, 0, s3, s4, 128])
    let fail = boot.rebootTimeoutMilliseconds ?? -1
    try device.setFile("etc/boot-fail-wait", little(UInt64(UInt32(bitPattern: fail)), 4))
    if let wait = boot.menuWaitMilliseconds {
      try device.setFile("etc/boot-menu-wait", little(UInt64(wait), 2))
    }
  }
}
