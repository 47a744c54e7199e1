package import CPU
package import Host
package import Machine
import QAPI

/// What the monitors of one process share: the machine, its events, and whose turn it is.
@MainLoop
package final class MonitorContext {
  /// Runs one line of the human monitor for `human-monitor-command`: line and CPU index in, what it
  /// prints out, lines ending in CR LF.
  package typealias HumanMonitor = @MainLoop (String, Int?) -> String

  /// The machine that the commands act on.
  package let machine: Machine
  /// Where the machine's events go.
  package let events: EventBroadcaster
  /// What the accelerator can give to CPU models, for `query-cpu-definitions`.
  package let cpuCapabilities: CPUCapabilities
  /// The human monitor behind `human-monitor-command`; the line is refused while there is none.
  package var humanMonitor: HumanMonitor?

  let dispatcher = QMPDispatcher()

  /// A context of a machine whose events already go to `events`.
  package init(machine: Machine, events: EventBroadcaster, cpuCapabilities: CPUCapabilities) {
    self.machine = machine
    self.events = events
    self.cpuCapabilities = cpuCapabilities
  }
}
