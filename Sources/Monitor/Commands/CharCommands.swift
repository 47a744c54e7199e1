import Chardev
import Host
import Machine
package import QAPI

// schemas/char.json

extension MonitorCommands: @MainLoop CharCommands {
  package func queryChardev() throws(QAPIError) -> [ChardevInfo] {
    try context.machine.chardevs.list.map { device in
      ChardevInfo(
        label: device.label, filename: device.filename, frontendOpen: device.isFrontendOpen)
    }
  }
}
