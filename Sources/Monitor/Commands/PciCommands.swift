import Devices
import Host
import Machine
package import QAPI
import PCI

// schemas/pci.json

extension MonitorCommands: @MainLoop PciCommands {
  package func queryPci() throws(QAPIError) -> [PciInfo] {
    guard let functions = try context.machine.pciFunctions else { return [] }
    return [PciInfo(bus: 0, devices: functions.map(Self.info))]
  }

  private static func info(_ function: PCIFunctionInfo) -> PciDeviceInfo {
    let configuration = function.configuration
    func word(_ offset: Int) -> Int {
      Int(configuration[offset]) | Int(configuration[offset + 1]) << 8
    }
    let pin = Int(configuration[PCIConfiguration.Register.interruptPin])
    let classCode = word(0x0A)
    return PciDeviceInfo(
      bus: 0, slot: Int(function.address.device), function: Int(function.address.function),
      classInfo: PciDeviceClass(desc: PCIClass.description(classCode), class: classCode),
      id: PciDeviceId(
        device: word(2), vendor: word(0), subsystem: word(0x2E), subsystemVendor: word(0x2C)),
      irq: pin == 0 ? nil : Int(configuration[PCIConfiguration.Register.interruptLine]),
      irqPin: pin, qdevId: function.id ?? "",
      regions: function.regions.map { region in
        let isMemory = region.layout.kind != .io
        return PciMemoryRegion(
          bar: region.layout.index, type: isMemory ? "memory" : "io",
          address: region.address.map { Int(truncatingIfNeeded: $0) } ?? -1,
          size: Int(clamping: region.layout.size),
          prefetch: isMemory ? region.layout.isPrefetchable : nil,
          memType64: isMemory ? region.layout.kind == .memory64 : nil)
      })
  }
}

/// What PCI class codes stand for (PCI Code and ID Assignment Specification), in QEMU's words.
enum PCIClass {
  /// Words for a base class and subclass; nil when it is none of the usual ones.
  static func description(_ code: Int) -> String? {
    switch code {
    case 0x0100: "SCSI controller"
    case 0x0101: "IDE controller"
    case 0x0106: "SATA controller"
    case 0x0108: "NVMe controller"
    case 0x0180: "Storage controller"
    case 0x0200: "Ethernet controller"
    case 0x0280: "Network controller"
    case 0x0300: "VGA controller"
    case 0x0380: "Display controller"
    case 0x0401, 0x0403: "Audio controller"
    case 0x0600: "Host bridge"
    case 0x0601: "ISA bridge"
    case 0x0604: "PCI bridge"
    case 0x0680: "Bridge"
    case 0x0780: "Communication controller"
    case 0x0C03: "USB controller"
    case 0x0C05: "SMBus"
    default: nil
    }
  }
}
