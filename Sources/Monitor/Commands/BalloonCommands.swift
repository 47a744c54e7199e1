import Host
import Machine
package import QAPI
import Virtio

// schemas/balloon.json

extension MonitorCommands: @MainLoop BalloonCommands {
  package func balloon(value: Int) throws(QAPIError) {
    guard let balloon = try context.machine.balloon else { throw Self.noBalloon }
    guard value > 0 else { throw .expects("target", "a size") }
    balloon.setTarget(UInt64(value))
  }

  package func queryBalloon() throws(QAPIError) -> BalloonInfo {
    guard let balloon = try context.machine.balloon else { throw Self.noBalloon }
    return BalloonInfo(actual: Int(clamping: balloon.actualSize))
  }

  private static var noBalloon: QAPIError {
    QAPIError(.deviceNotActive, "No balloon device has been activated")
  }
}
