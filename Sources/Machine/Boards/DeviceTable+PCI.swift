import DeviceModel
import Devices
import Host
import JSON
import Options
import PCI
import QAPI
import Virtio

// Functions on the board's PCI bus that a user makes.

extension DeviceTable {
  /// Functions on the PCI bus.
  static let pci: [DeviceRecipe] = [
    DeviceRecipe(UHCI.type) { (assembly) throws(DeviceError) in
      for (name, only) in [("bandwidth", UInt64(1280)), ("maxframes", 128)] {
        guard try assembly.properties.number(name, default: only) == only else {
          throw DeviceError(
            .badValue, "'\(name)' is \(only) and cannot be changed: nothing can be plugged in")
        }
      }
      return UHCI(try assembly.placement())
    },
    DeviceRecipe(VirtioBalloonPCI.type) { (assembly) throws(DeviceError) in
      if assembly.count({ $0 is VirtioBalloonPCI }) > 0 {
        throw DeviceError(.busy, "Only one balloon device is supported")
      }
      let properties = assembly.properties
      var options = Balloon.Settings()
      options.deflateOnOutOfMemory = try properties.flag("deflate-on-oom", default: false)
      options.freePageReporting = try properties.flag("free-page-reporting", default: false)
      return VirtioBalloonPCI(
        try assembly.placement(), try assembly.virtio(vectors: 0), options,
        ramSize: assembly.board.map.ramSize)
    },
    DeviceRecipe(VirtioRandomPCI.type) { (assembly) throws(DeviceError) in
      let properties = assembly.properties
      var quota = Entropy.Quota()
      quota.bytes = try properties.number("max-bytes", default: quota.bytes)
      let period = try properties.number("period", default: UInt64(quota.period))
      guard period > 0 else {
        throw DeviceError(.badValue, "'period' parameter expects a positive integer")
      }
      guard quota.bytes <= UInt64(Int64.max) else {
        throw DeviceError(
          .badValue, "'max-bytes' parameter must be non-negative, and less than 2^63")
      }
      quota.period = UInt32(truncatingIfNeeded: period)
      return VirtioRandomPCI(
        try assembly.placement(), try assembly.virtio(vectors: 2), quota,
        source: try assembly.randomSource(properties.text("rng")))
    },
  ]
}

extension DeviceAssembly {
  /// Which interfaces and rings a virtio function has; `vectors` is how many MSI-X vectors when the user does not say, 0 for a type
  /// without that property.
  func virtio(
    vectors standard: Int, classCode: UInt32? = nil
  ) throws(DeviceError) -> VirtioPCI.Settings {
    var settings = VirtioPCI.Settings()
    if let classCode { settings.classCode = classCode }
    let legacy = properties.text("disable-legacy") ?? "auto"
    guard ["on", "off", "auto"].contains(legacy) else {
      throw DeviceError(
        .badValue, "Parameter 'disable-legacy' does not accept value '\(legacy)'")
    }
    settings.variant = VirtioVariant(ofType: properties.type.name)
    settings.hasLegacy = settings.variant != .nonTransitional && legacy != "on"
    settings.hasModern = try !properties.flag("disable-modern", default: false)
    guard settings.hasLegacy || settings.hasModern else {
      throw DeviceError(
        .badValue,
        "device cannot work as neither modern nor legacy mode is enabled\n"
          + "Set either disable-modern or disable-legacy to off")
    }
    settings.eventIndex = try properties.flag("event_idx", default: true)
    settings.indirectDescriptors = try properties.flag("indirect_desc", default: true)
    settings.packedRings = try properties.flag("packed", default: false)
    settings.vectors = standard
    let unset: UInt64 = 0xFFFF_FFFF
    if standard > 0 {
      let vectors = try properties.number("vectors", default: unset)
      if vectors != unset {
        if vectors > UInt64(MSIX.maximumVectors) {
          Log.warning("unable to init msix vectors to \(vectors)")
        }
        settings.vectors = vectors > UInt64(MSIX.maximumVectors) ? 0 : Int(vectors)
      }
    }
    return settings
  }

  /// The source of that id, or one of the kernel's generator.
  fileprivate func randomSource(_ id: String?) throws(DeviceError) -> any RandomSource {
    if let id {
      guard let source = board.objects[id] as? any RandomSource else {
        throw DeviceError(.notFound, "Device '\(id)' not found")
      }
      return source
    }
    do throws(QAPIError) {
      return try BuiltinRandom(RngProperties())
    } catch {
      throw DeviceError(.unavailable, error.description)
    }
  }

  /// Where the user wants a function: `addr`, or the next free device. Throws when the place is taken or is none.
  func placement() throws(DeviceError) -> PCIPlacement {
    var placement = try place()
    placement.acpiIndex = try acpiIndex()
    placement.rom = try expansionROM()
    return placement
  }

  /// The number that the guest's system names the function by.
  private func acpiIndex() throws(DeviceError) -> UInt32 {
    let index = try properties.number("acpi-index", default: 0)
    guard index <= 16383 else {
      throw DeviceError(.badValue, "acpi-index should be less or equal to 16383")
    }
    let isTaken = board.devices.contains {
      index != 0 && ($0.device as? any PCIPlaced)?.placement.acpiIndex == UInt32(index)
    }
    if isTaken {
      throw DeviceError(.busy, "a PCI device with acpi-index = \(index) already exist")
    }
    return UInt32(index)
  }

  /// `romfile`, `romsize`, `rombar`: an image for firmware, at a register of the function or among firmware's files.
  private func expansionROM() throws(DeviceError) -> PCIPlacement.ROM {
    var rom = PCIPlacement.ROM()
    rom.size = UInt32(truncatingIfNeeded: try properties.number("romsize", default: 0xFFFF_FFFF))
    rom.hasRegister = try properties.number("rombar", default: 1) != 0
    if rom.size != .max, rom.size & (rom.size &- 1) != 0 {
      throw DeviceError(.badValue, "ROM size \(rom.size) is not a power of two")
    }
    guard let name = properties.text("romfile"), !name.isEmpty else { return rom }
    rom.file = name
    rom.isForAll = name == "efi-virtio.rom"
    let image: BootFile
    do throws(BootError) { image = try BootFile.expansionROM(name) } catch {
      throw DeviceError(.badValue, error.message)
    }
    if rom.size != .max, image.bytes.count > Int(rom.size) {
      throw DeviceError(
        .badValue,
        "romfile \"\(name)\" (\(image.bytes.count) bytes) is too large for ROM size \(rom.size)")
    }
    if rom.hasRegister {
      rom.device = PCIROM(image.bytes, size: rom.size == .max ? 0 : UInt64(rom.size))
      return rom
    }
    if isHotplugged {
      throw DeviceError(
        .badValue, "Hot-plugged device without ROM bar can't have an option ROM")
    }
    let file = name.split(separator: "/").last.map(String.init) ?? name
    try board.fwCfg.setFile("genroms/\(file)", image.bytes)
    return rom
  }

  private func place() throws(DeviceError) -> PCIPlacement {
    let name = properties.type.name
    let pci = board.pci
    let isMultifunction = try properties.flag("multifunction", default: false)
    guard let address = try address() else {
      // The video card's place is the last resort.
      let first: UInt8 = board.parts.configuration.keepsVideoSlot ? 3 : 2
      guard let free = pci.freeDevice(from: first) ?? pci.freeDevice() else {
        throw DeviceError(
          .busy, "PCI: no slot/function available for \(name), all in use or reserved")
      }
      return PCIPlacement(bus: pci, address: free, isMultifunction: isMultifunction)
    }
    if let other = pci.function(at: address) {
      let user = board.devices.first {
        $0.device === other || ($0.device as? any PCIPlaced)?.placement.address == address
      }
      let type = user.map { $0.device.typeInfo.name } ?? "unknown"
      throw DeviceError(
        .busy,
        "PCI: slot \(address.device) function \(address.function) not available for \(name),"
          + " in use by \(type),id=\(user?.id ?? "(null)")")
    }
    try check(address, isMultifunction: isMultifunction)
    return PCIPlacement(bus: pci, address: address, isMultifunction: isMultifunction)
  }

  /// Software finds further functions only through a function 0 that announces them (PCI 3.0, 6.2.1).
  private func check(_ address: PCIAddress, isMultifunction: Bool) throws(DeviceError) {
    let name = properties.type.name
    let device = String(address.device, radix: 16)
    func function(_ number: UInt8) -> (any PCIFunction)? {
      board.pci.function(at: PCIAddress(device: address.device, function: number))
    }
    if address.function != 0, let first = function(0) {
      guard first.readConfiguration(PCIConfiguration.Register.headerType, width: 1) & 0x80 != 0
      else {
        throw DeviceError(
          .busy,
          "PCI: single function device can't be populated in function \(device).\(address.function)"
        )
      }
      if isHotplugged {
        // The guest looks at a slot when its function 0 comes.
        let placed = board.devices.first {
          ($0.device as? any PCIPlaced)?.placement.address == PCIAddress(device: address.device)
        }
        let type = placed.map { $0.device.typeInfo.name } ?? "unknown"
        throw DeviceError(
          .busy,
          "PCI: slot \(address.device) function 0 already occupied by \(type), new func \(name)"
            + " cannot be exposed to guest.")
      }
    }
    guard address.function == 0, !isMultifunction else { return }
    for number in UInt8(1)..<8 where function(number) != nil {
      throw DeviceError(
        .busy,
        "PCI: \(device).0 indicates single function, but \(device).\(number) is already populated.")
    }
  }

  /// `addr`: slot and function in hexadecimal with a dot between, the slot alone, or both in one number (JSON); nil for any.
  private func address() throws(DeviceError) -> PCIAddress? {
    guard let value = properties.value("addr") else { return nil }
    switch value {
    case .json(.int(let number)):
      if number == -1 { return nil }
      guard (0..<256).contains(number) else {
        throw DeviceError(
          .badValue,
          "Property '\(properties.type.name).addr' doesn't take value \(number) (minimum: -1, maximum: 255)"
        )
      }
      return PCIAddress(devfn: UInt8(truncatingIfNeeded: number))
    case .text(let text), .json(.string(let text)):
      let parts = text.split(separator: ".", omittingEmptySubsequences: false)
      func hexadecimal(_ part: Substring) -> UInt8? {
        UInt8(part.hasPrefix("0x") ? part.dropFirst(2) : part, radix: 16)
      }
      guard (1...2).contains(parts.count), let device = hexadecimal(parts[0]), device < 32,
        let function = parts.count == 2 ? hexadecimal(parts[1]) : 0, function < 8
      else {
        throw DeviceError(
          .badValue, "Property '\(properties.type.name).addr' doesn't take value '\(text)'")
      }
      return PCIAddress(device: device, function: function)
    case .json:
      throw DeviceError(.badValue, "Invalid parameter type for 'addr', expected int or str")
    }
  }
}
