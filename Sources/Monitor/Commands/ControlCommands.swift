import Host
import Machine
package import QAPI

// schemas/control.json

extension MonitorCommands: @MainLoop ControlCommands {
  package func qmpCapabilities(enable: [QMPCapability]?) throws(QAPIError) {
    guard let negotiation else {
      throw QAPIError(
        .commandNotFound, "Capabilities negotiation is already complete, command ignored")
    }
    try negotiation(enable ?? [])
  }

  package func queryVersion() throws(QAPIError) -> VersionInfo { .current }

  package func quit() throws(QAPIError) {
    if let preparation = context.preparation { return preparation.quit(.hostQmpQuit) }
    try context.machine.quit(.hostQmpQuit)
  }
}
