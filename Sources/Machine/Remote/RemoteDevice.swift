import Cluster
import DeviceModel
import Host
import Synchronization

/// All ports, or all device memory, of a node without devices: every access is asked of node 0, and waits for the answer (an x86 port
/// write is not posted, and a flag stored after it must not be seen before its effect), but writes to doorbells, which are posted: node 0
/// sees them before whatever this vCPU asks of it afterwards. Called on vCPU threads.
final class RemoteDevice: BusDevice {
  enum Space { case ports, memory }

  private let seat: ClusterSeat
  private let space: Space
  /// For each vCPU of the machine, the memory that its writes' values travel in: a vCPU makes one access at a time.
  private let values: [(buffer: IOBuffer, vector: IOVector)]

  init(_ seat: ClusterSeat, _ space: Space) {
    self.seat = seat
    self.space = space
    values = (0..<(space == .memory ? seat.placement.count : 0)).map { _ in
      let buffer = IOBuffer(count: 8)
      return (buffer, buffer.vector)
    }
  }

  /// Puts both into the address spaces of a node that has nothing else there, and answers them.
  static func map(
    _ seat: ClusterSeat, in context: MachineContext
  ) -> (ports: RemoteDevice, memory: RemoteDevice) {
    let (ports, memory) = (RemoteDevice(seat, .ports), RemoteDevice(seat, .memory))
    context.ports.add(
      BusRegion(name: "node 0", start: 0, size: 0x1_0000, device: ports, maximumWidth: 4))
    context.deviceMemory.add(
      BusRegion(name: "node 0", start: 0, size: 1 << 52, device: memory, maximumWidth: 8))
    return (ports, memory)
  }

  private let doorbellList = Mutex<[Range<UInt64>]>([])

  /// Where writes to memory need no answer, in order. Any thread.
  var doorbells: [Range<UInt64>] {
    get { doorbellList.withLock { $0 } }
    set { doorbellList.withLock { $0 = newValue } }
  }

  private func isDoorbell(_ access: BusAccess) -> Bool {
    doorbellList.withLock { list in
      list.contains {
        $0.contains(access.offset) && access.offset &+ UInt64(access.width) <= $0.upperBound
      }
    }
  }

  func read(_ access: BusAccess) -> UInt64 {
    let header =
      switch space {
      case .ports:
        FrameHeader(
          .portRead,
          argument: DeviceFrames.port(
            UInt16(truncatingIfNeeded: access.offset), width: access.width, vcpu: access.vcpu))
      case .memory:
        FrameHeader(
          .memoryRead,
          argument: DeviceFrames.memory(access.offset, width: access.width, vcpu: access.vcpu))
      }
    return ask(header, IOVector(), space == .ports ? .portRead : .memoryRead) ?? UInt64.max
  }

  func write(_ access: BusAccess, _ value: UInt64) {
    switch space {
    case .ports:
      let argument = DeviceFrames.port(
        UInt16(truncatingIfNeeded: access.offset), width: access.width, vcpu: access.vcpu,
        value: UInt32(truncatingIfNeeded: value))
      _ = ask(FrameHeader(.portWrite, argument: argument), IOVector(), .portWrite)
    case .memory:
      let index = Int(access.vcpu.rawValue)
      guard index < values.count else { return }
      // Little endian.
      values[index].buffer.storeBigEndian(value.byteSwapped, at: 0)
      let argument = DeviceFrames.memory(access.offset, width: access.width, vcpu: access.vcpu)
      if isDoorbell(access) {
        seat.transport.send(
          FrameHeader(.doorbell, argument: argument), body: values[index].vector, to: .devices)
        return
      }
      _ = ask(FrameHeader(.memoryWrite, argument: argument), values[index].vector, .memoryWrite)
    }
  }

  /// Reads `count` elements from one port for a string instruction, in order, to the end of `values`. Answers how many: fewer when the
  /// vCPU must look at something else first, none never.
  func readString(
    _ port: UInt16, width: Int, count: Int, vcpu: VCPUID, into values: inout [UInt32]
  ) -> Int {
    let wanted = min(count, DeviceFrames.longestString / width)
    let argument = DeviceFrames.port(
      port, width: width, vcpu: vcpu, value: UInt32(truncatingIfNeeded: wanted), isString: true)
    guard let reply = request(FrameHeader(.portRead, argument: argument), IOVector(), .portRead)
    else {
      values += Array(repeating: UInt32.max, count: wanted)
      return wanted
    }
    let done = Int(clamping: reply.argument)
    guard done > 0, done <= wanted, reply.body.count >= done * width else {
      seat.accessFailed(.refused("it answered \(done) of \(wanted) elements"))
      values += Array(repeating: UInt32.max, count: wanted)
      return wanted
    }
    for index in 0..<done {
      values.append(DeviceFrames.element(index, width: width, of: reply.body))
    }
    if reply.body.count > done * width { seat.hold(Array(reply.body[(done * width)...])) }
    return done
  }

  /// Writes the elements to one port for a string instruction, in order. Answers how many are done, as `readString` does.
  func writeString(_ port: UInt16, width: Int, _ values: [UInt32], vcpu: VCPUID) -> Int {
    let wanted = min(values.count, DeviceFrames.longestString / width)
    let argument = DeviceFrames.port(
      port, width: width, vcpu: vcpu, value: UInt32(truncatingIfNeeded: wanted), isString: true)
    var bytes: [UInt8] = []
    bytes.reserveCapacity(wanted * width)
    for value in values[..<wanted] {
      DeviceFrames.append(UInt64(value), width: width, to: &bytes)
    }
    let header = FrameHeader(.portWrite, argument: argument)
    guard let reply = request(header, IOBuffer(bytes).vector, .portWrite) else { return wanted }
    if !reply.body.isEmpty { seat.hold(reply.body) }
    return min(max(Int(clamping: reply.argument), 1), wanted)
  }

  private func ask(
    _ header: FrameHeader, _ body: IOVector, _ kind: SeatCounters.Access
  ) -> UInt64? {
    guard let reply = request(header, body, kind) else { return nil }
    if !reply.body.isEmpty { seat.hold(reply.body) }
    return reply.argument
  }

  /// Nil, and the guest goes no further, when node 0 does not answer.
  private func request(
    _ header: FrameHeader, _ body: IOVector, _ kind: SeatCounters.Access
  ) -> FrameReply? {
    // The main loop must not wait for another node; a monitor that looks at devices is served by node 0.
    if MainLoop.isCurrent { return nil }
    let started = HostClock.monotonic
    defer {
      seat.counters.accesses.add(to: kind.rawValue)
      seat.counters.accessTime.add(
        UInt64(max(0, HostClock.monotonic &- started)), to: kind.rawValue)
    }
    do throws(TransportError) {
      return try seat.transport.request(header, body: body, to: .devices)
    } catch {
      seat.accessFailed(error)
      return nil
    }
  }
}
