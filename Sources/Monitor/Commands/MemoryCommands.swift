import DeviceModel
import Host
import Machine
package import QAPI

// schemas/memory.json

extension MonitorCommands: @MainLoop MemoryCommands {
  package func queryMemdev() throws(QAPIError) -> [Memdev] {
    context.objects.all(MemoryBackend.self).map(\.object.info)
  }

  /// There are no memory devices.
  package func queryMemoryDevices() throws(QAPIError) -> [MemoryDeviceInfo] { [] }
}
