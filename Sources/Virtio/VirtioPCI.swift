package import DeviceModel
import Host
package import PCI
package import Shm
import Synchronization

/// A virtio device on the PCI bus (virtio 1.1, 4.1): the modern interface in a memory BAR, and the legacy one in an I/O BAR for drivers
/// that know no other (a *transitional* device).
package final class VirtioPCI: VirtioTransport {
  /// Which interfaces there are, and how many MSI-X vectors.
  package struct Settings: Equatable, Sendable {
    package var variant = VirtioVariant.usual
    package var hasLegacy = true
    package var hasModern = true
    /// 0 leaves MSI-X out.
    package var vectors = 0
    package var eventIndex = true
    package var indirectDescriptors = true
    /// Offers packed rings to drivers of the modern interface.
    package var packedRings = false
    /// Base class, subclass, interface.
    package var classCode: UInt32 = 0x00_FF00

    package init() {}
  }

  /// Device status bits (2.1).
  enum Status {
    static let driverOK: UInt8 = 4
    static let featuresOK: UInt8 = 8
    static let needsReset: UInt8 = 64
  }
  /// BAR numbers, the same as QEMU's, which guests' configurations may name.
  private enum BAR {
    static let legacy = 0
    static let msix = 1
    static let modern = 4
  }
  static let noVector: UInt16 = 0xFFFF

  struct State {
    var status: UInt8 = 0
    var driverFeatures: UInt64 = 0
    var deviceFeatureSelect: UInt32 = 0
    var driverFeatureSelect: UInt32 = 0
    var queueSelect: UInt16 = 0
    var isr: UInt8 = 0
    var generation: UInt8 = 0
    var configurationVector = VirtioPCI.noVector
    var queueVectors: [UInt16] = []
    /// The rules were broken; nothing is processed until reset.
    var isBroken = false
  }

  /// A queue and the lock that its device threads share.
  private final class Slot: Sendable {
    let queue: Mutex<VirtQueue>
    init(_ size: UInt16) { queue = Mutex(VirtQueue(maximumSize: size)) }
  }

  let device: any VirtioDevice
  package let memory: GuestMemory
  let settings: Settings
  private let slots: [Slot]
  let state: Mutex<State>
  /// DRIVER_OK is set and nothing is broken: what `state` says, for those who ask often.
  private let live = Atomic<Bool>(false)
  let msix: MSIX?
  private let shell = Mutex<PCIEndpoint?>(nil)
  /// The port or memory behind each window of the modern interface.
  static let modernSize: UInt64 = 0x4000
  /// Offset of the capability for access through configuration space (4.1.4.8).
  private let accessCapability = Atomic<Int>(0)

  /// Makes the function; `connect` puts it on a bus.
  package init(_ device: any VirtioDevice, _ settings: Settings, in context: MachineContext) {
    self.device = device
    self.settings = settings
    memory = context.memory
    let sizes = device.queueSizes
    slots = sizes.map(Slot.init)
    var initial = State()
    initial.queueVectors = [UInt16](repeating: VirtioPCI.noVector, count: sizes.count)
    state = Mutex(initial)
    msix =
      settings.vectors > 0
      ? MSIX(vectors: settings.vectors, bar: BAR.msix, context: context) : nil
  }

  /// Plugs the function in.
  package func connect(
    at placement: PCIPlacement, in context: MachineContext
  ) throws(DeviceError) {
    var bars: [PCIBarLayout] = []
    var windows: [PCIEndpoint.Window] = []
    if settings.hasLegacy {
      let size = UInt64(24 + device.configuration.count)
      let layout = PCIBarLayout(index: BAR.legacy, kind: .io, size: size)
      bars.append(layout)
      windows.append(
        .init(layout, name: "virtio-pci", device: LegacyWindow(self), maximumWidth: 4))
    }
    if let msix {
      bars.append(msix.layout)
      windows.append(.init(msix.layout, name: "msix", device: msix, maximumWidth: 8))
    }
    if settings.hasModern {
      let layout = PCIBarLayout(
        index: BAR.modern, kind: .memory64, size: VirtioPCI.modernSize, isPrefetchable: true)
      bars.append(layout)
      windows.append(
        .init(
          layout, name: "virtio-pci-modern", device: ModernWindow(self), maximumWidth: 4,
          doorbells: ModernWindow.notifications))
    }
    placement.add(to: &bars, &windows, identity)
    var configuration = PCIConfiguration(
      identity, interruptPin: 1, isMultifunction: placement.isMultifunction, bars: bars)
    if let msix { _ = msix.add(to: &configuration) }
    if settings.hasModern { addCapabilities(to: &configuration) }
    let endpoint = PCIEndpoint(
      configuration: configuration, windows: windows, context: context,
      reading: { [weak self] offset, width in self?.configurationRead(offset, width) },
      written: { [weak self] offset, width in self?.configurationWritten(offset, width) })
    try endpoint.connect(to: placement.bus, at: placement.address)
    shell.withLock { $0 = endpoint }
  }

  /// Transitional devices have numbers of their own (4.1.2).
  private var identity: PCIIdentity {
    let transitional: [UInt16: UInt16] = [
      1: 0x1000, 2: 0x1001, 3: 0x1003, 4: 0x1005, 5: 0x1002, 8: 0x1004, 9: 0x1009,
    ]
    if settings.hasLegacy, let id = transitional[device.number] {
      return PCIIdentity(
        vendor: 0x1AF4, device: id, revision: 0, classCode: settings.classCode,
        subsystem: device.number)
    }
    return PCIIdentity(
      vendor: 0x1AF4, device: 0x1040 + device.number, revision: 1, classCode: settings.classCode)
  }

  /// The vendor capabilities that say where the parts of the modern interface are (4.1.4).
  private func addCapabilities(to configuration: inout PCIConfiguration) {
    func little(_ value: UInt32) -> [UInt8] {
      (0..<4).map { UInt8(truncatingIfNeeded: value >> UInt32($0 * 8)) }
    }
    func part(_ type: UInt8, _ offset: UInt32, _ length: UInt32, _ extra: [UInt8] = []) -> [UInt8] {
      [UInt8(16 + extra.count), type, UInt8(BAR.modern), 0, 0, 0] + little(offset)
        + little(length) + extra
    }
    _ = configuration.addCapability(0x09, part(1, 0x0000, 0x1000))
    _ = configuration.addCapability(0x09, part(3, 0x1000, 0x1000))
    _ = configuration.addCapability(0x09, part(4, 0x2000, 0x1000))
    _ = configuration.addCapability(0x09, part(2, 0x3000, 0x1000, little(4)))
    // Access through configuration space: software chooses BAR, offset and length, and moves data.
    var writable = [UInt8](repeating: 0, count: 18)
    writable[2] = 0xFF
    for index in 6..<18 { writable[index] = 0xFF }
    if let offset = configuration.addCapability(
      0x09, part(5, 0, 0, [0, 0, 0, 0]), writable: writable)
    {
      accessCapability.store(offset, ordering: .relaxed)
    }
  }

  /// Back to the initial state, as at power-on.
  package func resetAll() {
    resetDevice()
    msix?.reset()
    shell.withLock { $0 }?.reset()
  }

  /// Takes the function out of the machine for good: the guest cannot reach it any more, and nothing of its queues is used when this
  /// returns. Main loop.
  package func disconnect() {
    disconnectFromBus()
    resetAfterDisconnection()
  }

  /// The first half of `disconnect`: the guest cannot reach the function. Main loop.
  func disconnectFromBus() { shell.withLock { $0 }?.disconnect() }

  /// The second half, which waits for what is under way. Any thread.
  func resetAfterDisconnection() { resetDevice() }

  // MARK: - VirtioTransport

  package func pop(_ index: Int) -> VirtQueueElement? {
    var element = VirtQueueElement()
    return pop(index, into: &element) ? element : nil
  }

  package func pop(_ index: Int, into element: inout VirtQueueElement) -> Bool {
    guard slots.indices.contains(index), isLive else { return false }
    do throws(VirtQueueError) {
      return try slots[index].queue.withLock { (queue) throws(VirtQueueError) in
        try queue.pop(into: &element, from: memory)
      }
    } catch {
      fail(error.message)
      return false
    }
  }

  package func unpop(_ index: Int) {
    guard slots.indices.contains(index), isLive else { return }
    slots[index].queue.withLock { $0.unpop() }
  }

  package func push(_ index: Int, _ element: VirtQueueElement, written: UInt32) {
    guard slots.indices.contains(index), isLive else { return }
    do throws(VirtQueueError) {
      try slots[index].queue.withLock { (queue) throws(VirtQueueError) in
        try queue.push(element, written: written, to: memory)
      }
    } catch {
      fail(error.message)
    }
  }

  package func notifyDriver(_ index: Int) {
    guard slots.indices.contains(index), isLive else { return }
    if slots[index].queue.withLock({ $0.shouldNotify(memory) }) { signal(queue: index) }
  }

  package func setPolled(_ index: Int, _ on: Bool) -> Bool {
    guard slots.indices.contains(index), isLive else { return false }
    return slots[index].queue.withLock { $0.setPolled(on, in: memory) }
  }

  package func complete(_ index: Int, _ element: VirtQueueElement, written: UInt32) {
    push(index, element, written: written)
    notifyDriver(index)
  }

  package func configurationChanged() {
    let (isOn, vector) = state.withLock { state in
      state.generation &+= 1
      return (state.status & Status.driverOK != 0, state.configurationVector)
    }
    if isOn { raise(3, vector) }
  }

  package func fail(_ reason: String) {
    let (isFirst, vector, isModern) = state.withLock { state in
      let isFirst = !state.isBroken
      let isModern = state.driverFeatures & VirtioFeature.version1 != 0
      state.isBroken = true
      live.store(false, ordering: .releasing)
      if isModern { state.status |= Status.needsReset }
      return (isFirst, state.configurationVector, isModern)
    }
    guard isFirst else { return }
    Log.write(.guestErrors, "virtio device \(device.number): \(reason)")
    if isModern { raise(3, vector) }
  }

  /// Whether the driver runs the device.
  package var isDriverReady: Bool { isLive }

  /// Whether the driver runs the device and has not broken it.
  private var isLive: Bool { live.load(ordering: .acquiring) }

  // MARK: - Interrupts

  private func signal(queue index: Int) {
    let vector = state.withLock { $0.queueVectors[index] }
    raise(1, vector)
  }

  /// Sends the vector's message, or sets ISR bits and the pin (4.1.5.1).
  private func raise(_ bits: UInt8, _ vector: UInt16) {
    if let msix, msix.isEnabled {
      if vector != VirtioPCI.noVector { msix.notify(Int(vector)) }
      return
    }
    state.withLock { $0.isr |= bits }
    updatePin()
  }

  private func updatePin() {
    let isPending = state.withLock { $0.isr & 1 != 0 || $0.isr & 2 != 0 }
    shell.withLock { $0 }?.setInterrupt(isPending)
  }

  /// Reads and clears (4.1.4.5).
  func takeISR() -> UInt8 {
    let value = state.withLock { state in
      let value = state.isr
      state.isr = 0
      return value
    }
    if value != 0 { updatePin() }
    return value
  }

  // MARK: - What both interfaces do

  /// All features that are offered to a driver of that interface.
  func offeredFeatures(legacy: Bool) -> UInt64 {
    var features = device.offeredFeatures | VirtioFeature.anyLayout
    if settings.eventIndex { features |= VirtioFeature.eventIndex }
    if settings.indirectDescriptors { features |= VirtioFeature.indirectDescriptors }
    if !legacy {
      features |= VirtioFeature.version1
      if settings.packedRings { features |= VirtioFeature.packedRing }
    }
    return features
  }

  func setFeatures(_ features: UInt64, legacy: Bool) {
    state.withLock { $0.driverFeatures = features & offeredFeatures(legacy: legacy) }
  }

  /// A write to the device status (2.1): 0 resets, DRIVER_OK starts.
  func setStatus(_ value: UInt8, legacy: Bool) {
    if value == 0 { return resetDevice() }
    let started: UInt64? = state.withLock { state in
      var value = value
      let isModern = state.driverFeatures & VirtioFeature.version1 != 0
      if !legacy, value & Status.featuresOK != 0, !isModern { value &= ~Status.featuresOK }
      let starts = value & ~state.status & Status.driverOK != 0
      state.status = value | state.status & Status.needsReset
      if !starts, value & Status.driverOK == 0 { live.store(false, ordering: .releasing) }
      return starts ? state.driverFeatures : nil
    }
    guard let features = started else { return }
    for slot in slots {
      slot.queue.withLock { queue in
        queue.isPacked = features & VirtioFeature.packedRing != 0
        queue.usesEventIndex = features & VirtioFeature.eventIndex != 0
        queue.allowsIndirect = features & VirtioFeature.indirectDescriptors != 0
      }
    }
    device.start(features)
    state.withLock { state in
      let isLive = state.status & Status.driverOK != 0 && !state.isBroken
      live.store(isLive, ordering: .releasing)
    }
    // What was made available before DRIVER_OK is not announced again.
    for (index, slot) in slots.enumerated()
    where slot.queue.withLock({ $0.hasAvailable(in: memory) }) {
      device.notified(index)
    }
  }

  private func resetDevice() {
    state.withLock { state in
      let count = state.queueVectors.count
      let generation = state.generation
      state = State()
      live.store(false, ordering: .releasing)
      state.generation = generation
      state.queueVectors = [UInt16](repeating: VirtioPCI.noVector, count: count)
    }
    // First the device, which waits for what it is about to write into the guest's memory.
    device.reset()
    for slot in slots { slot.queue.withLock { $0.reset() } }
    updatePin()
  }

  func notify(_ queue: Int) {
    if slots.indices.contains(queue), isLive { device.notified(queue) }
  }

  /// Runs `body` on the queue that the driver selected; nil when there is no such queue.
  func withSelectedQueue<R: Sendable>(_ body: (inout VirtQueue) -> R) -> R? {
    let index = Int(state.withLock { $0.queueSelect })
    guard slots.indices.contains(index) else { return nil }
    return slots[index].queue.withLock { body(&$0) }
  }

  var queueCount: Int { slots.count }

  /// A vector number as the driver may choose it; others read back as none (4.1.5.1.2).
  func validVector(_ value: UInt16) -> UInt16 {
    Int(value) < msix?.vectors ?? 0 ? value : VirtioPCI.noVector
  }

  /// Bytes of the device's own configuration; zero beyond its end.
  func readDeviceConfiguration(_ offset: UInt64, width: Int) -> UInt64 {
    let bytes = device.configuration
    var value: UInt64 = 0
    for index in 0..<width {
      let at = Int(truncatingIfNeeded: offset) &+ index
      if bytes.indices.contains(at) { value |= UInt64(bytes[at]) << UInt64(index * 8) }
    }
    return value
  }

  func writeDeviceConfiguration(_ offset: UInt64, width: Int, _ value: UInt64) {
    let start = Int(truncatingIfNeeded: offset)
    guard start >= 0, width > 0, start + width <= device.configuration.count else { return }
    device.writeConfiguration(
      start, (0..<width).map { UInt8(truncatingIfNeeded: value >> UInt64($0 * 8)) })
  }

  // MARK: - Configuration space

  private func configurationWritten(_ offset: Int, _ width: Int) {
    guard let endpoint = shell.withLock({ $0 }) else { return }
    let configuration = endpoint.configuration
    msix?.configurationWritten(configuration)
    guard let access = access(offset, width, configuration) else { return }
    let data = configuration.read(access.data, width: access.length)
    ModernWindow(self).write(
      BusAccess(offset: access.offset, width: access.length, vcpu: VCPUID(0)), UInt64(data))
  }

  private func configurationRead(_ offset: Int, _ width: Int) {
    guard let endpoint = shell.withLock({ $0 }),
      let access = access(offset, width, endpoint.configuration)
    else { return }
    let value = ModernWindow(self).read(
      BusAccess(offset: access.offset, width: access.length, vcpu: VCPUID(0)))
    endpoint.configure { $0.set32(access.data, UInt32(truncatingIfNeeded: value)) }
  }

  /// The access that a touch of the data field at `offset` stands for (4.1.4.8).
  private func access(
    _ offset: Int, _ width: Int, _ configuration: PCIConfiguration
  ) -> (offset: UInt64, length: Int, data: Int)? {
    let capability = accessCapability.load(ordering: .relaxed)
    let data = capability + 16
    guard capability != 0, offset < data + 4, offset + width > data else { return nil }
    let length = Int(configuration.read(capability + 12, width: 4))
    let at = UInt64(configuration.read(capability + 8, width: 4))
    guard configuration.read(capability + 4, width: 1) == BAR.modern, [1, 2, 4].contains(length),
      at % UInt64(length) == 0, at < VirtioPCI.modernSize
    else { return nil }
    return (at, length, data)
  }
}
