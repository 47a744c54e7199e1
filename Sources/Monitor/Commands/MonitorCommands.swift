package import Host
import QAPI

/// The commands of the monitor API, as one monitor's client runs them: the QMP dispatch calls these
/// methods, and so does the human monitor. One extension for each schema file.
@MainLoop
package final class MonitorCommands {
  typealias Negotiation = @MainLoop ([QMPCapability]) throws(QAPIError) -> Void

  let context: MonitorContext
  /// Ends the connection's negotiation; nil where there is none.
  let negotiation: Negotiation?

  /// Commands for a client that is no QMP connection.
  package convenience init(_ context: MonitorContext) { self.init(context, negotiation: nil) }

  init(_ context: MonitorContext, negotiation: Negotiation?) {
    self.context = context
    self.negotiation = negotiation
  }
}

extension MonitorCommands: @MainLoop CommandHandlers {}
