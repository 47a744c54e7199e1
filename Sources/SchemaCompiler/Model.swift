import JSON

/// The schemas as the emitters see them: QAPI's notions, with all references resolved by name.
struct API {
  /// Schema files in the order of `goliath.json`.
  var files: [SchemaFile] = []
  /// Every definition of every file by name.
  var definitions: [String: Definition] = [:]

  func members(of type: String) -> [Member] {
    guard case .structure(let structure)? = definitions[type]?.kind else { return [] }
    return structure.bases.flatMap { members(of: $0) } + structure.members
  }
}

/// One file of `schemas/`.
struct SchemaFile {
  /// `run-state.json`.
  var name: String
  var title: String
  var description: String
  var definitions: [Definition] = []
  var commands: [Command] = []
  var events: [Event] = []

  /// `RunState`.
  var stem: String {
    name.dropLast(".json".count).split(separator: "-")
      .map { $0.prefix(1).uppercased() + $0.dropFirst() }.joined()
  }
}

/// A type of the API.
struct Definition {
  enum Kind {
    case enumeration([EnumValue])
    case structure(Structure)
    case union(Union)
    case alternate([AlternateCase])
  }

  var name: String
  var description: String
  var since: String
  var features: [Feature]
  var kind: Kind
  /// The entry as it stands in the file.
  var source: JSONValue
}

struct EnumValue {
  var name: String
  var description: String
  var features: [Feature]
}

struct Structure {
  var bases: [String]
  var members: [Member]
}

/// An object in which the value of `tag` decides what else it holds.
struct Union {
  /// Common members, the tag among them.
  var allMembers: [Member]
  var tag: Member
  var branches: [Branch]

  /// Common members without the tag.
  var members: [Member] { allMembers.filter { $0.name != tag.name } }
}

struct Branch {
  enum Content {
    /// Nothing but the common members.
    case empty
    /// The members of a struct, beside the common ones.
    case flat(String)
    /// One member `data`.
    case data(Member)
  }

  var value: String
  var content: Content
}

struct AlternateCase {
  var type: TypeReference
}

struct Member {
  var name: String
  var type: TypeReference
  var isOptional: Bool
  var description: String
  var features: [Feature]
}

struct Feature {
  var name: String
  var description: String
}

struct Command {
  enum Arguments {
    case members([Member])
    case type(String)
  }

  var name: String
  var description: String
  var since: String
  var arguments: Arguments
  var returns: TypeReference?
  var returnsDescription: String
  var features: [Feature]
  var flags: Set<String>
  /// The answer is a constant of the build: `schema` or `commands`.
  var constant: String?
  var examples: [Example]
  /// The entry as it stands in the file.
  var source: JSONValue

  /// Its handler is `async`.
  var isAsynchronous: Bool { flags.contains("coroutine") }
  /// Its handler runs on any thread.
  var isOutOfBand: Bool { flags.contains("allow-oob") }

  /// Its handler gets the members as they came, since they are not all known here.
  var takesRawArguments: Bool { flags.contains("raw-arguments") }

  /// The Swift declaration of its handler.
  var requirement: String {
    let parameters =
      switch arguments {
      case _ where takesRawArguments: "_ arguments: JSONObject"
      case .type(let name): "_ arguments: \(name)"
      case .members(let members):
        members.map { member in
          "\(Names.declared(member.name)): \(Names.type(member.type))"
            + (member.isOptional ? "?" : "")
        }.joined(separator: ", ")
      }
    return "func \(Names.declared(name))(\(parameters)) \(isAsynchronous ? "async " : "")"
      + "throws(QAPIError)" + (returns.map { " -> " + Names.type($0) } ?? "")
  }
}

struct Example {
  var description: String
  var request: String
  var reply: String
}

struct Event {
  var name: String
  var description: String
  var since: String
  var members: [Member]
  var features: [Feature]
  var throttle: (milliseconds: Int, key: String?)?
  /// The entry as it stands in the file.
  var source: JSONValue
}

/// A use of a type.
indirect enum TypeReference: Equatable {
  /// `string`, `boolean`, `number`, `null`, `any`, or an integer format: `int`, `int8` … `uint64`, `size`.
  case builtin(String)
  case named(String)
  case array(TypeReference)
}

/// A fault in a schema file; ends the build.
struct SchemaError: Error, CustomStringConvertible {
  var description: String
}
