package import DeviceModel
package import Host
package import Net
package import PCI
import Synchronization

/// `virtio-net-pci`.
package final class VirtioNetPCI: VirtioFunction {
  /// Switches and the feature bit that each stands for, all on unless said otherwise.
  package static let switches: [(name: String, bit: UInt64)] = [
    ("csum", NetFeature.checksum), ("guest_csum", NetFeature.guestChecksum),
    ("gso", NetFeature.gso), ("guest_tso4", NetFeature.guestTSO4),
    ("guest_tso6", NetFeature.guestTSO6), ("guest_ecn", NetFeature.guestECN),
    ("guest_ufo", NetFeature.guestUFO), ("guest_announce", NetFeature.guestAnnounce),
    ("host_tso4", NetFeature.hostTSO4), ("host_tso6", NetFeature.hostTSO6),
    ("host_ecn", NetFeature.hostECN), ("host_ufo", NetFeature.hostUFO),
    ("mrg_rxbuf", NetFeature.mergeableBuffers), ("status", NetFeature.status),
    ("ctrl_vq", NetFeature.controlQueue), ("ctrl_rx", NetFeature.controlReceive),
    ("ctrl_vlan", NetFeature.controlVLAN), ("ctrl_rx_extra", NetFeature.controlReceiveExtra),
    ("ctrl_mac_addr", NetFeature.controlMAC),
    ("ctrl_guest_offloads", NetFeature.controlGuestOffloads),
  ]

  package static let type = DeviceType(
    name: "virtio-net-pci", parent: "virtio-net-pci-base", bus: "PCI",
    description: "",
    properties: PCIPlacement.properties + VirtioProperties.common
      + switches.map {
        PropertyDescription($0.name, "bool", default: .bool(true), "on/off")
      } + [
        PropertyDescription("mq", "bool", default: .bool(false), "on/off"),
        PropertyDescription(
          "mac", "str", "Ethernet 6-byte MAC Address, example: 52:54:00:12:34:56"),
        PropertyDescription("netdev", "str", "ID of a netdev to use as a backend"),
        PropertyDescription("bootindex", "int32"),
        PropertyDescription("vectors", "uint32", default: .unsigned(0xFFFF_FFFF)),
        PropertyDescription("ioeventfd", "bool", default: .bool(true), "on/off"),
        PropertyDescription("host_mtu", "uint16", default: .unsigned(0)),
        PropertyDescription("speed", "int32", default: .string("-1")),
        PropertyDescription("duplex", "str"),
        PropertyDescription("rx_queue_size", "uint16", default: .unsigned(256)),
        PropertyDescription("tx_queue_size", "uint16", default: .unsigned(256)),
        PropertyDescription("tx", "str"),
        PropertyDescription("x-txtimer", "uint32", default: .unsigned(150_000)),
        PropertyDescription("x-txburst", "int32", default: .unsigned(256)),
      ], isUserCreatable: true)

  package let placement: PCIPlacement
  package let card: VirtioNetCard
  package let bootIndex: Int32?
  private let device: VirtioNet
  private let netdev: String?
  package let settings: VirtioPCI.Settings
  private let transport = Mutex<VirtioPCI?>(nil)

  /// `name` is what monitors call the card; `id` the user's name for it.
  @MainLoop
  package init(
    _ placement: PCIPlacement, _ settings: VirtioPCI.Settings, _ net: VirtioNet.Settings,
    name: String, id: String?, netdev: String?, bootIndex: Int32?, network: Network
  ) {
    self.placement = placement
    var settings = settings
    settings.classCode = 0x02_0000
    self.settings = settings
    self.netdev = netdev
    self.bootIndex = bootIndex
    device = VirtioNet(net)
    card = VirtioNetCard(
      device, name: name, model: VirtioNetPCI.type.variant(settings.variant).name, id: id,
      in: network)
  }

  package var properties: [(name: String, value: PropertyValue)] {
    var values = placement.values + settings.values
    for entry in VirtioNetPCI.switches {
      values.append((entry.name, .bool(device.settings.features & entry.bit != 0)))
    }
    values.append(("mq", .bool(device.settings.features & NetFeature.multiqueue != 0)))
    values.append(("mac", .string(device.settings.mac.description)))
    values.append(("netdev", .string(netdev ?? "")))
    values.append(("vectors", .unsigned(UInt64(settings.vectors))))
    values.append(("host_mtu", .unsigned(UInt64(device.settings.mtu))))
    values.append(("rx_queue_size", .unsigned(UInt64(device.settings.receiveSize))))
    values.append(("tx_queue_size", .unsigned(UInt64(device.settings.sendSize))))
    return values
  }

  package func realize(in context: MachineContext) throws(DeviceError) {
    let transport = VirtioPCI(device, settings, in: context)
    try transport.connect(at: placement, in: context)
    MainLoop.assumeIsolated { card.attach(to: transport) }
    self.transport.withLock { $0 = transport }
  }

  package func reset(_ kind: ResetKind) { transport.withLock { $0 }?.resetAll() }

  package func unrealize(finished: @escaping @Sendable () -> Void) {
    transport.withLock { $0 }?.disconnect()
    finished()
  }

  /// The feature bits that come with an option of their own.
  package static func features(
    switches: UInt64, multiqueue: Bool, mtu: UInt16, speed: Int32, duplex: UInt8
  ) -> UInt64 {
    var features = switches | NetFeature.mac
    // What the control queue carries is not there without it.
    if features & NetFeature.controlQueue == 0 {
      features &=
        ~(NetFeature.controlReceive | NetFeature.controlVLAN | NetFeature.controlReceiveExtra
        | NetFeature.controlMAC | NetFeature.guestAnnounce | NetFeature.controlGuestOffloads)
    }
    if multiqueue { features |= NetFeature.multiqueue }
    if mtu > 0 { features |= NetFeature.mtu }
    if speed >= 0 || duplex != 0xFF { features |= NetFeature.speedDuplex }
    if features & NetFeature.checksum == 0 {
      features &=
        ~(NetFeature.hostTSO4 | NetFeature.hostTSO6 | NetFeature.hostECN | NetFeature.hostUFO
        | NetFeature.gso)
    }
    if features & NetFeature.guestChecksum == 0 { features &= ~NetFeature.guestOffloads }
    return features
  }
}
