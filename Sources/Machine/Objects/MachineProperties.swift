import DeviceModel
import Devices
import Host
import JSON
import Options
import QAPI

// The properties of /machine, as qom-list and qom-get show them.

extension Machine {
  var machineProperties: [ObjectProperty] {
    let machine = configuration.machine
    let boot = configuration.boot
    let isPC = machine.type != "none"
    var list: [ObjectProperty] = [
      text("kernel", boot.kernel), text("dt-compatible", nil),
      .constant("boot", "BootConfiguration", bootOrder),
      .constant("memory", "MemorySizeConfiguration", memorySizes), text("initrd", boot.initrd),
      .link("confidential-guest-support", to: "confidential-guest-support", { nil }),
      flag("graphics", machine.graphics), flag("usb", machine.usb),
      text("firmware", boot.firmware ?? (isPC ? "bios-256k.bin" : nil)),
      text("memory-encryption", nil), .constant("smp", "SMPConfiguration", topology),
      flag("dump-guest-core", machine.dumpGuestCore), .constant("phandle-start", "int", 0),
      text("dumpdtb", nil),
      .link(
        "memory-backend", to: "memory-backend",
        { isPC ? "/objects/\(machine.memoryBackend ?? "pc.ram")" : nil }),
      text("dtb", nil), flag("mem-merge", machine.mergeMemory), text("append", boot.append),
      flag("suppress-vmdesc", false),
    ]
    if isPC { list += pcProperties(machine) }
    return list
  }

  private func pcProperties(_ machine: MachineConfiguration) -> [ObjectProperty] {
    func choice(_ name: String, _ state: ThreeStates) -> ObjectProperty {
      .constant(name, "OnOffAuto", .string(state.rawValue), set: fixed(name))
    }
    func padded(_ text: String, _ width: Int) -> JSONValue {
      .string(text + String(repeating: " ", count: max(0, width - text.utf8.count)))
    }
    return [
      choice("smm", .off), choice("acpi", machine.acpi), choice("pit", machine.pit),
      choice("pic", .auto),
      .constant("x-oem-table-id", "string", padded(machine.oemTableID ?? "BXPC", 8)),
      .constant("bus-lock-ratelimit", "uint64_t", 0), .constant("sgx-epc", "SgxEPC", []),
      .constant("x-oem-id", "string", padded(machine.oemID ?? "BOCHS", 6)),
      .constant("max-fw-size", "size", (machine.maximumFirmwareSize ?? 8 << 20).encoded),
      flag("default-bus-bypass-iommu", false), .constant("device-memory-region-size", "int", 0),
      flag("sata", false), choice("vmport", .off), flag("i8042", machine.i8042),
      flag("hpet", machine.hpet),
      .constant("smbios-entry-point-type", "str", .string(machine.smbiosEntryPoint ?? "32")),
      .constant(
        "max-ram-below-4g", "size", (machine.maximumRAMBelow4GiB ?? 0xE000_0000).encoded),
      flag("smbus", machine.smbus), flag("nvdimm", false), text("nvdimm-persistence", nil),
      .link("rtc_state", to: "isa-device", { [unowned self] in path(of: RTC.self) }),
      ObjectProperty(
        "rtc-time", "struct tm",
        get: { [unowned self] in
          devices.lazy.compactMap { $0.device as? RTC }.first?.calendar ?? .null
        }),
      .link("acpi-device", to: "hotplug-handler", { [unowned self] in path(of: PIIX4PM.self) }),
      flag("hmat", false), flag("cxl", false), .constant("cxl-fmw", "CXLFixedMemoryWindow", []),
      .constant("pcspk-audiodev", "str", ""),
    ]
  }

  /// Text that can be written, as in QEMU without effect on a machine that exists.
  private func text(_ name: String, _ value: String?) -> ObjectProperty {
    .value(
      name, "string",
      get: { [unowned self] in changedProperties[name]?.stringValue ?? value ?? "" },
      set: { [unowned self] in changedProperties[name] = .string($0) })
  }

  private func flag(_ name: String, _ value: Bool) -> ObjectProperty {
    .value(
      name, "bool", get: { value },
      set: { [unowned self] (wanted: Bool) throws(QAPIError) in
        if wanted != value { try fixed(name)(.bool(wanted)) }
      })
  }

  /// Refuses a change that would mean another machine.
  private func fixed(_ name: String) -> ObjectProperty.Setter {
    { [type = configuration.machine.type] _ throws(QAPIError) in
      throw QAPIError("Property '\(type)-machine.\(name)' can no longer be changed")
    }
  }

  private var bootOrder: JSONValue {
    let boot = configuration.bootOrder
    var object = JSONObject()
    let standard = configuration.machine.type == "none" ? "" : "cad"
    object["order"] = .string(boot.order ?? standard)
    if let once = boot.once { object["once"] = .string(once) }
    if let menu = boot.menu { object["menu"] = .bool(menu) }
    if let splash = boot.splash { object["splash"] = .string(splash) }
    if let time = boot.splashTime { object["splash-time"] = .int(Int64(time)) }
    if let time = boot.rebootTimeout { object["reboot-timeout"] = .int(Int64(time)) }
    if boot.strict { object["strict"] = .bool(true) }
    return .object(object)
  }

  private var memorySizes: JSONValue {
    let memory = configuration.memory
    var object = JSONObject()
    object["size"] =
      (configuration.machine.type == "none" && !memory.isSizeGiven
      ? 0 : memory.size).encoded
    if memory.maxSize != memory.size {
      object["max-size"] = memory.maxSize.encoded
      object["slots"] = memory.slots.encoded
    }
    return .object(object)
  }

  private var topology: JSONValue {
    let smp = configuration.smp
    return [
      "cpus": smp.cpus.encoded, "sockets": smp.sockets.encoded, "dies": smp.dies.encoded,
      "clusters": 1, "cores": smp.cores.encoded, "threads": smp.threads.encoded,
      "maxcpus": smp.maxCPUs.encoded,
    ]
  }
}
