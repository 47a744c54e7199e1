import Devices
import Host
import Machine
package import QAPI

// schemas/misc-target.json

extension MonitorCommands: @MainLoop MiscTargetCommands {
  package func rtcResetReinjection() throws(QAPIError) {
    for placed in try context.machine.devices { (placed.device as? RTC)?.dropMissedTicks() }
  }
}
