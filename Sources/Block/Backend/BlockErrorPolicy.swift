import Glibc

/// What is done about a request that failed (`rerror`, `werror`).
package enum BlockErrorPolicy: String, Sendable, CaseIterable {
  case report, ignore, stop
  /// Stops when the host's disk is full, else reports.
  case enospc

  /// What it means for an error.
  package func action(for code: Int32) -> BlockErrorAction {
    switch self {
    case .report: .report
    case .ignore: .ignore
    case .stop: .stop
    case .enospc: code == ENOSPC ? .stop : .report
    }
  }
}

/// What is done about one failure.
package enum BlockErrorAction: String, Sendable {
  /// The guest hears of it.
  case report
  /// The guest is told that all is well.
  case ignore
  /// The machine stops; the request is tried anew when it goes on.
  case stop
}

/// A failure, for the event BLOCK_IO_ERROR.
package struct BlockIOError: Sendable {
  /// The backend's name; empty for none.
  package let device: String
  package let nodeName: String?
  package let isRead: Bool
  package let action: BlockErrorAction
  package let error: BlockError
  package var isNoSpace: Bool { error.code == ENOSPC }
}

/// The state of a device that stops on errors (`io-status`).
package enum BlockIOStatus: String, Sendable {
  case ok
  case failed
  case noSpace = "nospace"
}
