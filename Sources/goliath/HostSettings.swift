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
    let tracing: [LogItems] = log.traces.isEmpty ? [] : [.trace]
    do {
      try Log.open(LogItems(items + tracing), file: log.file)
    } catch {
      throw OptionOrigin(option: "-D", argument: log.file).failure(error.message)
    }
    for trace in log.traces {
      for pattern in try patterns(of: trace) where !pattern.apply() {
        Log.warning("trace event '\(pattern.pattern)' does not exist")
      }
    }
  }

  private static func patterns(of trace: TraceRequest) throws(OptionError) -> [TracePattern] {
    switch trace.source {
    case .pattern(let text): return [TracePattern(text)]
    case .file(let path):
      do throws(SystemError) {
        let bytes = try FileDescriptor.contents(of: path, limit: 1 << 20)
        return TracePattern.lines(of: String(decoding: bytes, as: UTF8.self))
      } catch {
        throw trace.origin.failure("could not open trace events file '\(path)': \(error.reason)")
      }
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
