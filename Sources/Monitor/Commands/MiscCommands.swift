import Host
import Machine
import Options
package import QAPI

// schemas/misc.json

extension MonitorCommands: @MainLoop MiscCommands {
  package func queryName() throws(QAPIError) -> NameInfo {
    NameInfo(name: try context.machine.configuration.name.guest)
  }

  package func stop() throws(QAPIError) { try context.machine.stop() }

  package func cont() throws(QAPIError) {
    let machine = try context.machine
    do throws(RunControlError) { try machine.resume() } catch {
      throw QAPIError(error.message)
    }
  }

  package func humanMonitorCommand(
    commandLine: String, cpuIndex: Int?
  ) throws(QAPIError) -> String {
    if let cpuIndex { _ = try vcpu(cpuIndex) }
    guard let humanMonitor = context.humanMonitor else {
      throw QAPIError("The human monitor is not available")
    }
    return humanMonitor(commandLine, cpuIndex)
  }
}
