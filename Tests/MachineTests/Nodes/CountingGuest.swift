import Guests
import Machine
import QAPI

/// A flat guest whose vCPUs each count in a word of their own; boots are counted, too.
enum CountingGuest {
  /// A word for each vCPU: it is there.
  static let started = FlatGuest.words + 0x100
  static let boots = FlatGuest.words + 0x200
  /// A page for each vCPU, which begins with its count.
  static let progress = FlatGuest.words + 0x300

  static func make(_ count: Int) -> FlatGuest {
    FlatGuest(
      (0..<count).map { vcpu in
        { guest in
          if vcpu == 0 {
            guest.increment(boots)
            for other in 1..<count { guest.store(started + UInt32(other) * 4, 0) }
            guest.startOthers(count, started: started)
          } else {
            guest.store(started + UInt32(vcpu) * 4, 1)
          }
          let again = guest.a.freshLabel()
          guest.a.label(again)
          guest.increment(progress + UInt32(vcpu) * 0x1000)
          guest.a.emit(0xF3, 0x90)
          guest.a.jump(again)
        }
      })
  }

  /// The counts, by vCPU.
  static func counts(_ nodes: FlatNodes, _ count: Int) async -> [UInt32] {
    var values: [UInt32] = []
    for vcpu in 0..<count {
      values.append(await nodes.word(progress + UInt32(vcpu) * 0x1000))
    }
    return values
  }

  /// Waits until all vCPUs have gone on; false when one does not.
  static func goesOn(_ nodes: FlatNodes, _ count: Int) async -> Bool {
    let before = await counts(nodes, count)
    return await nodes.cluster.until(seconds: 300) {
      zip(await counts(nodes, count), before).allSatisfy { $0 != $1 }
    }
  }
}

extension FlatNodes {
  /// Whether all nodes say that the machine is in this state.
  func areAll(_ state: RunState) async -> Bool {
    for machine in await cluster.machines where await machine.state != state { return false }
    return true
  }

  /// Waits until they do; false when they do not.
  func become(_ state: RunState, seconds: Double = 30) async -> Bool {
    await cluster.until(seconds: seconds) { await areAll(state) }
  }
}
