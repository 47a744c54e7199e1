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
  /// Who runs the commands; nil where it is nobody at a monitor of their own.
  let client: MonitorClient?
  /// Takes the descriptor that came with the request; nil where none can come.
  let takeDescriptor: (@MainLoop () -> Int32?)?

  /// Commands for a client that is no QMP connection.
  package convenience init(_ context: MonitorContext) {
    self.init(context, client: nil, takeDescriptor: nil, negotiation: nil)
  }

  init(
    _ context: MonitorContext, client: MonitorClient?, takeDescriptor: (@MainLoop () -> Int32?)?,
    negotiation: Negotiation?
  ) {
    self.client = client
    self.takeDescriptor = takeDescriptor
    self.context = context
    self.negotiation = negotiation
  }
}

extension MonitorCommands: @MainLoop CommandHandlers {}

extension MonitorCommands: OutOfBandHandlers {}
