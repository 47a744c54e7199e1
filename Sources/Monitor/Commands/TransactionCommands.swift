import Block
import Host
package import QAPI

// schemas/transaction.json

extension MonitorCommands: @MainLoop TransactionCommands {
  @MainLoop
  package func transaction(
    actions: [TransactionAction], properties: TransactionProperties?
  ) async throws(QAPIError) {
    if properties?.completionMode == .grouped {
      // What is here has no job whose end could be grouped.
      for action in actions {
        guard action.kind != .abort else { continue }
        throw QAPIError(
          "Action '\(action.kind.rawValue)' does not support transaction property"
            + " completion-mode = grouped")
      }
    }
    let clock = guestClock
    _ = try await changingBlocks { (graph) throws(BlockError) in
      try BlockTransaction.run(actions, in: graph, vmClock: clock)
    }
  }
}
