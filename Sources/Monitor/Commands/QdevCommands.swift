import DeviceModel
import Host
import Machine
package import QAPI

// schemas/qdev.json

extension MonitorCommands: @MainLoop QdevCommands {
  package func deviceListProperties(typename: String) throws(QAPIError) -> [ObjectPropertyInfo] {
    try TypeCatalog.standard.devicePropertyList(of: typename)
  }
}
