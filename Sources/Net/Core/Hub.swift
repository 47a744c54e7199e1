package import Host

/// A hub: what one port sends, all others get.
///
/// A port whose peer is slow has a queue of its own; the sender waits only when no port takes frames, and what does not fit into a slow
/// port's queue is lost for that port alone, as with a real hub.
@MainLoop
package final class Hub {
  package let number: Int
  private(set) var members: [Member] = []
  private var nextPort = 0

  /// One port, a backend by itself.
  @MainLoop
  package final class Member: NetBackend {
    private unowned let hub: Hub
    private var made: NetPort?

    fileprivate init(_ hub: Hub, _ name: String) {
      self.hub = hub
      made = nil
      let port = NetPort(name, kind: "hubport", details: "hubid=\(hub.number)", owner: self)
      port.accepts = .all
      made = port
    }

    package var port: NetPort {
      guard let made else { preconditionFailure("a hub's port is made in init") }
      return made
    }
    package var ports: [NetPort] { made.map { [$0] } ?? [] }
    package func close() { hub.remove(self) }
    package func receive(_ frame: Frame, on port: NetPort) -> Bool { hub.spread(frame, from: self) }
    package func resumeSending(on port: NetPort) { hub.resume() }
  }

  init(_ number: Int) { self.number = number }

  /// A new port; without a name it gets the hub's next.
  package func makePort(_ name: String?) -> Member {
    let member = Member(self, name ?? "hub\(number)port\(nextPort)")
    nextPort += 1
    members.append(member)
    return member
  }

  func owns(_ port: NetPort) -> Bool { members.contains { $0.port === port } }

  func removePort(_ port: NetPort) { members.removeAll { $0.port === port } }

  fileprivate func remove(_ member: Member) { members.removeAll { $0 === member } }

  fileprivate func spread(_ frame: Frame, from source: Member) -> Bool {
    var isTaken = members.count < 2
    for member in members where member !== source && !member.port.isWaiting { isTaken = true }
    guard isTaken else { return false }
    for member in members where member !== source && member.port.waitingSize < Hub.patience {
      member.port.send(frame)
    }
    return true
  }

  /// Bytes that may wait for one slow port.
  private static let patience = 1 << 20

  fileprivate func resume() {
    for member in members { member.port.becomesReady() }
  }
}
