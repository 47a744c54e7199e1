import DeviceModel
import Devices
import Host
import JSON
import Options
import PCI
import QAPI
import Virtio

// The user's functions on the board's PCI bus.

extension PCBoard {
  /// The types that `-device` can put on the bus.
  nonisolated static var pciTypes: [DeviceType] {
    [UHCI.type, VirtioBalloonPCI.type, VirtioRandomPCI.type]
  }

  /// Makes the function that the properties describe; nil for a type that is not on this bus. Throws with QEMU's sentences.
  func makeFunction(
    _ properties: DeviceProperties, id: String?
  ) throws(DeviceError) -> (any Device)? {
    guard PCBoard.pciTypes.contains(where: { $0.name == properties.type.name }) else { return nil }
    let placement = try placement(properties)
    switch properties.type.name {
    case UHCI.type.name:
      for (name, only) in [("bandwidth", UInt64(1280)), ("maxframes", 128)] {
        guard try properties.number(name, default: only) == only else {
          throw DeviceError(
            .badValue, "'\(name)' is \(only) and cannot be changed: nothing can be plugged in")
        }
      }
      return UHCI(placement)
    case VirtioBalloonPCI.type.name:
      if devices.contains(where: { $0.device is VirtioBalloonPCI }) {
        throw DeviceError(.busy, "Only one balloon device is supported")
      }
      var options = Balloon.Settings()
      options.deflateOnOutOfMemory = try properties.flag("deflate-on-oom", default: false)
      options.freePageReporting = try properties.flag("free-page-reporting", default: false)
      return VirtioBalloonPCI(
        placement, try virtio(properties, vectors: 0), options, ramSize: map.ramSize)
    default:
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
        placement, try virtio(properties, vectors: 2), quota,
        source: try randomSource(properties.text("rng")))
    }
  }

  /// Which interfaces and rings a virtio function has.
  private func virtio(
    _ properties: DeviceProperties, vectors standard: Int
  ) throws(DeviceError) -> VirtioPCI.Settings {
    var settings = VirtioPCI.Settings()
    let legacy = properties.text("disable-legacy") ?? "auto"
    guard ["on", "off", "auto"].contains(legacy) else {
      throw DeviceError(
        .badValue, "Parameter 'disable-legacy' does not accept value '\(legacy)'")
    }
    settings.hasLegacy = legacy != "on"
    settings.hasModern = try !properties.flag("disable-modern", default: false)
    guard settings.hasLegacy || settings.hasModern else {
      throw DeviceError(
        .badValue,
        "device cannot work as neither modern nor legacy mode is enabled\n"
          + "Set either disable-modern or disable-legacy to off")
    }
    settings.eventIndex = try properties.flag("event_idx", default: true)
    settings.indirectDescriptors = try properties.flag("indirect_desc", default: true)
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
  private func randomSource(_ id: String?) throws(DeviceError) -> any RandomSource {
    if let id {
      guard let source = objects[id] as? any RandomSource else {
        throw DeviceError(.badValue, "Device '\(id)' not found")
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
  private func placement(_ properties: DeviceProperties) throws(DeviceError) -> PCIPlacement {
    let name = properties.type.name
    let isMultifunction = try properties.flag("multifunction", default: false)
    guard let address = try address(properties) else {
      guard let free = pci.freeDevice() else {
        throw DeviceError(
          .busy, "PCI: no slot/function available for \(name), all in use or reserved")
      }
      return PCIPlacement(bus: pci, address: free, isMultifunction: isMultifunction)
    }
    if let other = pci.function(at: address) {
      let user = devices.first {
        $0.device === other || ($0.device as? any PCIPlaced)?.placement.address == address
      }
      let type = user.map { Swift.type(of: $0.device).type.name } ?? "unknown"
      throw DeviceError(
        .busy,
        "PCI: slot \(address.device) function \(address.function) not available for \(name),"
          + " in use by \(type),id=\(user?.id ?? "(null)")")
    }
    // Software finds further functions only through a function 0 that announces them (PCI 3.0, 6.2.1).
    let first = pci.function(at: PCIAddress(device: address.device))
    if address.function != 0, let first,
      first.readConfiguration(PCIConfiguration.Register.headerType, width: 1) & 0x80 == 0
    {
      throw DeviceError(
        .busy,
        "PCI: single function device can't be populated in function"
          + " \(String(address.device, radix: 16)).\(address.function)")
    }
    return PCIPlacement(bus: pci, address: address, isMultifunction: isMultifunction)
  }

  /// `addr`: slot and function in hexadecimal with a dot between, the slot alone, or both in one number (JSON); nil for any.
  private func address(_ properties: DeviceProperties) throws(DeviceError) -> PCIAddress? {
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
