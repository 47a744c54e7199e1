import Host
import Machine
import Options
package import QAPI

// schemas/run-state.json

extension MonitorCommands: @MainLoop RunStateCommands {
  package func queryStatus() throws(QAPIError) -> StatusInfo {
    if let preparation = context.preparation {
      return StatusInfo(
        running: false, singlestep: preparation.configuration.singleStep, status: .prelaunch)
    }
    let machine = try context.machine
    return StatusInfo(
      running: machine.isRunning, singlestep: machine.isSingleStepping, status: machine.state)
  }

  package func watchdogSetAction(action: WatchdogAction) throws(QAPIError) {
    Trace.write(.watchdogSetAction, "action=\(action.rawValue)")
    try setAction(reboot: nil, shutdown: nil, panic: nil, watchdog: action)
  }

  package func setAction(
    reboot: RebootAction?, shutdown: ShutdownAction?, panic: PanicAction?, watchdog: WatchdogAction?
  ) throws(QAPIError) {
    // The names are the same on the command line.
    try context.changeActions { actions in
      if let action = reboot.flatMap({ ActionConfiguration.Reboot(rawValue: $0.rawValue) }) {
        actions.reboot = action
      }
      if let action = shutdown.flatMap({ ActionConfiguration.Shutdown(rawValue: $0.rawValue) }) {
        actions.shutdown = action
      }
      if let action = panic.flatMap({ ActionConfiguration.Panic(rawValue: $0.rawValue) }) {
        actions.panic = action
      }
      if let action = watchdog.flatMap({ ActionConfiguration.Watchdog(rawValue: $0.rawValue) }) {
        actions.watchdog = action
      }
    }
  }
}
