import CPU
import DeviceModel
import Host
import Machine
import Options
package import QAPI
import Shm

// schemas/machine.json

extension MonitorCommands: @MainLoop MachineCommands {
  // MARK: - Queries

  package func queryCpusFast() throws(QAPIError) -> [CpuInfoFast] {
    let machine = try context.machine
    let hasDies = machine.configuration.smp.dies > 1
    let here = machine.vcpus.map { vcpu in
      CpuInfoFast(
        cpuIndex: Int(vcpu.id.rawValue), qomPath: vcpu.path, threadId: Int(vcpu.threadID),
        props: CpuInstanceProperties(
          nodeId: vcpu.numaNode, socketId: vcpu.socket, dieId: hasDies ? vcpu.die : nil,
          coreId: vcpu.core, threadId: vcpu.thread),
        node: context.cluster?.node, branch: .x86_64)
    }
    guard let cluster = context.cluster else { return here }
    let known = Set(here.map(\.cpuIndex))
    let others = elsewhere(machine, cluster).filter { !known.contains($0.cpuIndex) }
    return (here + others).sorted { $0.cpuIndex < $1.cpuIndex }
  }

  /// The virtual processors of other nodes. Their threads are no business of who watches this process: clients such as libvirt put all
  /// threads that they are told of into control groups, but not a process's own id.
  private func elsewhere(_ machine: Machine, _ cluster: ClusterMonitors) -> [CpuInfoFast] {
    let smp = machine.configuration.smp
    let topology = CPUTopology(
      sockets: smp.sockets, dies: smp.dies, cores: smp.cores, threads: smp.threads)
    var result: [CpuInfoFast] = []
    for node in cluster.control.status.nodes where node.node != cluster.node {
      for index in node.vcpus {
        let place = topology.place(ofVCPU: index)
        result.append(
          CpuInfoFast(
            cpuIndex: index, qomPath: "/machine/unattached/device[\(index)]",
            threadId: HostThread.processID,
            props: CpuInstanceProperties(
              nodeId: machine.numa?.node(ofVCPU: index), socketId: place.socket,
              dieId: smp.dies > 1 ? place.die : nil, coreId: place.core, threadId: place.thread),
            node: node.node, branch: .x86_64))
      }
    }
    return result
  }

  package func queryMachines() throws(QAPIError) -> [MachineInfo] {
    HelpCatalog.standardMachines.map { machine in
      MachineInfo(
        name: machine.name, alias: machine.alias, isDefault: machine.isDefault ? true : nil,
        cpuMax: machine.maximumCPUs, hotpluggableCpus: false, numaMemSupported: false,
        deprecated: false, defaultCpuType: machine.isPC ? "qemu64-x86_64-cpu" : nil,
        defaultRamId: machine.isPC ? "pc.ram" : "ram")
    }
  }

  package func queryTarget() throws(QAPIError) -> TargetInfo { TargetInfo(arch: .x86_64) }

  package func queryUuid() throws(QAPIError) -> UuidInfo {
    let uuid = try context.configuration.uuid
    return UuidInfo(uuid: uuid?.description ?? "00000000-0000-0000-0000-000000000000")
  }

  package func queryKvm() throws(QAPIError) -> KvmInfo {
    KvmInfo(enabled: try context.machine.acceleratorName == "kvm", present: true)
  }

  package func xQueryJit() throws(QAPIError) -> HumanReadableText {
    guard let text = try context.machine.acceleratorStatistics else {
      throw QAPIError("JIT information is only available with accel=tcg")
    }
    return HumanReadableText(humanReadableText: text.hasSuffix("\n") ? text : text + "\n")
  }

  package func xQueryOpcount() throws(QAPIError) -> HumanReadableText {
    guard try context.machine.acceleratorStatistics != nil else {
      throw QAPIError("Opcode count information is only available with accel=tcg")
    }
    // What QEMU says without its profiler. The translator has no operations between guest and host instructions to count.
    return HumanReadableText(humanReadableText: "[TCG profiler not compiled]\n")
  }

  package func queryCpuDefinitions() throws(QAPIError) -> [CpuDefinitionInfo] {
    CPUModel.definitions(try context.cpuCapabilities).map { model in
      CpuDefinitionInfo(
        name: model.name, migrationSafe: model.isMigrationSafe, static: model.isStatic,
        unavailableFeatures: model.unavailableFeatures, typename: model.typeName,
        aliasOf: model.aliasOf, deprecated: model.isDeprecated)
    }
  }

  package func queryCurrentMachine() throws(QAPIError) -> CurrentMachineParams {
    // The power management device wakes the guest up.
    CurrentMachineParams(wakeupSuspendSupport: try context.machine.hasACPI)
  }

  package func queryMemorySizeSummary() throws(QAPIError) -> MemoryInfo {
    MemoryInfo(baseMemory: try context.machine.ramSize, pluggedMemory: 0)
  }

  package func queryHotpluggableCpus() throws(QAPIError) -> [HotpluggableCPU] {
    let configuration = try context.configuration
    guard configuration.machine.type != "none" else {
      throw QAPIError("The feature 'query-hotpluggable-cpus' is not enabled")
    }
    let smp = configuration.smp
    let topology = CPUTopology(
      sockets: smp.sockets, dies: smp.dies, cores: smp.cores, threads: smp.threads)
    let name = configuration.cpu?.text.prefix { $0 != "," } ?? "qemu64"
    // In the state before the machine no place is taken.
    let vcpus = context.preparation == nil ? try context.machine.vcpus : []
    return (0..<smp.maxCPUs).reversed().map { index in
      let place = topology.place(ofVCPU: index)
      return HotpluggableCPU(
        type: "\(name)-x86_64-cpu", vcpusCount: 1,
        props: CpuInstanceProperties(
          socketId: place.socket, dieId: smp.dies > 1 ? place.die : nil, coreId: place.core,
          threadId: place.thread),
        qomPath: vcpus.indices.contains(index) ? vcpus[index].path : nil)
    }
  }

  // MARK: - Texts

  package func xQueryIrq() throws(QAPIError) -> HumanReadableText {
    let controllers = MachineInspector(try context.machine).interruptControllers
    return HumanReadableText(
      humanReadableText: controllers.map(InterruptText.statistics).joined())
  }

  package func xQueryNuma() throws(QAPIError) -> HumanReadableText {
    HumanReadableText(humanReadableText: try context.machine.numa?.text ?? "0 nodes\n")
  }

  package func xQueryRamblock() throws(QAPIError) -> HumanReadableText {
    HumanReadableText(
      humanReadableText: RAMBlockText.table(try context.machine.memory.slots.map(\.block)))
  }

  package func xQueryRoms() throws(QAPIError) -> HumanReadableText {
    HumanReadableText(
      humanReadableText: TreeText.roms(MachineInspector(try context.machine).roms))
  }

  // MARK: - Buttons

  @MainLoop package func systemReset() async throws(QAPIError) {
    let machine = try context.machine
    machine.reset()
    if machine.seat == nil { return }
    if let reason = await machine.settle() { throw QAPIError(reason) }
  }

  package func systemPowerdown() throws(QAPIError) { try context.machine.powerDown() }

  package func systemWakeup() throws(QAPIError) {
    let machine = try context.machine
    if machine.configuration.machine.type == "none" {
      throw QAPIError("wake-up from suspend is not supported by this guest")
    }
    do throws(RunControlError) { try machine.wakeUp() } catch {
      throw QAPIError(error.message)
    }
  }

  package func injectNmi() throws(QAPIError) {
    let machine = try context.machine
    if machine.configuration.machine.type == "none" {
      throw QAPIError("this feature or command is not currently supported")
    }
    machine.injectNMI()
  }

  // MARK: - Memory

  @MainLoop
  package func memsave(
    val: Int, size: Int, filename: String, cpuIndex: Int?
  ) async throws(QAPIError) {
    let vcpu = try vcpu(cpuIndex ?? 0)
    let machine = try context.machine
    let start = UInt64(bitPattern: Int64(val))
    try await MemoryFile.save(size, to: filename) { offset, count throws(QAPIError) in
      let address = start &+ UInt64(offset)
      guard let bytes = machine.readLinear(address, count: count, on: vcpu.id) else {
        throw QAPIError("Invalid addr 0x\(Self.hexadecimal(start))/size \(size) specified")
      }
      return bytes
    }
  }

  @MainLoop
  package func pmemsave(val: Int, size: Int, filename: String) async throws(QAPIError) {
    let memory = try context.machine.memory
    let start = UInt64(bitPattern: Int64(val))
    try await MemoryFile.save(size, to: filename) { offset, count throws(QAPIError) in
      let address = start &+ UInt64(offset)
      if let bytes = memory.read(GuestAddress(address), count: count) { return bytes }
      // What is not memory reads as zero, a page at a time.
      var bytes: [UInt8] = []
      while bytes.count < count {
        let at = address &+ UInt64(bytes.count)
        let page = Int(GuestAddress.pageSize &- at % GuestAddress.pageSize)
        let step = min(count - bytes.count, page)
        bytes +=
          memory.read(GuestAddress(at), count: step) ?? [UInt8](repeating: 0, count: step)
      }
      return bytes
    }
  }

  // MARK: -

  /// The virtual processor of that index.
  func vcpu(_ index: Int) throws(QAPIError) -> VCPUInfo {
    let vcpus = try context.machine.vcpus
    guard let vcpu = vcpus.first(where: { Int($0.id.rawValue) == index }) else {
      throw .expects("cpu-index", "a CPU number")
    }
    return vcpu
  }

  /// 16 digits, as QEMU prints addresses.
  private static func hexadecimal(_ address: UInt64) -> String {
    let digits = String(address, radix: 16)
    return String(repeating: "0", count: 16 - digits.count) + digits
  }
}
