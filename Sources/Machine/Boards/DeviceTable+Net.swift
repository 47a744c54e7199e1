import DeviceModel
import Host
import Net
import Options
import Virtio

// Network cards.

extension DeviceTable {
  static let network: [DeviceRecipe] = [
    DeviceRecipe(VirtioNetPCI.type) { (assembly) throws(DeviceError) in
      try assembly.makeNetworkCard()
    }
  ]
}

/// Takes a card off the network when its device goes.
@MainLoop
private final class CardAttachment: DeviceAttachment {
  private let card: VirtioNetCard

  init(_ card: VirtioNetCard) { self.card = card }

  func detach() { card.detach() }
}

extension DeviceAssembly {
  fileprivate func makeNetworkCard() throws(DeviceError) -> any Device {
    let network = board.network
    var settings = VirtioNet.Settings()
    settings.receiveSize = try queueSize("rx_queue_size", largest: 1024, end: ".")
    settings.sendSize = try queueSize("tx_queue_size", largest: 1024, end: "")
    // More than that only a backend of another process's could use.
    settings.sendSize = min(settings.sendSize, 256)
    settings.mtu = UInt16(truncatingIfNeeded: try properties.number("host_mtu", default: 0))
    settings.speed = try speed()
    settings.duplex = try duplex()
    let netdev = properties.text("netdev")
    let isMultiqueue = try properties.flag("mq", default: false)
    settings.pairs = isMultiqueue ? netdev.map { network.queueCount($0) } ?? 1 : 1
    var switches: UInt64 = 0
    for entry in VirtioNetPCI.switches where try properties.flag(entry.name, default: true) {
      switches |= entry.bit
    }
    settings.features = VirtioNetPCI.features(
      switches: switches, multiqueue: isMultiqueue, mtu: settings.mtu, speed: settings.speed,
      duplex: settings.duplex)
    var address: MACAddress?
    if let text = properties.text("mac") {
      guard let value = MACAddress(text) else {
        throw DeviceError(
          .badValue, "Property 'virtio-net-device.mac' doesn't take value '\(text)'")
      }
      address = value == MACAddress(0) ? nil : value
    }
    let transport = try virtio(vectors: 2 * settings.pairs + 2)
    let bootIndex = try bootIndex()
    let placement = try placement()
    settings.mac = network.claimAddress(address)
    let model = properties.type.name
    let function = VirtioNetPCI(
      placement, transport, settings,
      name: id ?? "\(model).\(network.cards.count { $0.isAnonymous })", id: id, netdev: netdev,
      bootIndex: bootIndex, network: network)
    attachments.append(CardAttachment(function.card))
    network.register(function.card)
    let board = board
    function.card.path = { [weak board, weak function] in
      board?.devices.first { $0.device === function }?.path
    }
    if let netdev {
      do throws(NetError) {
        try network.connect(function.card, to: netdev, property: "virtio-net-device.netdev")
      } catch { throw DeviceError(.badValue, error.message) }
    }
    return function
  }

  private func queueSize(_ name: String, largest: UInt64, end: String) throws(DeviceError) -> UInt16
  {
    let size = try properties.number(name, default: 256)
    guard size >= 256, size <= largest, size & (size - 1) == 0 else {
      throw DeviceError(
        .badValue,
        "Invalid \(name) (= \(size)), must be a power of 2 between 256 and \(largest)\(end)")
    }
    return UInt16(size)
  }

  private func speed() throws(DeviceError) -> Int32 {
    guard let text = properties.text("speed") else { return -1 }
    guard let value = Int64(text) else {
      throw DeviceError(.badValue, "Parameter 'speed' expects int64")
    }
    guard value >= -1, value <= Int64(Int32.max) else {
      throw DeviceError(.badValue, "'speed' must be between 0 and INT_MAX")
    }
    return Int32(value)
  }

  private func duplex() throws(DeviceError) -> UInt8 {
    switch properties.text("duplex") {
    case nil: return 0xFF
    case "half": return 0
    case "full": return 1
    default: throw DeviceError(.badValue, "'duplex' must be 'half' or 'full'")
    }
  }
}

extension PCBoard {
  /// The cards of `-net nic` and `-nic`, before the devices of `-device`.
  func makeNetworkCards() throws(MachineError) {
    for nic in configuration.nics {
      let model = nic.model ?? NICConfiguration.usualModel
      guard let driver = NICConfiguration.models.first(where: { $0.name == model })?.driver else {
        throw MachineError("Unsupported NIC model: \(model)", origin: nic.origin)
      }
      var properties: [DeviceProperty] = []
      func set(_ name: String, _ value: String?) {
        if let value { properties.append(DeviceProperty(name: name, value: .text(value))) }
      }
      set("mac", nic.mac)
      set("addr", nic.address)
      set("vectors", nic.vectors.map(String.init))
      switch nic.target {
      case .netdev(let id): set("netdev", id)
      case .backend(let index): set("netdev", network.launchNames[index])
      case .hub(let number): set("netdev", network.addHubPort(number))
      }
      do throws(DeviceError) {
        try plug(
          DeviceConfiguration(driver: driver, id: nil, properties: properties, origin: nic.origin),
          isHotplugged: false)
      } catch { throw MachineError(error.message, origin: nic.origin) }
    }
  }
}
