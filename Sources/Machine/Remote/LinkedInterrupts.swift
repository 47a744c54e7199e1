import Cluster
import DistIRQ
import Host

/// The interrupts of another node: everything goes as a frame on that node's `ctl` stream. Whoever raises an interrupt may hold a lock that
/// a thread that serves a peer wants, so frames are posted.
final class LinkedInterrupts: RemoteDestination {
  private let transport: any FrameTransport
  private let node: NodeID
  private let counters: SeatCounters

  init(_ transport: any FrameTransport, to node: NodeID, counters: SeatCounters) {
    self.transport = transport
    self.node = node
    self.counters = counters
  }

  func deliver(_ message: InterruptMessage, to vcpus: VCPUSet) {
    guard let (header, body) = frame(message, vcpus) else { return }
    count(message) { transport.post(header, bytes: body, to: node) }
  }

  func deliverAndWait(_ message: InterruptMessage, to vcpus: VCPUSet) {
    guard let (header, body) = frame(message, vcpus) else { return }
    // A lost node has nobody to start, and the guest stands.
    count(message) { _ = try? transport.request(header, bytes: body, to: node) }
  }

  private func count(_ message: InterruptMessage, _ send: () -> Void) {
    let started = HostClock.monotonic
    send()
    counters.remoteInterrupts.add(to: Int(message.deliveryMode.rawValue))
    counters.interruptTime.add(UInt64(max(0, HostClock.monotonic &- started)), to: 0)
  }

  func waitForRoom() { transport.waitForRoom(to: node, .ctl) }

  private func frame(
    _ message: InterruptMessage, _ vcpus: VCPUSet
  ) -> (header: FrameHeader, body: [UInt8])? {
    guard let first = vcpus.first(from: 0) else { return nil }
    var rest = vcpus
    rest.remove(first)
    let isOne = rest.isEmpty
    let vcpu = isOne ? UInt16(truncatingIfNeeded: first) : InterruptFrames.several
    let header = FrameHeader(
      .interrupt, argument: InterruptFrames.argument(message, vcpu: vcpu))
    return (header, isOne ? [] : InterruptFrames.bytes(vcpus))
  }

  func pulseNMI() { transport.post(FrameHeader(.nmi), to: node) }

  func endOfInterrupt(vector: UInt8) {
    counters.endsOfInterrupt.add(to: 0)
    transport.post(FrameHeader(.endOfInterrupt, argument: UInt64(vector)), to: node)
  }

  func setLINT0(_ level: Bool) {
    transport.post(FrameHeader(.line, argument: level ? 1 : 0), to: node)
  }

  func acknowledgePIC() -> UInt8? {
    // A lost node answers nothing, and the guest stands.
    let reply = try? transport.request(FrameHeader(.picAcknowledge), body: IOVector(), to: node)
    guard let argument = reply?.argument, argument & 0x100 != 0 else { return nil }
    return UInt8(truncatingIfNeeded: argument)
  }
}
