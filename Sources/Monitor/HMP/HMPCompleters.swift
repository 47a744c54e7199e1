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

  // MARK: - Objects

  /// The first argument describes an object, type first.
  static let objectTypes: HMPCompleter = { _, request in
    request.position == 1 ? ObjectType.allCases.map(\.rawValue) : []
  }

  /// The first argument is an object that a user made.
  static let objects: HMPCompleter = { session, request in
    request.position == 1 ? children(session, "/objects").map(\.name) : []
  }

  /// The first argument is the path of an object; what has objects below it ends with a slash, as folders do.
  static let objectPaths: HMPCompleter = { session, request in
    request.position == 1 ? paths(session, request.word) : []
  }

  /// The first argument is the path of an object, the second a property of it. Flags may stand before.
  static let objectProperties: HMPCompleter = { session, request in
    let words = request.before.drop { $0.hasPrefix("-") }
    if words.isEmpty { return paths(session, request.word) }
    guard words.count == 1, let path = words.first else { return [] }
    let properties = (try? session.commands.qomList(path: path)) ?? []
    return properties.filter { !$0.type.hasPrefix("child<") }.map(\.name)
  }

  @MainLoop
  private static func paths(_ session: HMPSession, _ word: String) -> [String] {
    guard let slash = word.lastIndex(of: "/") else { return ["/"] }
    let folder = String(word[...slash])
    return children(session, folder).map { child in
      let path = folder + child.name
      return children(session, path).isEmpty ? path : path + "/"
    }
  }

  @MainLoop
  private static func children(_ session: HMPSession, _ path: String) -> [ObjectPropertyInfo] {
    let all = (try? session.commands.qomList(path: path)) ?? []
    return all.filter { $0.type.hasPrefix("child<") }
  }
}
