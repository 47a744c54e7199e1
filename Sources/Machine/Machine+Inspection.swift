package import CPU
package import DeviceModel
package import DistIRQ
package import Devices
import Host
import Options
package import Shm
package import PCI
package import Virtio

/// What `query-cpus-fast` and `info cpus` tell of one vCPU.
package struct VCPUInfo: Equatable, Sendable {
  package let id: VCPUID
  /// Kernel thread id.
  package let threadID: Int64
  package let apicID: APICID
  package let isHalted: Bool
  /// Object path.
  package let path: String
  package let socket: Int
  package let die: Int
  package let core: Int
  package let thread: Int
  /// Number of its NUMA node; nil without NUMA.
  package let numaNode: Int?
}

/// A function on PCI bus 0, as `query-pci` tells of it.
package struct PCIFunctionInfo: Sendable {
  /// What a base address register stands for, and where it points; nil while the guest has not placed it.
  package struct Region: Sendable {
    package let layout: PCIBarLayout
    package let address: UInt64?
  }
  package let address: PCIAddress
  /// The `id=` of a user's device.
  package let id: String?
  /// The 256 bytes of configuration space.
  package let configuration: [UInt8]
  package let regions: [Region]
}

extension Machine {
  /// The vCPUs in order of their index.
  package var vcpus: [VCPUInfo] {
    let smp = configuration.smp
    return group.threads.map { thread in
      let index = Int(thread.vcpu.id.rawValue)
      return VCPUInfo(
        id: thread.vcpu.id, threadID: thread.threadID,
        apicID: APICID(thread.apic.snapshot.initialID), isHalted: thread.isHalted,
        path: "/machine/unattached/device[\(index)]",
        socket: index / (smp.dies * smp.cores * smp.threads),
        die: index / (smp.cores * smp.threads) % smp.dies,
        core: index / smp.threads % smp.cores, thread: index % smp.threads,
        numaNode: numa?.node(ofVCPU: index))
    }
  }

  /// All registers of a vCPU; it is stopped for a moment if it runs. Nil when there is no such vCPU or it cannot be read.
  package func cpuState(_ id: VCPUID) -> CPUState? {
    whilePaused(id) { thread -> CPUState? in
      guard var state = try? thread.vcpu.readState() else { return nil }
      state.activity = thread.activity
      state.cr8 = UInt64(thread.apic.taskPriority >> 4)
      return state
    } ?? nil
  }

  /// The local APIC of a vCPU.
  package func localAPIC(_ id: VCPUID) -> LocalAPIC? { thread(id)?.apic.snapshot }

  /// Guest-physical address behind a linear address of a vCPU; nil when it is not mapped.
  package func translate(linear: UInt64, on id: VCPUID) -> GuestAddress? {
    whilePaused(id) { $0.vcpu.translate(linear: linear) } ?? nil
  }

  /// Bytes from the linear address space of a vCPU; nil when some of them are not mapped to RAM or ROM.
  package func readLinear(_ address: UInt64, count: Int, on id: VCPUID) -> [UInt8]? {
    whilePaused(id) { thread -> [UInt8]? in
      var bytes: [UInt8] = []
      bytes.reserveCapacity(count)
      while bytes.count < count {
        let at = address &+ UInt64(bytes.count)
        let step = min(count - bytes.count, Int(GuestAddress.pageSize - at % GuestAddress.pageSize))
        guard let physical = thread.vcpu.translate(linear: at),
          let piece = memory.read(physical, count: step)
        else { return nil }
        bytes += piece
      }
      return bytes
    } ?? nil
  }

  /// Devices with their object paths.
  package var devices: [PlacedDevice] { board.devices }

  /// Tells the firmware which drives to try from the next start on, by letters that `BootOrder` has no complaint about; false when
  /// the machine has no such firmware.
  package func changeBootOrder(to order: String) -> Bool { board.changeBootOrder(to: order) }

  /// Bytes of RAM.
  package var ramSize: UInt64 {
    configuration.machine.type == "none" ? 0 : configuration.memory.size
  }

  /// Whether the machine has ACPI: its tables and its power management device.
  package var hasACPI: Bool { devices.contains { $0.device is PIIX4PM } }

  /// What is on the PCI bus, by address; nil without one.
  package var pciFunctions: [PCIFunctionInfo]? {
    guard let bus = (board as? PCBoard)?.pci else { return nil }
    return bus.functions.map { address, function in
      // A read as the guest makes it may act; an endpoint is asked for a copy.
      let configuration = (function as? PCIEndpoint)?.configuration
      let bytes =
        configuration?.bytes
        ?? (0..<PCIConfiguration.size).map {
          UInt8(truncatingIfNeeded: function.readConfiguration($0, width: 1))
        }
      let placed = devices.first {
        ($0.device as AnyObject) === (function as AnyObject)
          || ($0.device as? any PCIPlaced)?.placement.address == address
      }
      return PCIFunctionInfo(
        address: address, id: placed?.id,
        configuration: bytes,
        regions: configuration.map { configuration in
          configuration.layout.map {
            PCIFunctionInfo.Region(layout: $0, address: configuration.address(of: $0.index))
          }
        } ?? [])
    }
  }

  /// The memory balloon, when there is one.
  package var balloon: Balloon? {
    devices.lazy.compactMap { ($0.device as? VirtioBalloonPCI)?.balloon }.first
  }

  /// Counters of the accelerator about the machine; nil when it has none.
  package var statistics: [AcceleratorStatistic]? { vm.counters }

  /// Counters of the accelerator about a vCPU; nil when it has none.
  package func statistics(of id: VCPUID) -> [AcceleratorStatistic]? { thread(id)?.vcpu.counters }

  /// The text of `info jit`; nil under an accelerator without one.
  package var acceleratorStatistics: String? { vm.statistics }

  /// `singlestep`: guest code runs in blocks of one instruction, where the accelerator has blocks.
  package var isSingleStepping: Bool {
    get { wantsSingleSteps }
    set {
      wantsSingleSteps = newValue
      vm.isSingleStepping = newValue
    }
  }

  /// To be called when what is logged has changed.
  package func logChanged() { vm.logChanged() }

  /// Reads a port as vCPU `id` would.
  package func readPort(_ port: UInt16, width: Int, as id: VCPUID) -> UInt32 {
    UInt32(truncatingIfNeeded: ports.read(UInt64(port), width: width, vcpu: id))
  }

  /// Writes a port as vCPU `id` would.
  package func writePort(_ port: UInt16, width: Int, _ value: UInt32, as id: VCPUID) {
    ports.write(UInt64(port), width: width, UInt64(value), vcpu: id)
  }

  private func whilePaused<R>(_ id: VCPUID, _ body: (VCPUThread) -> R) -> R? {
    guard let thread = thread(id) else { return nil }
    thread.pause()
    group.waitUntilParked(thread)
    defer { thread.resume() }
    return body(thread)
  }
}

extension Machine {
  /// The controller of keyboard and mouse; nil when the machine has none.
  package var keyboardController: I8042? {
    for placed in devices {
      if let controller = placed.device as? I8042 { return controller }
    }
    return nil
  }
}

// MARK: - Buses

extension PlacedDevice {
  /// The name of the bus it was put on; nil for the board's own devices.
  package var busName: String? { bus?.name }
  /// The path of the device that has that bus.
  package var busOwner: String? { bus?.owner }
}

extension Machine {
  /// The buses that a device has.
  package func buses(of placed: PlacedDevice) -> [(name: String, type: String)] {
    ((board as? PCBoard)?.buses ?? []).filter { $0.owner == placed.path }
      .map { ($0.name, $0.type) }
  }

  /// The device behind a virtio function, and the names of its properties; nil for other devices.
  package func backend(of placed: PlacedDevice) -> (type: String, properties: Set<String>)? {
    guard let function = placed.device as? any VirtioFunction else { return nil }
    let type = function.backendType
    return (type, Set(TypeCatalog.standard.properties(of: type).map(\.name)))
  }
}
