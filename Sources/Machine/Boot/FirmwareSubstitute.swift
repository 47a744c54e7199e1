package import Devices
package import PCI

/// What firmware does to the board's devices before it starts a kernel, for kernels that are entered directly.
package enum FirmwareSubstitute {
  /// Where the bus masters of IDE go.
  private static let masterBase: UInt64 = 0xC000

  /// Programs interrupt routes, the power management block and its interrupt line as the ACPI tables describe them, and makes RAM
  /// of 0xC0000 to 0xFFFFF. Call at every reset of a plan that `substitutesFirmware`, after the devices' reset and before memory is
  /// written.
  package static func configure(_ bus: PCIBus) {
    if let host = bus.function(at: I440FX.address) {
      host.writeConfiguration(0x59, width: 1, 0x30)
      for register in 0x5A...0x5F { host.writeConfiguration(register, width: 1, 0x33) }
    }
    if let bridge = bus.function(at: PIIX3.address) {
      // PIRQA and B to interrupt 10, C and D to 11.
      bridge.writeConfiguration(0x60, width: 4, 0x0B0B_0A0A)
    }
    if let ide = bus.function(at: PIIX3IDE.address) {
      // Both channels answer at their ports; the bus masters behind the power management block's ports.
      ide.writeConfiguration(0x40, width: 4, 0x8000_8000)
      ide.writeConfiguration(0x20, width: 4, UInt32(masterBase))
      ide.writeConfiguration(0x04, width: 2, 0x0005)
    }
    if let pm = bus.function(at: PIIX4PM.address) {
      pm.writeConfiguration(0x40, width: 4, FixedHardware.pmBase | 1)
      pm.writeConfiguration(0x80, width: 1, 1)
      pm.writeConfiguration(0x90, width: 4, (FixedHardware.pmBase + 0x100) | 1)
      pm.writeConfiguration(0xD2, width: 1, 0x09)
      pm.writeConfiguration(0x3C, width: 1, FixedHardware.interrupt)
    }
  }
}
