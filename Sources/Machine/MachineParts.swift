import Block
import Cluster
import DeviceModel
import Devices
import DistIRQ
import Host
import Options
import Shm
import Synchronization

/// What every board starts from: memory, address spaces, clock, interrupt fabric. Handed from the machine to its board.
@MainLoop
final class MachineParts {
  let configuration: LaunchConfiguration
  let context: MachineContext
  let clock: VirtualClock
  let fabric: InterruptFabric
  let a20 = A20Gate()
  let apicIDs: [APICID]
  /// Which vCPUs are near which part of RAM; nil when all are alike.
  let numa: NUMATopology?
  /// Guest RAM; nil for a machine without.
  let ram: RAMBlock?
  /// Where devices find their disks.
  let blocks: BlockGraph
  /// How they get them.
  let drives: DriveProperty

  init(
    _ configuration: LaunchConfiguration, apicIDs: [APICID], ram: RAMBlock?, blocks: BlockGraph,
    requests: RequestBox, numa: NUMATopology? = nil, seat: ClusterSeat? = nil
  ) {
    self.configuration = configuration
    self.blocks = blocks
    drives = DriveProperty(graph: blocks, events: BlockEvents())
    self.ram = ram
    self.apicIDs = apicIDs
    self.numa = numa
    clock = VirtualClock(wall: WallClock(configuration.rtc))
    let fabric = InterruptFabric(
      InterruptFabric.Configuration(apicIDs, seat: seat), clock: clock)
    self.fabric = fabric
    context = MachineContext(
      ports: AddressSpace(name: "I/O"), deviceMemory: AddressSpace(name: "memory"),
      memory: GuestMemory(), clock: clock,
      interrupt: { gsi in fabric.line(gsi) },
      signalMSI: { address, data in
        Trace.write(
          .messageSignalledInterrupt,
          "address \(Trace.hex(address)) data \(Trace.hex(UInt64(data)))")
        fabric.signalMSI(address: address, data: data)
      },
      request: { request in requests.send(request) })
  }
}

extension InterruptFabric.Configuration {
  /// The vCPUs of a machine, each where its seat says; without one, all here.
  init(_ apicIDs: [APICID], seat: ClusterSeat?) {
    guard let seat else {
      self.init(processors: apicIDs.map { InterruptFabric.Processor(apicID: $0) })
      return
    }
    let links = Dictionary(
      uniqueKeysWithValues: seat.others.map {
        ($0, LinkedInterrupts(seat.transport, to: $0, counters: seat.counters))
      })
    self.init(
      processors: apicIDs.enumerated().map { index, id in
        let node = index < seat.placement.count ? seat.placement[index] : seat.node
        return InterruptFabric.Processor(
          apicID: id, placement: links[node].map { .remote($0) } ?? .local)
      })
    controllers = links[.devices]
    routeChanged = { [weak seat] vcpu, route in seat?.tell(route, of: vcpu) }
  }
}

/// Carries the devices' requests to the machine, which is made after them.
final class RequestBox: Sendable {
  private let receiver = Mutex<RequestSink?>(nil)

  func connect(_ receiver: @escaping @Sendable (MachineRequest) -> Void) {
    self.receiver.withLock { $0 = RequestSink(receiver) }
  }

  func send(_ request: MachineRequest) {
    let receiver = receiver.withLock { $0 }
    receiver?.send(request)
  }
}

extension MachineRequest {
  /// Whether the guest must not execute another instruction before the machine has acted.
  var stopsTheGuest: Bool {
    switch self {
    case .reset, .shutdown, .suspend, .exit: true
    case .panicked(let crashLoaded): !crashLoaded
    case .rtcChanged, .balloonChanged, .trayMoved, .watchdogExpired: false
    }
  }
}

extension WallClock {
  /// What `-rtc` asks for.
  init(_ options: RTCConfiguration) {
    let source: Source =
      switch options.clock {
      case .host: .host
      case .rt: .monotonic
      case .vm: .virtual
      }
    let offset: Int64
    switch options.base {
    case .utc: offset = 0
    case .localTime: offset = HostClock.localOffsetInSeconds
    case .fixed(let start): offset = start &- HostClock.realtime / 1_000_000_000
    }
    self.init(source: source, offsetInSeconds: offset)
  }
}
