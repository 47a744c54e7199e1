package import Net
import Shm
import Synchronization
import Host

/// A network card (virtio 1.1, 5.1): the side that the driver sees. Frames are `VirtioNetCard`'s business.
package final class VirtioNet: VirtioDevice {
  /// What the user may choose.
  package struct Settings: Equatable, Sendable {
    package var mac = MACAddress(0x5254_0012_3456)
    /// Feature bits that are on offer.
    package var features: UInt64 = 0
    package var pairs = 1
    package var receiveSize: UInt16 = 256
    package var sendSize: UInt16 = 256
    package var mtu: UInt16 = 0
    /// Megabits a second; negative for unknown.
    package var speed: Int32 = -1
    /// 0 half, 1 full, 0xFF unknown.
    package var duplex: UInt8 = 0xFF

    package init() {}
  }

  /// What others do when the driver changes something.
  struct Reactions: Sendable {
    var started: @Sendable () -> Void = {}
    var stopped: @Sendable () -> Void = {}
    var send: @Sendable (Int) -> Void = { _ in }
    var hasBuffers: @Sendable (Int) -> Void = { _ in }
    var changed: @Sendable (_ filter: Bool, _ setUp: Bool) -> Void = { _, _ in }
  }

  package let settings: Settings
  let state: Mutex<VirtioNetState>
  /// Held while elements are out of their queues, so that none is after a reset.
  let gate = Mutex(())
  private struct Parts: Sendable {
    weak var transport: VirtioPCI?
    var reactions = Reactions()
  }
  private let parts = Mutex(Parts())

  package init(_ settings: Settings) {
    self.settings = settings
    state = Mutex(VirtioNetState(mac: settings.mac))
  }

  func connect(_ transport: VirtioPCI, _ reactions: Reactions) {
    parts.withLock { parts in
      parts.transport = transport
      parts.reactions = reactions
    }
  }

  var transport: VirtioPCI? { parts.withLock { $0.transport } }
  private var reactions: Reactions { parts.withLock { $0.reactions } }

  /// The index of the control queue, which depends on what was negotiated (5.1.2).
  private var controlIndex: Int {
    state.withLock { $0.features & NetFeature.multiqueue != 0 ? 2 * settings.pairs : 2 }
  }

  // MARK: - VirtioDevice

  package var number: UInt16 { 1 }
  package var offeredFeatures: UInt64 { settings.features }

  package var queueSizes: [UInt16] {
    var sizes: [UInt16] = []
    for _ in 0..<settings.pairs { sizes += [settings.receiveSize, settings.sendSize] }
    return settings.features & NetFeature.controlQueue != 0 ? sizes + [64] : sizes
  }

  /// Address, status, queue pairs, MTU, speed, duplex (5.1.4); as long as the features need.
  package var configuration: [UInt8] {
    let (mac, isUp, announces) = state.withLock { ($0.mac, $0.isLinkUp, $0.wantsAnnouncement) }
    var bytes = mac.bytes
    func append(_ value: UInt32, _ count: UInt32) {
      for index in 0..<count { bytes.append(UInt8(truncatingIfNeeded: value >> (8 * index))) }
    }
    append((isUp ? 1 : 0) | (announces ? 2 : 0), 2)
    append(UInt32(settings.pairs), 2)
    append(UInt32(settings.mtu), 2)
    append(UInt32(bitPattern: settings.speed), 4)
    append(UInt32(settings.duplex), 1)
    let offered = settings.features
    if offered & NetFeature.speedDuplex != 0 { return bytes }
    if offered & NetFeature.mtu != 0 { return Array(bytes.prefix(12)) }
    if offered & NetFeature.multiqueue != 0 { return Array(bytes.prefix(10)) }
    return Array(bytes.prefix(offered & NetFeature.status != 0 ? 8 : 6))
  }

  package func writeConfiguration(_ offset: Int, _ bytes: [UInt8]) {
    // Old drivers set their address here.
    let isChanged = state.withLock { state in
      guard
        state.features & (NetFeature.controlMAC | VirtioFeature.version1) == 0, offset < 6
      else { return false }
      var mac = state.mac.bytes
      for (index, byte) in bytes.enumerated() where offset + index < 6 {
        mac[offset + index] = byte
      }
      state.mac = MACAddress(bytes: mac)
      return true
    }
    if isChanged { reactions.changed(true, true) }
  }

  package func start(_ features: UInt64) {
    state.withLock { state in
      state.features = features
      state.isStarted = true
      state.activePairs = 1
      state.guestOffloads = features & NetFeature.guestOffloads
      let all: UInt64 = features & NetFeature.controlVLAN != 0 ? 0 : UInt64.max
      state.vlans = [UInt64](repeating: all, count: 64)
    }
    reactions.started()
  }

  package func reset() {
    gate.withLock { _ in
      state.withLock { state in
        let isUp = state.isLinkUp
        state = VirtioNetState(mac: settings.mac)
        state.isLinkUp = isUp
      }
    }
    reactions.stopped()
  }

  package func notified(_ queue: Int) {
    if settings.features & NetFeature.controlQueue != 0, queue == controlIndex {
      return serveControl(queue)
    }
    guard queue < 2 * settings.pairs else { return }
    if queue & 1 != 0 { reactions.send(queue / 2) } else { reactions.hasBuffers(queue / 2) }
  }

  /// On the vCPU's thread: drivers wait for the answer in a loop.
  private func serveControl(_ queue: Int) {
    guard let transport else { return }
    while let element = transport.pop(queue) {
      guard let bytes = transport.memory.gather(element.readable, limit: 1 << 16),
        bytes.count >= 2, element.writableLength >= 1
      else {
        return transport.fail("virtio-net ctrl missing headers")
      }
      let result = state.withLock { $0.control(bytes, maximumPairs: settings.pairs) }
      guard transport.memory.scatter([result.isAccepted ? 0 : 1], to: element.writable) != nil
      else {
        return transport.fail("the answer to a control command has no place in memory")
      }
      transport.complete(queue, element, written: 1)
      if result.isAccepted {
        reactions.changed(
          result.filterChanged, result.offloadsChanged || result.queuesChanged || result.macChanged)
      }
    }
  }
}
