import CPU
import DeviceModel
import Host
import KVM
import Options
import Translator

/// The accelerator that a machine runs with, and the CPU that it gives its guest.
struct AcceleratorChoice {
  let accelerator: any Accelerator
  let capabilities: CPUCapabilities
  let cpuid: CPUIDTable

  /// Takes the first accelerator of the command line that this host can provide; says on standard error which could not be had.
  ///
  /// Throws `AcceleratorError` when none can, `CPUModelError` when the CPU cannot be made.
  init(_ configuration: LaunchConfiguration) throws {
    var found: (any Accelerator, CPUCapabilities)?
    let wanted = configuration.accelerators
    for (index, choice) in wanted.enumerated() {
      do throws(AcceleratorError) {
        found = try AcceleratorChoice.open(choice, cpus: configuration.smp.cpus)
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

  /// Throws `OptionError` for a `-global` that no processor of the machine can have.
  private static func checkGlobals(_ configuration: LaunchConfiguration) throws(OptionError) {
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
    _ choice: AcceleratorConfiguration, cpus: Int
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
      let supported = try KVMAccelerator.supportedCPUID()
      return (kvm, CPUCapabilities(kvmSupporting: supported, host: CPUIDTable.ofThisHost))
    case .tcg(let options):
      // Half of each vCPU's share is for decoded instructions, half for host code.
      let share = options.codeCacheMiB.map { (Int($0) << 20) / (2 * max(cpus, 1)) }
      let tuning = TranslatorTuning(options, codeCacheBytes: share)
      let accelerator = TCGAccelerator(
        cacheBytes: share, tuning: tuning, takesTurns: options.takesTurns)
      return (accelerator, CPUCapabilities(tcgOn: .ofThisHost))
    }
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
