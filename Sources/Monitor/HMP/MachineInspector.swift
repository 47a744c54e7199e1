import CPU
import DeviceModel
import DistIRQ
import Host
import Machine
import Net
import Options
import Shm

/// The machine as the human monitor looks at it.
@MainLoop
final class MachineInspector: HMPMachine {
  private let machine: Machine

  init(_ machine: Machine) { self.machine = machine }

  var network: Network? { machine.network }

  private func id(_ index: Int) -> VCPUID { VCPUID(UInt32(truncatingIfNeeded: index)) }

  // MARK: - vCPUs, memory, ports

  var cpuCount: Int { (machine.vcpus.map(\.id.rawValue).max()).map { Int($0) + 1 } ?? 0 }

  func cpuState(_ index: Int) -> CPUState? {
    index >= 0 && index < cpuCount ? machine.cpuState(id(index)) : nil
  }

  func readPhysical(_ address: UInt64, count: Int) -> [UInt8]? {
    if let bytes = machine.memory.read(GuestAddress(address), count: count) { return bytes }
    guard machine.deviceMemory.isMapped(address) else { return nil }
    // Devices answer aligned words; a dump of one reads its registers as the guest would.
    var bytes: [UInt8] = []
    while bytes.count < count {
      let at = address &+ UInt64(bytes.count)
      guard machine.deviceMemory.isMapped(at) else { return nil }
      let word = machine.deviceMemory.read(at & ~3, width: 4, vcpu: id(0))
      for byte in (at & 3)..<4 where bytes.count < count {
        bytes.append(UInt8(truncatingIfNeeded: word >> (byte * 8)))
      }
    }
    return bytes
  }

  func readPort(_ port: UInt16, width: Int) -> UInt32 {
    machine.readPort(port, width: width, as: id(0))
  }

  func writePort(_ port: UInt16, width: Int, _ value: UInt32) {
    machine.writePort(port, width: width, value, as: id(0))
  }

  func hostAddress(of address: UInt64) -> HMPHostAddress {
    for slot in machine.memory.slots where slot.guest.rawValue <= address && address < slot.end {
      let offset = slot.offset &+ (address &- slot.guest.rawValue)
      return .memory(
        block: slot.block.name, address: slot.block.hostAddress &+ offset)
    }
    return machine.deviceMemory.isMapped(address) ? .device : .unmapped
  }

  // MARK: - What a user does

  func setBootOrder(_ order: String) -> String? {
    let board = machine.configuration.machine.type
    if board == "none" {
      return "no function defined to set boot device list for this architecture"
    }
    if let complaint = BootOrder.complaint(about: order, isPC: true) { return complaint }
    _ = machine.changeBootOrder(to: order)
    return nil
  }

  // MARK: - Interrupts

  func cpuIndex(apicID: UInt32) -> Int? {
    machine.vcpus.first { $0.apicID.rawValue == apicID }.map { Int($0.id.rawValue) }
  }

  func localAPIC(_ cpuIndex: Int) -> HMPLocalAPIC? {
    guard var model = machine.localAPIC(id(cpuIndex)) else { return nil }
    let time = APICTime(nanoseconds: UInt64(clamping: machine.clock.now), tsc: 0)
    // On a copy: reading some registers has effects.
    func register(_ offset: UInt32) -> UInt32 {
      if model.mode == .x2APIC {
        return UInt32(truncatingIfNeeded: model.readMSR(0x800 + offset >> 4, at: time) ?? 0)
      }
      return UInt32(truncatingIfNeeded: model.read(offset: offset, width: 4, at: time))
    }
    var view = HMPLocalAPIC()
    view.isX2APIC = model.mode == .x2APIC
    view.apicID = model.id
    view.spurious = register(0xF0)
    view.lint0 = register(0x350)
    view.lint1 = register(0x360)
    view.performance = register(0x340)
    view.error = register(0x370)
    view.thermal = register(0x330)
    view.timer = register(0x320)
    view.divideConfiguration = register(0x3E0)
    view.initialCount = register(0x380)
    view.currentCount = register(0x390)
    view.commandLow = UInt32(truncatingIfNeeded: model.icr)
    view.commandHigh = UInt32(truncatingIfNeeded: model.icr >> 32)
    view.errorStatus = UInt32(model.errorStatus)
    view.taskPriority = model.tpr
    view.processorPriority = model.ppr
    view.destinationFormat = view.isX2APIC ? 0 : UInt8(register(0xE0) >> 28)
    view.logicalDestination = view.isX2APIC ? register(0xD0) : register(0xD0) >> 24
    for word in 0..<8 {
      let offset = UInt32(word) << 4
      view.inService[word] = register(0x100 + offset)
      view.triggerMode[word] = register(0x180 + offset)
      view.requested[word] = register(0x200 + offset)
    }
    return view
  }

  var interruptControllers: [HMPInterruptController] {
    guard cpuCount > 0 else { return [] }
    let (ioapic, ioapicCounts) = machine.fabric.ioapicState
    let (pic, picCounts) = machine.fabric.picState
    var view = HMPIOAPIC()
    view.id = ioapic.id
    view.selector = ioapic.select
    view.entries = ioapic.entries.map(\.rawValue)
    // Only level-triggered inputs stay requested; an edge is sent or lost at once.
    for (pin, entry) in ioapic.entries.enumerated() where entry.trigger == .level {
      view.requested |= ioapic.lines.rawValue & 1 << UInt32(pin)
    }
    // The timer's interrupt 0 is wired to pin 2; it is counted under the number that it has for QEMU and everywhere else.
    view.statistics = ioapicCounts
    if view.statistics.count > 2 { view.statistics.swapAt(0, 2) }
    return [
      .ioapic(view),
      .pic(self.view(pic.slave, index: 1, [])),
      .pic(self.view(pic.master, index: 0, picCounts)),
    ]
  }

  private func view(_ pic: PICController, index: Int, _ counts: [UInt64]) -> HMPPIC {
    var view = HMPPIC()
    view.index = index
    view.requested = pic.irr
    view.masked = pic.imr
    view.inService = pic.isr
    view.highestPriority = (Int(pic.lowestPriority) + 1) & 7
    view.vectorBase = pic.vectorBase
    view.readsInService = pic.readsISR
    view.edgeLevel = pic.elcr
    view.isFullyNested = pic.specialFullyNested
    view.statistics = counts
    return view
  }

  // MARK: - Trees

  var memoryTree: [HMPAddressSpace] {
    let memory = machine.memory.slots.map { slot in
      HMPRegion(
        name: slot.block.name, start: slot.guest.rawValue, end: slot.end &- 1,
        kind: slot.isReadOnly ? "rom" : "ram")
    }
    let devices = regions(machine.deviceMemory)
    let all = (memory + devices).sorted { $0.start < $1.start }
    let system = HMPRegion(
      name: "system", start: 0, end: .max, kind: "i/o", children: all)
    let io = HMPRegion(
      name: "io", start: 0, end: 0xFFFF, kind: "i/o", children: regions(machine.ports))
    return [
      HMPAddressSpace(name: "memory", root: system), HMPAddressSpace(name: "I/O", root: io),
    ]
  }

  private func regions(_ space: AddressSpace) -> [HMPRegion] {
    space.regions.sorted { $0.start < $1.start }.map { region in
      HMPRegion(
        name: region.name, start: region.start, end: region.last, priority: region.priority,
        kind: "i/o")
    }
  }

  var deviceTree: HMPBus { DeviceTreeText(machine).root }

  var roms: [HMPROM] {
    machine.memory.slots.filter(\.isReadOnly).map { slot in
      HMPROM(
        place: .memory(slot.guest.rawValue, kind: "rom"), size: slot.size, name: slot.block.name)
    }
  }

  var isSingleStepping: Bool {
    get { machine.isSingleStepping }
    set { machine.isSingleStepping = newValue }
  }

  func logChanged() { machine.logChanged() }
}
