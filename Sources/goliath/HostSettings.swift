import Host
import Options

/// What the command line asks of the host for this process: log, memory lock, sandbox.
enum HostSettings {
  /// Applies everything, before the first thread is made. Throws naming the option that the host does not allow.
  static func apply(_ configuration: LaunchConfiguration) throws(OptionError) {
    try openLog(configuration.log)
    if configuration.overcommit.lockMemory {
      do {
        try ProcessMemory.lock()
      } catch {
        throw OptionOrigin(option: "-overcommit", argument: "mem-lock=on").failure(
          "locking memory failed: \(error)")
      }
    }
    if let sandbox = configuration.process.sandbox {
      do {
        try Sandbox(sandbox).install()
      } catch {
        throw OptionOrigin(option: "-sandbox", argument: "on").failure(
          "failed to install seccomp syscall filter in the kernel: \(error)")
      }
    }
  }

  private static func openLog(_ log: LogConfiguration) throws(OptionError) {
    let items = log.items.compactMap { LogItems(name: $0) }
    Log.addressRanges = log.ranges
    do {
      try Log.open(LogItems(items), file: log.file)
    } catch {
      throw OptionOrigin(option: "-D", argument: log.file).failure(error.message)
    }
  }
}

extension Sandbox {
  /// What `-sandbox` asks for. `elevateprivileges=children` needs nothing more: no program started by a filtered process gains any.
  init(_ options: SandboxConfiguration) {
    var denied: Group = []
    if options.deniesObsolete { denied.insert(.obsolete) }
    if options.elevatePrivileges == .deny { denied.insert(.privileges) }
    if options.deniesSpawn { denied.insert(.spawn) }
    if options.deniesResourceControl { denied.insert(.resourceControl) }
    self.init(denying: denied)
  }
}
