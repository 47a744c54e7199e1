import CPU
import Machine
import Options

/// What the `help` forms list: taken from the modules that know.
enum Catalog {
  static func make() -> HelpCatalog {
    var catalog = HelpCatalog(
      cpuHelp: { CPUModel.help },
      devices: { Machine.deviceCatalog },
      dataDirectories: BootFile.firmwareDirectories)
    catalog.objectProperties = { type in
      TypeCatalog.standard.settableProperties(of: type).map {
        HelpCatalog.Property(name: $0.name, type: $0.type)
      }
    }
    return catalog
  }
}
