// Options that QEMU has and Goliath does not have yet: refused by name, never ignored.

extension OptionTable {
  private static let floppies = "floppy drives are not supported yet"
  private static let cards = "the PC has no slot for SD cards or flash disks"
  private static let flash = "flash memory is not supported yet; firmware is loaded with -bios"
  private static let displays =
    "graphical output is not supported yet; use -nographic, or -display none with -serial"
  private static let sharedFolders = "shared folders are not supported yet"
  private static let saving =
    "saving and migrating a machine are not supported yet; it starts from -kernel or firmware"
  private static let sound = "sound is not supported yet; leave the option out"
  private static let usbDevices =
    "USB is not supported yet; keyboard and mouse are not needed with -nographic"
  private static let debugging =
    "the gdb stub is not supported yet; monitors offer x, info registers and -d"

  static let refusedOptions: [OptionDescriptor] =
    refuse(floppies, "fda", "fdb")
    + refuse(cards, "sd", "mtdblock")
    + refuse(flash, "pflash")
    + refuse("disks of iSCSI are not supported yet", "iscsi")
    + refuse("the workaround for installing Windows 2000 is not supported", "win2k-hack")
    + refuse(
      displays, "vnc", "spice", "full-screen", "portrait", "rotate")
    + refuse(sharedFolders, "virtfs", "fsdev")
    + refuse(saving, allowed: [], "incoming", "loadvm", "dump-vmstate")
    + refuse(sound, "audio", "audio-help")
    + refuse(usbDevices, "usbdevice")
    + refuse(debugging, allowed: ["none"], "gdb")
    + refuse(debugging, "s")
    + refuse("NUMA is not supported yet; guest RAM is one node", "numa")
    + refuse("guest RAM is always anonymous memory; size it with -m", "mem-path", "mem-prealloc")
    + refuse("TPM devices are not supported yet", "tpmdev")
    + refuse("SMBIOS tables cannot be changed yet; -uuid and -smp show in them", "smbios")
    + refuse("ACPI tables cannot be added yet; '-machine acpi=off' leaves them out", "acpitable")
    + refuse("option ROMs are not supported yet", "option-rom")
    + refuse(
      "device trees are for other architectures than x86", "dtb", "semihosting",
      "semihosting-config")
    + refuse("instruction counting is not supported yet", "icount", "seed")
    + refuse(
      "the process cannot change its user or root yet; start it as the user it shall run as",
      "runas", "chroot")
    + refuse("plugins are not supported", "plugin")
    + refuse("compatibility policies are not supported yet", "compat")
    + refuse(
      "Xen is not supported; accelerators are kvm and tcg", "xen-domid", "xen-attach",
      "xen-domid-restrict")
    + refuse("memory is always torn down before the process ends", "async-teardown")
    + refuse("the lock profiler is not supported", "enable-sync-profile")
    + refuse("settings of other architectures' firmware", "prom-env", "g", "old-param")
    + refuse("the device test protocol is not supported", "qtest", "qtest-log")

  private static func refuse(
    _ reason: String, allowed: [String] = [], _ names: String...
  ) -> [OptionDescriptor] {
    names.map { OptionDescriptor($0, in: .process, "", .refused(reason, allowed: allowed)) }
  }
}
