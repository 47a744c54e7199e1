package import QAPI

/// A network backend to make, of `-netdev`, `-nic` or `-net`.
package struct NetdevConfiguration: Sendable, Equatable {
  package var netdev: Netdev
  /// The hub that it is connected to; nil for none.
  package var hub: Int?
  /// Without an `id=`: a name is made up, which is also what `netdev.id` has to become.
  package var isAnonymous = false
  package var origin: OptionOrigin
}

/// A network card of the board's, of `-nic` or `-net nic`.
package struct NICConfiguration: Sendable, Equatable {
  /// What the card is connected to.
  package enum Target: Sendable, Equatable {
    case hub(Int)
    case netdev(String)
    /// A backend that the same option makes: its index in `LaunchConfiguration.netdevs`.
    case backend(Int)
  }
  /// Type of card; nil: the board's usual one.
  package var model: String?
  /// Six bytes with colons between.
  package var mac: String?
  package var target: Target
  package var vectors: UInt32?
  /// Address on the PCI bus.
  package var address: String?
  package var origin: OptionOrigin

  /// Names of card types, and the type of device that each means.
  package static let models: [(name: String, driver: String)] = [
    ("virtio", "virtio-net-pci"), ("virtio-net-pci", "virtio-net-pci"),
  ]
  /// The PC's usual card, which QEMU has and we have not.
  package static let usualModel = "e1000"
}
