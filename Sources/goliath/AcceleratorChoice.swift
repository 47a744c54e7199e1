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
        found = try AcceleratorChoice.open(choice)
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
    let option = configuration.cpu?.text ?? "qemu64"
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

  private static func open(
    _ choice: AcceleratorConfiguration
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
      let cache = options.codeCacheMiB.map { Int($0) << 20 }
      return (TCGAccelerator(cacheBytes: cache), CPUCapabilities(tcgOn: .ofThisHost))
    }
  }
}

extension CPUTopology {
  init(_ smp: SMPConfiguration) {
    self.init(sockets: smp.sockets, dies: smp.dies, cores: smp.cores, threads: smp.threads)
  }
}
