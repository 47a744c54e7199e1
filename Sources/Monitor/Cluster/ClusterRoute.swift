import Host
import QAPI

/// Which node runs a command that a client gives to any of them.
enum ClusterRoute {
  /// Commands that are about the asked node: its monitors, its process and descriptors, what it alone knows, and what is the same
  /// everywhere. All others are about the machine and run on node 0, which has the devices and the run state.
  static let local: Set<Command> = [
    .qmpCapabilities, .queryVersion, .queryCommands, .queryQmpSchema, .queryCommandLineOptions,
    .queryName, .queryUuid, .queryTarget, .queryMachines, .queryKvm, .queryCurrentMachine,
    .queryCpuDefinitions, .queryCpuModelExpansion, .queryHotpluggableCpus, .queryCpusFast,
    .queryStats, .queryStatsSchemas, .xQueryJit, .xQueryOpcount,
    .humanMonitorCommand, .getfd, .closefd, .addFd, .removeFd, .queryFdsets,
    .queryChardev, .queryChardevBackends, .chardevAdd, .chardevChange, .chardevRemove,
    .chardevSendBreak, .ringbufRead, .ringbufWrite,
    .traceEventGetState, .traceEventSetState,
    .xEventsSince, .xWaitEvent, .xCommandsInFlight, .xSchema,
    .queryCluster, .queryDsm, .queryDsmHotPages, .clusterExecute, .clusterContinue,
    // It asks node 0 by itself: an answer from there could come after the end.
    .quit,
  ]

  /// Events about the whole machine. Node 0 tells all monitors of them; the machines of other nodes, which follow it, do not.
  static let machineWide: Set<String> = [
    "POWERDOWN", "RESET", "STOP", "RESUME", "SUSPEND", "SUSPEND_DISK", "WAKEUP", "WATCHDOG",
    "GUEST_PANICKED", "GUEST_CRASHLOADED", "RTC_CHANGE",
  ]

  /// Whether the monitors of the other nodes are told of an event: not of the end, nor of what else each node sees for itself, nor of
  /// what concerns one client.
  static func isShared(_ event: String) -> Bool {
    event != "SHUTDOWN" && !event.hasPrefix("CLUSTER_") && !event.hasPrefix("X_")
  }

  /// Where a line of the human monitor runs.
  enum Human: Equatable {
    case here
    /// On the node that runs the current vCPU.
    case vcpu
    case node0
  }

  /// Names of commands, and of those of `info` behind `info `.
  static func human(_ name: String) -> Human {
    switch name {
    case "help", "quit", "cpu", "log", "logfile", "trace-event", "getfd", "closefd", "chardev-add",
      "chardev-change", "chardev-remove", "chardev-send-break", "ringbuf_read", "ringbuf_write",
      "cluster_continue", "info", "info cluster", "info dsm", "info dsm-hot", "info version",
      "info history", "info name", "info uuid", "info chardev", "info cpus", "info kvm", "info jit",
      "info opcount", "info trace-events", "info hotpluggable-cpus", "info stats":
      .here
    case "info registers", "info lapic", "info mem", "info tlb", "x", "print", "gva2gpa",
      "memsave", "singlestep":
      .vcpu
    default: .node0
    }
  }
}
