import CPU
import DeviceModel
import DistIRQ
import Support
import Synchronization
import Testing

/// Interrupts to and from other nodes.
@Suite struct InterruptFabricNodesTests {
  /// Another node: delivers into that node's fabric after passing the wire form.
  final class Wire: RemoteDestination {
    let peer = Mutex<InterruptFabric?>(nil)
    let frames = Atomic<Int>(0)
    let ends = Mutex<[UInt8]>([])

    func deliver(_ message: InterruptMessage, to vcpus: VCPUSet) {
      frames.add(1, ordering: .relaxed)
      let peer = peer.withLock { $0 }
      guard let copy = InterruptMessage(wireBytes: message.wireBytes) else { return }
      peer?.receive(copy, for: vcpus)
    }
    func pulseNMI() { peer.withLock { $0 }?.pulseLocalNMI() }
    func endOfInterrupt(vector: UInt8) {
      ends.withLock { $0.append(vector) }
      peer.withLock { $0 }?.endOfInterrupt(vector: vector)
    }
    func setLINT0(_ level: Bool) { peer.withLock { $0 }?.receiveLINT0(level) }
    func acknowledgePIC() -> UInt8? { peer.withLock { $0 }?.acknowledgePIC() }
  }

  /// Two nodes with two vCPUs each; node 0 has the controllers.
  static func pair() -> (node0: InterruptFabric, node1: InterruptFabric, to1: Wire, to0: Wire) {
    let clock = FakeClock()
    let to1 = Wire()
    let to0 = Wire()
    func processors(_ local: ClosedRange<Int>, _ wire: Wire) -> [InterruptFabric.Processor] {
      (0..<4).map {
        .init(
          apicID: APICID(UInt32($0)), placement: local.contains($0) ? .local : .remote(wire))
      }
    }
    var first = InterruptFabric.Configuration(processors: processors(0...1, to1))
    first.routeChanged = { vcpu, route in
      to1.peer.withLock { $0 }?.setRoute(of: vcpu, route)
    }
    var second = InterruptFabric.Configuration(processors: processors(2...3, to0))
    second.controllers = to0
    second.routeChanged = { vcpu, route in
      to0.peer.withLock { $0 }?.setRoute(of: vcpu, route)
    }
    let node0 = InterruptFabric(first, clock: clock)
    let node1 = InterruptFabric(second, clock: clock)
    to1.peer.withLock { $0 = node1 }
    to0.peer.withLock { $0 = node0 }
    for (node, vcpu) in [(node0, 0), (node0, 1), (node1, 2), (node1, 3)]
      as [(InterruptFabric, UInt32)]
    {
      let unit = node.localAPIC(VCPUID(vcpu))
      unit?.write(offset: 0xF0, width: 4, 0x1FF)
      unit?.write(offset: 0xD0, width: 4, 1 << UInt64(24 + vcpu))
    }
    return (node0, node1, to1, to0)
  }

  @Test func interruptsCrossNodes() {
    let (node0, node1, to1, to0) = Self.pair()
    func has(_ vector: UInt8) -> [UInt32] {
      (0..<4).filter {
        let unit = node0.localAPIC(VCPUID($0)) ?? node1.localAPIC(VCPUID($0))
        return unit?.snapshot.irr.contains(vector) == true
      }
    }
    #expect(node0.localAPIC(VCPUID(2)) == nil)
    // IPI to one, to all others (one frame), logical.
    let sender = node0.localAPIC(VCPUID(0))
    sender?.write(offset: 0x310, width: 4, 0x0300_0000)
    sender?.write(offset: 0x300, width: 4, 0x41)
    #expect(has(0x41) == [3])
    let before = to1.frames.load(ordering: .relaxed)
    sender?.write(offset: 0x300, width: 4, 0xC_0042)
    #expect(has(0x42) == [1, 2, 3])
    #expect(to1.frames.load(ordering: .relaxed) == before + 1)
    node1.localAPIC(VCPUID(2))?.write(offset: 0x310, width: 4, 0x0600_0000)
    node1.localAPIC(VCPUID(2))?.write(offset: 0x300, width: 4, 0x0843)
    #expect(has(0x43) == [1, 2])
    // A level interrupt of node 0's IOAPIC served on node 1: the end goes back.
    let memory = AddressSpace(name: "memory")
    node0.map(ports: AddressSpace(name: "io"), deviceMemory: memory)
    for (register, value) in [(0x11 + 20, 0x0300_0000), (0x10 + 20, 0x80F0)] as [(UInt64, UInt64)] {
      memory.write(0xFEC0_0000, width: 4, register, vcpu: VCPUID(0))
      memory.write(0xFEC0_0010, width: 4, value, vcpu: VCPUID(0))
    }
    node0.line(GSI(10)).raise()
    let server = node1.localAPIC(VCPUID(3))
    #expect(server?.acknowledge() == 0xF0)
    server?.write(offset: 0xB0, width: 4, 0)
    #expect(to0.ends.withLock { $0 } == [0xF0])
    #expect(server?.pending.vector == 0xF0, "the line is still up")
    // Lowest priority prefers the sender's node.
    node0.send(
      InterruptMessage(
        destination: 0xF, destinationMode: .logical, deliveryMode: .lowestPriority, vector: 0x44))
    #expect(has(0x44).allSatisfy { $0 < 2 })
    node0.send(
      InterruptMessage(
        destination: 0xC, destinationMode: .logical, deliveryMode: .lowestPriority, vector: 0x45))
    #expect(has(0x45).count == 1)
    // INIT and start-up over the wire.
    sender?.write(offset: 0x300, width: 4, 0x4500)
    sender?.write(offset: 0x300, width: 4, 0x0612)
    #expect(server?.takeEvents().events == [.initialize, .startUp])
    // NMI wire.
    server?.write(offset: 0xF0, width: 4, 0x1FF)
    server?.write(offset: 0x360, width: 4, 0x400)
    node0.pulseNMI()
    #expect(server?.pending.events == .nmi)
  }
}
