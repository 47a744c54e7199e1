package import Host
package import QAPI

/// What a network card is connected to on the host's side: one port for each queue.
@MainLoop
package protocol NetBackend: NetPortOwner {
  /// At least one.
  var ports: [NetPort] { get }
  /// Closes everything; nothing is sent any more.
  func close()
  /// Which large frames and partial checksums the card's driver takes now.
  func setOffloads(_ offloads: OffloadSet)
  /// How many queues the card's driver uses.
  func setActiveQueues(_ count: Int)
}

extension NetBackend {
  package func setOffloads(_ offloads: OffloadSet) {}
  package func setActiveQueues(_ count: Int) {}
  package func linkChanged(on port: NetPort) {}
}

/// A network card, as far as the network and monitors know it.
@MainLoop
package protocol NetCard: NetPortOwner {
  /// One for each pair of queues.
  var ports: [NetPort] { get }
  /// Without a name of the user's.
  var isAnonymous: Bool { get }
  /// The receive filter; nil for a card without.
  var filter: RxFilterInfo? { get }
  /// Makes the card known to the network again: sends (or has the guest send) an announcement.
  func announce()
}
