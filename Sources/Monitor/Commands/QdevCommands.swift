import DeviceModel
import Host
import Machine
package import QAPI

// schemas/qdev.json

extension MonitorCommands: @MainLoop QdevCommands {
  package func deviceListProperties(typename: String) throws(QAPIError) -> [ObjectPropertyInfo] {
    throw QAPIError(.deviceNotFound, "Device '\(typename)' not found")
  }
}
