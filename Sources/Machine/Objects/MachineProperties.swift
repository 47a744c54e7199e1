import DeviceModel
import Host
import JSON
import Options
import QAPI

// The properties of /machine, as qom-list and qom-get show them.

extension Machine {
  var machineProperties: [ObjectProperty] {
    [
      .constant("kernel", "string", .string(configuration.boot.kernel ?? "")),
      .constant("initrd", "string", .string(configuration.boot.initrd ?? "")),
      .constant("append", "string", .string(configuration.boot.append ?? "")),
    ]
  }
}
