import Host
import JSON
import Options
import QAPI

/// Commands about objects.
extension HMPCommandTable {
  static let objectCommands = [
    HMPCommand(
      "object_add", "object:S", "[qom-type=]type,id=str[,prop=value][,...]",
      help: "make an object, described as for -object", early: true,
      completion: HMPCompleters.objectTypes
    ) { session, arguments throws(QAPIError) in
      switch try ObjectText.parse(arguments.text("object") ?? "") {
      case .listOfTypes(let lines): for line in lines { session.print(line + "\n") }
      case .propertiesOf(let type):
        session.print("\(type) options:\n")
        let properties = try session.commands.qomListProperties(typename: type)
        for property in properties.sorted(by: { $0.name < $1.name }) where property.name != "type" {
          session.print("  \(property.name)=<\(property.type)>\n")
        }
      case .object(let options):
        do throws(QAPIError) {
          try await session.commands.objectAdd(options)
        } catch {
          guard error.description == "Parameter 'id' expects an identifier" else { throw error }
          session.print(
            "Error: \(error.description)\nIdentifiers consist of letters, digits, '-', '.', '_',"
              + " starting with a letter.\n")
        }
      }
    },
    HMPCommand(
      "object_del", "id:s", "id", help: "remove an object that nothing uses", early: true,
      completion: HMPCompleters.objects
    ) { session, arguments throws(QAPIError) in
      try session.commands.objectDel(id: arguments.text("id") ?? "")
    },
    HMPCommand(
      "qom-list", "path:s?", "path", help: "show the properties of an object", .looks, early: true,
      completion: HMPCompleters.objectPaths
    ) { session, arguments throws(QAPIError) in
      guard let path = arguments.text("path") else {
        session.print("/\n")
        return
      }
      for property in try session.commands.qomList(path: path) {
        session.print("\(property.name) (\(property.type))\n")
      }
    },
    HMPCommand(
      "qom-get", "path:s,property:s", "path property", help: "show a property of an object",
      .looks, early: true, completion: HMPCompleters.objectProperties
    ) { session, arguments throws(QAPIError) in
      let value = try session.commands.qomGet(
        path: arguments.text("path") ?? "", property: arguments.text("property") ?? "")
      session.print(String(decoding: value.printed(pretty: true), as: UTF8.self) + "\n")
    },
    HMPCommand(
      "qom-set", "json:-j,path:s,property:s,value:S", "[-j] path property value",
      help: "change a property of an object (-j: the value is JSON)", early: true,
      completion: HMPCompleters.objectProperties
    ) { session, arguments throws(QAPIError) in
      let path = arguments.text("path") ?? ""
      let property = arguments.text("property") ?? ""
      let text = arguments.text("value") ?? ""
      let value: JSONValue
      if arguments.flag("json") {
        do throws(JSONError) { value = try JSONValue(parsing: text) } catch {
          throw QAPIError(error.text)
        }
      } else {
        let all = try session.commands.qomList(path: path)
        let type = all.first { $0.name == property }?.type ?? ""
        value = try ObjectText.value(text, of: property, type: type)
      }
      try session.commands.qomSet(path: path, property: property, value: value)
    },
  ]

  static let objectInfoCommands = [
    HMPCommand("iothreads", help: "show the I/O threads", .looks, early: true) {
      session, _ throws(QAPIError) in
      for thread in try session.commands.queryIothreads() {
        session.print(
          "\(thread.id):\n  thread_id=\(thread.threadId)\n  poll-max-ns=\(thread.pollMaxNs)\n"
            + "  poll-grow=\(thread.pollGrow)\n  poll-shrink=\(thread.pollShrink)\n"
            + "  aio-max-batch=\(thread.aioMaxBatch)\n")
      }
    },
    HMPCommand("memdev", help: "show the memory backends", .looks, early: true) {
      session, _ throws(QAPIError) in
      for backend in try session.commands.queryMemdev() { session.print(text(backend)) }
      session.print("\n")
    },
    HMPCommand("memory-devices", help: "show the memory devices", .looks) {
      session, _ throws(QAPIError) in
      for device in try session.commands.queryMemoryDevices() {
        session.print("Memory device [\(device.kind.rawValue)]\n")
      }
    },
    HMPCommand(
      "qom-tree", "path:s?", "[path]", help: "show the object tree, or the part below path",
      .looks, early: true, completion: HMPCompleters.objectPaths
    ) { session, arguments throws(QAPIError) in
      let path = arguments.text("path") ?? "/machine"
      guard let tree = tree(session, path) else {
        session.print("Path '\(path)' could not be resolved.\n")
        return
      }
      session.print(TreeText.objects(tree))
    },
  ]

  // MARK: -

  private static func text(_ backend: Memdev) -> String {
    var text = "memory backend: \(backend.id ?? "")\n  size:  \(backend.size)\n"
    text += "  merge: \(backend.merge)\n  dump: \(backend.dump)\n"
    text += "  prealloc: \(backend.prealloc)\n  share: \(backend.share)\n"
    if let reserve = backend.reserve { text += "  reserve: \(reserve)\n" }
    return text
      + "  policy: \(backend.policy.rawValue)\n  host nodes: \(ranges(backend.hostNodes))\n"
  }

  /// Numbers with runs as ranges: `0-2,5`.
  private static func ranges(_ numbers: [UInt16]) -> String {
    var runs: [ClosedRange<UInt16>] = []
    for number in numbers.sorted() {
      if let last = runs.last, last.upperBound &+ 1 == number {
        runs[runs.count - 1] = last.lowerBound...number
      } else if runs.last?.upperBound != number {
        runs.append(number...number)
      }
    }
    return runs.map { $0.count == 1 ? "\($0.lowerBound)" : "\($0.lowerBound)-\($0.upperBound)" }
      .joined(separator: ",")
  }

  /// Objects deeper than this, or more of them, are left out.
  private static let treeDepth = 32

  @MainLoop
  private static func tree(_ session: HMPSession, _ path: String) -> HMPObject? {
    guard case .string(let type)? = try? session.commands.qomGet(path: path, property: "type")
    else { return nil }
    // What a partial path or an alias stands for is named by its last part.
    let name = path.split(separator: "/").last.map(String.init) ?? ""
    return HMPObject(name: name, type: type, children: children(session, path, 0))
  }

  @MainLoop
  private static func children(
    _ session: HMPSession, _ path: String, _ depth: Int
  ) -> [HMPObject] {
    guard depth < treeDepth, let properties = try? session.commands.qomList(path: path) else {
      return []
    }
    return properties.compactMap { property in
      guard property.type.hasPrefix("child<"), property.type.hasSuffix(">") else { return nil }
      let below = path.hasSuffix("/") ? path + property.name : path + "/" + property.name
      return HMPObject(
        name: property.name, type: String(property.type.dropFirst(6).dropLast()),
        children: children(session, below, depth + 1))
    }
  }
}
