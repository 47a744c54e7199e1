import Host
package import QAPI

// schemas/block-core.json

extension MonitorCommands: @MainLoop BlockCoreCommands {
  // No device for disks exists, and nothing can be opened as one.

  package func queryBlock() throws(QAPIError) -> [BlockInfo] { [] }

  package func queryNamedBlockNodes(flat: Bool?) throws(QAPIError) -> [BlockDeviceInfo] { [] }
}
