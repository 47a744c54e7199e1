import Host
import QAPI

/// What arguments of several commands are completed with.
enum HMPCompleters {
  /// The first argument is one of some words.
  static func words(_ words: [String]) -> HMPCompleter {
    { _, request in request.position == 1 ? words : [] }
  }

  /// The second argument is on or off, the first what `first` offers.
  static func switched(_ first: @escaping HMPCompleter) -> HMPCompleter {
    { session, request in
      request.position == 2 ? ["off", "on"] : first(session, &request)
    }
  }

  /// The first argument is a character device.
  static let characterDevices: HMPCompleter = { session, request in
    guard request.position == 1 else { return [] }
    return ((try? session.commands.queryChardev()) ?? []).map(\.label)
  }

  /// The first argument is a character device that keeps its output in memory.
  static let ringBuffers: HMPCompleter = { session, request in
    guard request.position == 1 else { return [] }
    return ((try? session.commands.queryChardev()) ?? [])
      .filter { $0.filename == "ringbuf" || $0.filename == "memory" }.map(\.label)
  }

  /// The first argument describes a character device, kind first.
  static let characterDeviceKinds: HMPCompleter = { session, request in
    guard request.position == 1 else { return [] }
    return ((try? session.commands.queryChardevBackends()) ?? []).map(\.name)
  }
}
