import DeviceModel
import Devices
import Host
import Options

extension PCBoard {
  /// The drives that are tried when `-boot` does not say: hard disk, CD-ROM, network.
  private static let usualBootOrder = "cad"

  /// Fills fw_cfg: what the machine is, tables, kernel, the user's own items. Throws `DeviceError`.
  func publishConfiguration() throws(DeviceError) {
    let order = configuration.bootOrder
    var standard = StandardItems(
      memory: MemoryLayout(map), apicIDs: parts.apicIDs.map(\.rawValue))
    standard.numa = parts.numa
    standard.uuid = configuration.uuid?.bytes
    standard.isGraphic = configuration.machine.graphics
    standard.allowsS3 = !settings.disablesS3
    standard.allowsS4 = !settings.disablesS4
    standard.s4Value = settings.s4Value
    standard.boot.firstDevice = (order.once ?? order.order)?.utf8.first ?? standard.boot.firstDevice
    standard.boot.showsMenu = order.menu ?? false
    standard.boot.menuWaitMilliseconds = order.splashTime.map { UInt16(clamping: $0) }
    standard.boot.rebootTimeoutMilliseconds = order.rebootTimeout.map { Int32(clamping: $0) }
    try standard.install(into: fwCfg)
    if let splash = order.splash {
      do throws(BootError) {
        let file = try SplashScreen.file(splash, directories: configuration.boot.dataDirectories)
        try setFile(file)
      } catch {
        throw DeviceError(.unavailable, "-boot splash: \(error.message)")
      }
    }

    rtc.setMemorySize(below4GiB: map.lowSize, above4GiB: map.highSize)
    setBootOrder(order.once ?? order.order)
    for item in boot.items { fwCfg.setItem(item.key, item.bytes) }
    for file in boot.files { try fwCfg.setFile(file.name, file.bytes, isWritable: file.isWritable) }
    for item in configuration.firmwareItems {
      try fwCfg.setFile(item.name, try contents(of: item))
    }
  }

  /// What the firmware tries first from the next reset on; nil is the board's usual order.
  func setBootOrder(_ order: String?) {
    rtc.setBootOrder(
      order ?? PCBoard.usualBootOrder,
      checksFloppySignature: configuration.machine.floppyBootCheck)
  }

  func changeBootOrder(to order: String) -> Bool {
    setBootOrder(order)
    return true
  }

  private func setFile(_ file: BootPlan.ConfigurationFile) throws(BootError) {
    do throws(DeviceError) {
      try fwCfg.setFile(file.name, file.bytes)
    } catch {
      throw BootError(.tooLarge, error.message)
    }
  }

  private func contents(of item: FirmwareItem) throws(DeviceError) -> [UInt8] {
    switch item.contents {
    case .text(let text): return Array(text.utf8)
    case .file(let path):
      do {
        return try FileDescriptor.contents(of: path, limit: 1 << 30)
      } catch {
        throw DeviceError(
          .unavailable, "\(item.origin.text): can't load \(path): \(error.reason)")
      }
    }
  }
}
