import CPU
import DeviceModel
import Devices
import DistIRQ
import Host
import Shm
import Synchronization

/// What one vCPU's accelerator calls in the midst of an instruction: its local APIC, the ports, device memory.
final class VCPUBus: VCPUHost {
  private let id: VCPUID
  private let apic: LocalAPICUnit
  private let ports: AddressSpace
  private let deviceMemory: AddressSpace
  private let a20: A20Gate
  /// On node 0 of several: what an access has changed for all is there before the next instruction.
  private let publisher: ChipsetPublisher?
  /// On the others: all ports.
  private let remotePorts: RemoteDevice?
  private struct Weak: Sendable { weak var vcpu: (any VCPU)? }
  private let vcpu = Mutex(Weak(vcpu: nil))

  init(
    id: VCPUID, apic: LocalAPICUnit, ports: AddressSpace, deviceMemory: AddressSpace,
    a20: A20Gate, publisher: ChipsetPublisher? = nil, remotePorts: RemoteDevice? = nil
  ) {
    self.publisher = publisher
    self.remotePorts = remotePorts
    self.id = id
    self.apic = apic
    self.ports = ports
    self.deviceMemory = deviceMemory
    self.a20 = a20
  }

  func readPort(_ port: UInt16, width: Int) -> UInt32 {
    UInt32(truncatingIfNeeded: ports.read(UInt64(port), width: width, vcpu: id))
  }

  func writePort(_ port: UInt16, width: Int, _ value: UInt32) {
    ports.write(UInt64(port), width: width, UInt64(value), vcpu: id)
    publisher?.waitUntilPublished()
  }

  var takesPortStrings: Bool { remotePorts != nil }

  func readPorts(_ port: UInt16, width: Int, count: Int, into values: inout [UInt32]) -> Int {
    guard let remotePorts, Int(port) + width <= 0x1_0000 else {
      values.append(readPort(port, width: width))
      return 1
    }
    return remotePorts.readString(port, width: width, count: count, vcpu: id, into: &values)
  }

  func writePorts(_ port: UInt16, width: Int, _ values: [UInt32]) -> Int {
    guard let remotePorts, Int(port) + width <= 0x1_0000 else {
      if let first = values.first { writePort(port, width: width, first) }
      return 1
    }
    return remotePorts.writeString(port, width: width, values, vcpu: id)
  }

  func readMemory(_ address: GuestAddress, width: Int) -> UInt64 {
    if apic.claims(address: address.rawValue) {
      return apic.read(offset: UInt32(address.rawValue & 0xFFF), width: width)
    }
    return deviceMemory.read(address.rawValue, width: width, vcpu: id)
  }

  func writeMemory(_ address: GuestAddress, width: Int, _ value: UInt64) {
    if apic.claims(address: address.rawValue) {
      apic.write(offset: UInt32(address.rawValue & 0xFFF), width: width, value)
      noteOwnMail()
    } else {
      deviceMemory.write(address.rawValue, width: width, value, vcpu: id)
      publisher?.waitUntilPublished()
    }
  }

  func readMSR(_ index: UInt32) -> UInt64? {
    let value = apic.readMSR(index)
    if value == nil { report("read", index) }
    return value
  }

  /// The guest gets #GP.
  private func report(_ what: String, _ index: UInt32) {
    Log.write(
      .guestErrors, "CPU \(id): \(what) of MSR 0x\(String(index, radix: 16)) is not allowed")
  }

  func writeMSR(_ index: UInt32, _ value: UInt64) -> Bool {
    let accepted = apic.writeMSR(index, value)
    if !accepted { report("write", index) }
    noteOwnMail()
    return accepted
  }

  var taskPriority: UInt8 {
    get { apic.taskPriority }
    set {
      apic.taskPriority = newValue
      noteOwnMail()
    }
  }

  /// The vCPU that this bus belongs to: told to look at its mail when its own register access made some.
  func connect(_ vcpu: any VCPU) { self.vcpu.withLock { $0 = Weak(vcpu: vcpu) } }

  private func noteOwnMail() {
    guard !apic.pending.isEmpty else { return }
    vcpu.withLock { $0.vcpu }?.requestExit()
  }

  var isA20Enabled: Bool { a20.isOpen }
}
