import CPU
import DeviceModel
import Machine
import Options

/// What the `help` forms list: taken from the modules that know.
enum Catalog {
  static func make() -> HelpCatalog {
    var catalog = HelpCatalog(
      cpuHelp: { CPUModel.help },
      devices: {
        Machine.userDeviceTypes.map { type in
          HelpCatalog.Device(
            name: type.name, bus: type.bus, description: type.description,
            properties: type.properties.map {
              HelpCatalog.Property(
                name: $0.name, type: $0.type, description: $0.description,
                defaultValue: $0.defaultValue?.description)
            })
        }
      },
      dataDirectories: BootFile.firmwareDirectories)
    catalog.objectProperties = { type in
      TypeCatalog.standard.settableProperties(of: type).map {
        HelpCatalog.Property(name: $0.name, type: $0.type)
      }
    }
    return catalog
  }
}
