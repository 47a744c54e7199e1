import Host
import Machine
package import QAPI

// schemas/acpi.json

extension MonitorCommands: @MainLoop AcpiCommands {
  package func queryAcpiOspmStatus() throws(QAPIError) -> [ACPIOSTInfo] {
    guard try context.machine.hasACPI else {
      throw QAPIError("command is not supported, missing ACPI device")
    }
    // The board has no slots that could be plugged into.
    return []
  }
}
