package import CPU
package import Host
package import Machine
import QAPI

/// What the monitors of one process share: the machine, its events, and whose turn it is.
///
/// Monitors attach before the machine exists, so that clients are greeted early and the serial ports of
/// a multiplexed device get the focus; commands wait until `start`.
@MainLoop
package final class MonitorContext {
  /// Runs one line of the human monitor for `human-monitor-command`: line and CPU index in, what it
  /// prints out, lines ending in CR LF.
  package typealias HumanMonitor = @MainLoop (String, Int?) async -> String

  /// Where the machine's events go.
  package let events = EventBroadcaster()
  /// The human monitor behind `human-monitor-command`; the line is refused while there is none.
  package var humanMonitor: HumanMonitor?

  /// File descriptors that clients gave with `getfd`.
  package let descriptors = DescriptorTable()

  /// What the human monitors remember together.
  let humanMonitorDefaults = HMPDefaults()

  let dispatcher = QMPDispatcher()
  private var started: (machine: Machine, cpuCapabilities: CPUCapabilities)?
  private var waiters: [@MainLoop () -> Void] = []

  /// A context without a machine.
  package init() {}

  /// Gives the machine to the monitors, and with it what its accelerator can give to CPU models.
  /// Commands that wait run now.
  package func start(_ machine: Machine, cpuCapabilities: CPUCapabilities) {
    started = (machine, cpuCapabilities)
    let ready = waiters
    waiters = []
    for waiter in ready { waiter() }
    dispatcher.start()
  }

  /// Runs `body` when there is a machine: at once when there is one already.
  package func whenStarted(_ body: @escaping @MainLoop () -> Void) {
    if started == nil { waiters.append(body) } else { body() }
  }

  /// The machine that the commands act on. Throws while there is none.
  package var machine: Machine {
    get throws(QAPIError) {
      guard let started else { throw QAPIError("The machine is not initialized yet") }
      return started.machine
    }
  }

  /// What the accelerator can give to CPU models. Throws while there is no machine.
  var cpuCapabilities: CPUCapabilities {
    get throws(QAPIError) {
      guard let started else { throw QAPIError("The machine is not initialized yet") }
      return started.cpuCapabilities
    }
  }
}
