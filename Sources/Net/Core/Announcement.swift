import Host
import QAPI

/// A series of announcements (`announce-self`).
@MainLoop
final class Announcement {
  private let parameters: AnnounceParameters
  private unowned let network: Network
  private var left: Int
  private var timer: HostTimer?
  private let ended: @MainLoop () -> Void

  init(
    _ parameters: AnnounceParameters, _ network: Network, ended: @escaping @MainLoop () -> Void
  ) {
    self.parameters = parameters
    self.network = network
    self.ended = ended
    left = parameters.rounds
    timer = MainLoop.timers.makeTimer { [weak self] in
      MainLoop.assumeIsolated { self?.round() }
    }
    timer?.arm(at: HostClock.monotonic)
  }

  func cancel() {
    timer?.cancel()
    timer = nil
  }

  private func round() {
    guard left > 0 else { return ended() }
    let names = parameters.interfaces
    for card in network.cards {
      guard let name = card.ports.first?.name else { continue }
      if names == nil || names?.contains(name) == true { card.announce() }
    }
    left -= 1
    guard left > 0 else { return ended() }
    let done = parameters.rounds - left - 1
    let (grown, overflow) = parameters.step.multipliedReportingOverflow(by: done)
    let wait = overflow ? parameters.max : min(parameters.max, parameters.initial &+ grown)
    timer?.arm(at: HostClock.monotonic &+ Int64(clamping: max(0, wait)) &* 1_000_000)
  }
}

/// The frame by which a card makes itself known: a reverse ARP request for its own address (RFC 903), padded to Ethernet's least.
package enum Announcements {
  package static func frame(_ mac: MACAddress) -> Frame {
    let bytes: [UInt8] =
      MACAddress.broadcast.bytes + mac.bytes + [0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3] + mac.bytes
      + [0, 0, 0, 0] + mac.bytes + [0, 0, 0, 0] + [UInt8](repeating: 0, count: 18)
    return Frame(IOBuffer(bytes), 0..<bytes.count)
  }
}
