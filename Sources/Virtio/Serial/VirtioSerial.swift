package import DeviceModel
package import Host
import Shm
import Synchronization

/// The console device (virtio 1.1, 5.3), `virtio-serial`: up to 511 ports, which come and go, over one control queue pair.
///
/// Notifications are only noted on the vCPU's thread; all work is done on the main loop, where the character devices are, a bounded
/// part in each turn.
package final class VirtioSerial: VirtioDevice {
  /// Event numbers of control messages (5.3.6.2).
  private enum Control {
    static let deviceReady: UInt16 = 0
    static let portAdd: UInt16 = 1
    static let portRemove: UInt16 = 2
    static let portReady: UInt16 = 3
    static let consolePort: UInt16 = 4
    static let portOpen: UInt16 = 6
    static let portName: UInt16 = 7
  }
  private enum Feature {
    static let multiport: UInt64 = 1 << 1
    static let emergencyWrite: UInt64 = 1 << 2
  }
  private static let controlIn = 2
  private static let controlOut = 3
  /// The most ports of a device: two queues each, and the control queues, among 1024.
  package static let mostPorts = 511
  /// Bytes that one turn moves before others have theirs.
  private static let turnLimit = 256 << 10
  /// Control messages that wait for the guest's buffers; more are not needed by a guest that keeps up.
  private static let messageLimit = 4096

  private struct Notes {
    var queues = Set<Int>()
    var isScheduled = false
  }
  private let notes = Mutex(Notes())
  private struct Parts {
    weak var transport: VirtioPCI?
  }
  private let parts = Mutex(Parts())
  private let features = Atomic<UInt64>(0)
  /// Counts resets; what was noted before one is forgotten.
  private let epoch = Atomic<Int>(0)

  package let maximumPorts: Int
  private let takesEmergencyWrites: Bool

  @MainLoop private(set) var ports: [Int: VirtioSerialPort] = [:]
  @MainLoop private var messages: [[UInt8]] = []
  @MainLoop private var isGuestReady = false
  /// Kept for its room.
  @MainLoop private var element = VirtQueueElement()

  /// `maximumPorts` 1 to `mostPorts`.
  package init(maximumPorts: Int, takesEmergencyWrites: Bool) {
    self.maximumPorts = min(max(maximumPorts, 1), VirtioSerial.mostPorts)
    self.takesEmergencyWrites = takesEmergencyWrites
  }

  package func attach(to transport: VirtioPCI) { parts.withLock { $0.transport = transport } }

  private var transport: VirtioPCI? { parts.withLock { $0.transport } }

  // MARK: - Ports

  /// Adds a port; the guest hears of it. `number` nil is the first free one, which for a console is 0. Throws with QEMU's sentences.
  @MainLoop
  package func add(_ port: VirtioSerialPort, number: UInt32?) throws(DeviceError) {
    if let number, ports[Int(number)] != nil {
      throw DeviceError(.busy, "virtio-serial-bus: A port already exists at id \(number)")
    }
    let index: Int
    if let number {
      index = Int(number)
    } else if port.isConsole, ports[0] == nil {
      index = 0
    } else if let free = (1..<(maximumPorts + 31) / 32 * 32).first(where: { ports[$0] == nil }) {
      index = free
    } else {
      throw DeviceError(
        .busy, "virtio-serial-bus: Maximum port limit for this device reached")
    }
    guard index < maximumPorts else {
      throw DeviceError(
        .badValue,
        "virtio-serial-bus: Out-of-range port id specified, max. allowed: \(maximumPorts - 1)")
    }
    // Drivers from before there were several ports know port 0 as the console.
    guard index != 0 || port.isConsole else {
      throw DeviceError(
        .badValue,
        "Port number 0 on virtio-serial devices reserved for virtconsole devices for backward"
          + " compatibility.")
    }
    ports[index] = port
    port.connect(to: self, number: index)
    if isGuestReady { send(Control.portAdd, index, 1) }
    if !isMultiport, index == 0, transport?.isDriverReady == true { port.guestOpened(true) }
  }

  /// Takes a port away; the guest hears of it.
  @MainLoop
  package func remove(_ port: VirtioSerialPort) {
    guard let number = port.number, ports[number] === port else { return }
    ports[number] = nil
    port.disconnect()
    discardOutput(of: number)
    if isGuestReady { send(Control.portRemove, number, 1) }
  }

  /// Whether no port has that number.
  @MainLoop
  package func isFree(_ number: UInt32) -> Bool { ports[Int(number)] == nil }

  private var isMultiport: Bool {
    features.load(ordering: .acquiring) & Feature.multiport != 0
  }

  /// The queue from which the guest reads what comes in on a port.
  private static func inputQueue(of port: Int) -> Int { port == 0 ? 0 : port * 2 + 2 }
  /// The port of a data queue.
  private static func port(of queue: Int) -> Int { queue < 2 ? 0 : queue / 2 - 1 }

  // MARK: - VirtioDevice

  package var number: UInt16 { 3 }

  package var offeredFeatures: UInt64 {
    (maximumPorts > 1 ? Feature.multiport : 0)
      | (takesEmergencyWrites ? Feature.emergencyWrite : 0)
  }

  package var queueSizes: [UInt16] {
    [128, 128, 32, 32] + [UInt16](repeating: 128, count: (maximumPorts - 1) * 2)
  }

  /// Columns, rows (of no terminal), ports, and the place of emergency writes.
  package var configuration: [UInt8] {
    [0, 0, 0, 0]
      + (0..<4).map { UInt8(truncatingIfNeeded: maximumPorts >> ($0 * 8)) }
      + (takesEmergencyWrites ? [0, 0, 0, 0] : [])
  }

  /// A byte for the console that needs no queue (5.3.4).
  package func writeConfiguration(_ offset: Int, _ bytes: [UInt8]) {
    guard takesEmergencyWrites, offset <= 8, offset + bytes.count > 8 else { return }
    let byte = bytes[8 - offset]
    MainLoop.post { [weak self] in
      let consoles = self?.ports.values.filter(\.isConsole) ?? []
      let first = consoles.min { ($0.number ?? 0) < ($1.number ?? 0) }
      if let first { _ = first.transmit([byte]) }
    }
  }

  package func start(_ features: UInt64) {
    self.features.store(features, ordering: .releasing)
    guard features & Feature.multiport == 0 else { return }
    // Without control messages the console is simply there.
    MainLoop.post { [weak self] in self?.ports[0]?.guestOpened(true) }
  }

  package func reset() {
    epoch.wrappingAdd(1, ordering: .acquiringAndReleasing)
    features.store(0, ordering: .releasing)
    notes.withLock { $0.queues = [] }
    if MainLoop.isCurrent {
      MainLoop.assumeIsolated { forgetGuest() }
    } else {
      MainLoop.post { [weak self] in self?.forgetGuest() }
    }
  }

  @MainLoop
  private func forgetGuest() {
    isGuestReady = false
    messages = []
    for port in ports.values { port.guestReset() }
  }

  package func notified(_ queue: Int) {
    let mustSchedule = notes.withLock { notes in
      notes.queues.insert(queue)
      if notes.isScheduled { return false }
      notes.isScheduled = true
      return true
    }
    if mustSchedule { MainLoop.post { [weak self] in self?.serve() } }
  }

  // MARK: - Turns of the main loop

  @MainLoop
  private func serve() {
    let queues = notes.withLock { notes in
      notes.isScheduled = false
      let queues = notes.queues
      notes.queues = []
      return queues
    }
    guard let transport else { return }
    for queue in queues.sorted() {
      switch queue {
      case VirtioSerial.controlIn: flushMessages()
      case VirtioSerial.controlOut: takeMessages(transport)
      case _ where queue & 1 == 0: ports[VirtioSerial.port(of: queue)]?.inputRoomChanged()
      default: takeOutput(VirtioSerial.port(of: queue), transport)
      }
    }
  }

  /// Moves what the guest wrote to a port, as far as its character device takes it.
  @MainLoop
  private func takeOutput(_ number: Int, _ transport: VirtioPCI) {
    let queue = VirtioSerial.inputQueue(of: number) + 1
    guard let port = ports[number], port.isHostOpen else { return discardOutput(of: number) }
    var moved = 0
    while !port.isThrottled {
      guard moved < VirtioSerial.turnLimit else { return notified(queue) }
      guard transport.pop(queue, into: &element) else { return }
      guard let bytes = transport.memory.gather(element.readable, limit: 1 << 20) else {
        return transport.fail("a serial port's output is not in memory")
      }
      moved += bytes.count
      port.transmitWhole(bytes)
      transport.complete(queue, element, written: 0)
    }
  }

  /// Nobody listens: what the guest wrote is lost.
  @MainLoop
  private func discardOutput(of number: Int) {
    guard let transport else { return }
    let queue = VirtioSerial.inputQueue(of: number) + 1
    while transport.pop(queue, into: &element) {
      transport.complete(queue, element, written: 0)
    }
  }

  /// A port's character device takes bytes again, or its other side has changed.
  @MainLoop
  func outputRoomChanged(_ number: Int) {
    if let transport { takeOutput(number, transport) }
  }

  /// Gives bytes to the guest; answers how many found room in its buffers.
  @MainLoop
  func deliver(_ bytes: [UInt8], to number: Int) -> Int {
    guard let transport else { return 0 }
    let queue = VirtioSerial.inputQueue(of: number)
    var done = 0
    while done < bytes.count, transport.pop(queue, into: &element) {
      let room = Int(clamping: element.writableLength)
      let piece = Array(bytes[done..<min(bytes.count, done + room)])
      guard let count = transport.memory.scatter(piece, to: element.writable) else {
        transport.fail("a serial port's buffer is not in memory")
        return done
      }
      transport.push(queue, element, written: UInt32(truncatingIfNeeded: count))
      done += count
    }
    if done > 0 { transport.notifyDriver(queue) }
    return done
  }

  // MARK: - Control messages (5.3.6.2)

  @MainLoop
  private func takeMessages(_ transport: VirtioPCI) {
    var count = 0
    while count < 1024, transport.pop(VirtioSerial.controlOut, into: &element) {
      count += 1
      guard let bytes = transport.memory.gather(element.readable, limit: 64) else {
        return transport.fail("a control message is not in memory")
      }
      transport.complete(VirtioSerial.controlOut, element, written: 0)
      if bytes.count >= 8 { handle(bytes) }
    }
    if count == 1024 { notified(VirtioSerial.controlOut) }
  }

  @MainLoop
  private func handle(_ bytes: [UInt8]) {
    let id = (0..<4).reduce(0) { $0 | Int(bytes[$1]) << ($1 * 8) }
    let event = UInt16(bytes[4]) | UInt16(bytes[5]) << 8
    let value = UInt16(bytes[6]) | UInt16(bytes[7]) << 8
    if event == Control.deviceReady {
      guard value != 0 else {
        return Log.write(.guestErrors, "virtio serial: the guest could not add the device")
      }
      isGuestReady = true
      for number in ports.keys.sorted() { send(Control.portAdd, number, 1) }
      return
    }
    guard let port = ports[id] else {
      return Log.write(.guestErrors, "virtio serial: control message for port \(id)")
    }
    switch event {
    case Control.portReady:
      guard value != 0 else {
        return Log.write(.guestErrors, "virtio serial: the guest could not add port \(id)")
      }
      if port.isConsole { send(Control.consolePort, id, 1) }
      if !port.name.isEmpty {
        send(Control.portName, id, 1, Array(port.name.utf8) + [0])
      }
      if port.isHostOpen { send(Control.portOpen, id, 1) }
    case Control.portOpen: port.guestOpened(value != 0)
    default: break
    }
  }

  /// Tells the guest whether somebody is at the other side of a port.
  @MainLoop
  func hostOpened(_ isOpen: Bool, _ number: Int) {
    if isGuestReady { send(Control.portOpen, number, isOpen ? 1 : 0) }
    outputRoomChanged(number)
  }

  @MainLoop
  private func send(_ event: UInt16, _ port: Int, _ value: UInt16, _ more: [UInt8] = []) {
    guard messages.count < VirtioSerial.messageLimit else { return }
    var message = (0..<4).map { UInt8(truncatingIfNeeded: port >> ($0 * 8)) }
    message += [UInt8(truncatingIfNeeded: event), UInt8(event >> 8)]
    message += [UInt8(truncatingIfNeeded: value), UInt8(value >> 8)]
    messages.append(message + more)
    flushMessages()
  }

  @MainLoop
  private func flushMessages() {
    guard let transport else { return }
    while let message = messages.first, transport.pop(VirtioSerial.controlIn, into: &element) {
      guard let count = transport.memory.scatter(message, to: element.writable) else {
        return transport.fail("a buffer for control messages is not in memory")
      }
      messages.removeFirst()
      transport.complete(
        VirtioSerial.controlIn, element, written: UInt32(truncatingIfNeeded: count))
    }
  }
}
