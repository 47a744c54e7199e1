import CPU
import Cluster
import DeviceModel
import Host
import KVM
import Options
import Translator

/// The accelerator that a machine runs with, and the CPU that it gives its guest.
struct AcceleratorChoice {
  let accelerator: any Accelerator
  private(set) var capabilities: CPUCapabilities
  private(set) var cpuid: CPUIDTable

  /// Takes the first accelerator of the command line that this host can provide; says on standard error which could not be had.
  ///
  /// Throws `AcceleratorError` when none can, `CPUModelError` when the CPU cannot be made.
  init(_ configuration: LaunchConfiguration) throws {
    var found: (any Accelerator, CPUCapabilities)?
    let wanted = configuration.accelerators
    for (index, choice) in wanted.enumerated() {
      do throws(AcceleratorError) {
        found = try AcceleratorChoice.open(choice, configuration)
        if index > 0 { Log.line("\(Log.programName): falling back to \(choice.name)") }
        break
      } catch {
        let isLast = index + 1 == wanted.count
        if isLast { throw error }
        Log.error(error.message)
      }
    }
    guard let (accelerator, capabilities) = found else {
      throw AcceleratorError(.unavailable, "no accelerator found")
    }
    self.accelerator = accelerator
    self.capabilities = capabilities
    // Without -cpu the board's default model.
    let option = configuration.cpuText
    try AcceleratorChoice.checkGlobals(configuration)
    let (table, warnings): (CPUIDTable, [String])
    do throws(CPUModelError) {
      (table, warnings) = try CPUModel.parse(option).cpuidTable(
        capabilities, topology: CPUTopology(configuration.smp))
    } catch {
      if let origin = configuration.cpu?.origin { throw origin.failure(error.message) }
      throw error
    }
    for warning in warnings { Log.warning(warning) }
    if configuration.onlyMigratable, table.entry(0x8000_0007).edx & 1 << 8 != 0 {
      let message =
        "State blocked by non-migratable CPU device (invtsc flag): not allowed with"
        + " -only-migratable"
      throw configuration.cpu?.origin.failure(message) ?? AcceleratorError(.unsupported, message)
    }
    cpuid = table
  }

  /// What this host tells the other nodes of the machine.
  var offer: CPUOffer {
    var offer = CPUOffer(capabilities)
    offer.counterKilohertz = counterKilohertz
    return offer
  }

  /// Of the host's counter where guests read it; 0 where they read one made by software.
  var counterKilohertz: UInt64 {
    capabilities.kind == .kvm ? KVMAccelerator.counterKilohertz ?? 0 : 0
  }

  /// Takes the CPU that all nodes of the machine give it.
  mutating func adopt(_ agreement: CPUAgreement) {
    capabilities = capabilities.offering(agreement.common)
    cpuid = agreement.table
  }

  /// Throws `OptionError` for a `-global` that no processor of the machine can have.
  private static func checkGlobals(_ configuration: LaunchConfiguration) throws(OptionError) {
    if configuration.cpuGlobals.isEmpty { return }
    let model = configuration.cpu?.text.prefix { $0 != "," } ?? "qemu64"
    guard CPUModel.named(String(model)) != nil else { return }
    for global in configuration.cpuGlobals {
      let setting = "\(global.property)=\(global.value)"
      do throws(CPUModelError) { _ = try CPUModel.parse("\(model),\(setting)") } catch {
        let place = "can't apply global \(global.driver).\(setting): "
        let reason = error.message.split(separator: ": ", maxSplits: 1).last.map(String.init)
        let isPlaced = error.message.hasPrefix("can't apply global")
        throw global.origin.failure(place + (isPlaced ? reason ?? "" : error.message))
      }
    }
  }

  private static func open(
    _ choice: AcceleratorConfiguration, _ configuration: LaunchConfiguration
  ) throws(AcceleratorError) -> (any Accelerator, CPUCapabilities) {
    switch choice {
    case .kvm(let options):
      if options.probe { try KVMAccelerator.probe() }
      let kvm = KVMAccelerator(
        probe: false,
        makeFallback: { memory, cpuid in
          let service = EmulationService(memory: memory, cpuid: cpuid)
          return { vcpu, host in service.execute(vcpu, host) }
        })
      var supported = try KVMAccelerator.supportedCPUID()
      if let cluster = configuration.cluster {
        supported = AcceleratorChoice.onSeveralNodes(supported, cluster)
      }
      return (kvm, CPUCapabilities(kvmSupporting: supported, host: CPUIDTable.ofThisHost))
    case .tcg(let options):
      // Half of each vCPU's share is for decoded instructions, half for host code.
      let share = options.codeCacheMiB.map {
        (Int($0) << 20) / (2 * max(configuration.smp.cpus, 1))
      }
      let tuning = TranslatorTuning(options, codeCacheBytes: share)
      let accelerator = TCGAccelerator(
        cacheBytes: share, tuning: tuning, takesTurns: options.takesTurns)
      let capabilities = CPUCapabilities(tcgOn: .ofThisHost)
      if options.without.isEmpty { return (accelerator, capabilities) }
      var features = capabilities.features
      for name in options.without {
        guard CPUFeature.named(name) != nil else {
          throw AcceleratorError(.unsupported, "there is no CPU feature '\(name)'")
        }
        features[name] = false
      }
      return (accelerator, capabilities.offering(features))
    }
  }
}

extension AcceleratorChoice {
  /// What KVM gives to guests whose vCPUs are not all in one process: none of what it does between them in the kernel (stolen time, remote
  /// TLB flush), and a kvmclock that is the same for all only where all nodes read one host's counter (distributed.md, sections 7 and 8).
  private static func onSeveralNodes(
    _ table: CPUIDTable, _ cluster: ClusterConfiguration
  ) -> CPUIDTable {
    let isOneHost =
      cluster.memory == .shm
      || cluster.addresses.allSatisfy { if case .unix = $0 { true } else { false } }
    return CPUIDTable(
      table.entries.map { entry in
        guard entry.leaf == 0x4000_0001 else { return entry }
        var entry = entry
        entry.eax &= 1 << 0 | 1 << 1 | 1 << 3 | (isOneHost ? 1 << 24 : 0)
        return entry
      })
  }
}

extension TranslatorTuning {
  /// What `-accel tcg` asks for; `codeCacheBytes` is a vCPU's share of `tb-size`, nil for the default.
  init(_ options: TCGConfiguration, codeCacheBytes share: Int?) {
    self.init()
    if let share { codeCacheBytes = share }
    if let value = options.codeCacheBytes { codeCacheBytes = Int(value) }
    if let value = options.translates { isEnabled = value }
    if let value = options.threshold { threshold = value }
    if let value = options.exactFlags { exactFlags = value }
    if let value = options.maximumInstructions { maximumInstructions = value }
    if options.oneInstructionPerBlock { maximumInstructions = 1 }
    if let value = options.tlbEntries { tlbLimit = value }
    if let value = options.flushEvery { flushEvery = value }
    if let value = options.requestEvery { requestEvery = value }
    if let value = options.seed { seed = value }
  }
}

extension CPUTopology {
  init(_ smp: SMPConfiguration) {
    self.init(sockets: smp.sockets, dies: smp.dies, cores: smp.cores, threads: smp.threads)
  }
}
