import DeviceModel
import Devices
import Host
import Options

extension PCBoard {
  /// Fills fw_cfg: what the machine is, tables, kernel, the user's own items. Throws `DeviceError`.
  func publishConfiguration() throws(DeviceError) {
    var standard = StandardItems(
      memory: MemoryLayout(map), cpuCount: UInt16(clamping: parts.apicIDs.count),
      maximumAPICID: parts.apicIDs.map(\.rawValue).max() ?? 0)
    standard.uuid = configuration.uuid?.bytes
    standard.isGraphic = configuration.machine.graphics
    let order = configuration.bootOrder
    standard.boot.firstDevice = (order.once ?? order.order)?.utf8.first ?? standard.boot.firstDevice
    standard.boot.showsMenu = order.menu ?? false
    standard.boot.menuWaitMilliseconds = order.splashTime.map { UInt16(clamping: $0) }
    standard.boot.rebootTimeoutMilliseconds = order.rebootTimeout.map { Int32(clamping: $0) }
    try standard.install(
      into: fwCfg, bootOrder: boot.bootOrder + (order.strict ? ["HALT"] : []))

    rtc.setMemorySize(below4GiB: map.lowSize, above4GiB: map.highSize)
    rtc.setBootOrder(
      order.once ?? order.order ?? "cad",
      checksFloppySignature: configuration.machine.floppyBootCheck)
    for item in boot.items { fwCfg.setItem(item.key, item.bytes) }
    for file in boot.files { try fwCfg.setFile(file.name, file.bytes, isWritable: file.isWritable) }
    for item in configuration.firmwareItems {
      try fwCfg.setFile(item.name, try contents(of: item))
    }
  }

  private func contents(of item: FirmwareItem) throws(DeviceError) -> [UInt8] {
    switch item.contents {
    case .text(let text): return Array(text.utf8)
    case .file(let path):
      do {
        return try FileDescriptor.contents(of: path)
      } catch {
        throw DeviceError(
          .unavailable, "\(item.origin.text): can't load \(path): \(error.reason)")
      }
    }
  }
}
