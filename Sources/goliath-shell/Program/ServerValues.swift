import JSON

/// Values of arguments that only the server knows, for completion.
struct ServerValues {
  private let session: Session

  init(_ session: Session) { self.session = session }

  /// The values for an argument of a command; none when nothing is known.
  func values(_ command: String, _ path: [String], _ typed: String) -> [String] {
    switch (command, path) {
    case ("chardev-remove", ["id"]), ("chardev-change", ["id"]), ("chardev-send-break", ["id"]),
      ("ringbuf-read", ["device"]), ("ringbuf-write", ["device"]):
      return texts("query-chardev", "*.label")
    case ("qom-list", ["path"]), ("qom-get", ["path"]), ("qom-set", ["path"]):
      return objects(typed)
    case ("qom-get", ["property"]), ("qom-set", ["property"]): return []
    case ("qom-list-properties", ["typename"]): return texts("qom-list-types", "*.name")
    case ("device-list-properties", ["typename"]):
      return texts("qom-list-types", "*.name", ["implements": "device"])
    case ("object-del", ["id"]):
      return session.ask("qom-list", ["path": "/objects"])?.arrayValue?
        .filter { $0["type"]?.stringValue?.hasPrefix("child<") ?? false }
        .compactMap { $0["name"]?.stringValue } ?? []
    case ("query-cpu-model-expansion", ["model", "name"]):
      return texts("query-cpu-definitions", "*.name")
    case ("trace-event-get-state", ["name"]), ("trace-event-set-state", ["name"]):
      return texts("trace-event-get-state", "*.name", ["name": "*"])
    default: return []
    }
  }

  private func texts(
    _ command: String, _ path: String, _ arguments: JSONObject = [:]
  ) -> [String] {
    guard let answer = session.ask(command, arguments) else { return [] }
    return (ValuePath(path).values(in: answer) ?? []).compactMap(\.stringValue).sorted()
  }

  /// The objects below the folder part of a QOM path.
  private func objects(_ typed: String) -> [String] {
    let folder = typed.lastIndex(of: "/").map { String(typed[...$0]) } ?? "/"
    let path = folder.count > 1 ? String(folder.dropLast()) : "/"
    guard let list = session.ask("qom-list", ["path": .string(path)])?.arrayValue else { return [] }
    return list.filter { entry in
      let type = entry["type"]?.stringValue ?? ""
      return type.hasPrefix("child<") || type.hasPrefix("link<")
    }.compactMap { $0["name"]?.stringValue.map { folder + $0 } }.sorted()
  }
}
