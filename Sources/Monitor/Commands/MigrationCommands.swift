import Host
package import QAPI

// schemas/migration.json

extension MonitorCommands: @MainLoop MigrationCommands {
  package func migrateSetCapabilities(
    capabilities: [MigrationCapabilityStatus]
  ) throws(QAPIError) {
    // All or nothing, as QEMU does it.
    for item in capabilities where item.state && item.capability != .events {
      throw QAPIError("Migration capability '\(item.capability.rawValue)' is not supported")
    }
    for item in capabilities where item.capability == .events {
      context.sendsMigrationEvents = item.state
    }
  }

  package func queryMigrateCapabilities() throws(QAPIError) -> [MigrationCapabilityStatus] {
    [MigrationCapabilityStatus(capability: .events, state: context.sendsMigrationEvents)]
  }
}
