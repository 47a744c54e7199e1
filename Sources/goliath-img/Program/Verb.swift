/// A command of the tool: its options, its help, and what it does.
package struct Verb: Sendable {
  package let name: String
  /// One line of what it is for.
  package let summary: String
  /// What stands behind the options, as in `FILE [SIZE]`.
  package let operands: String
  package let options: [OptionEntry]
  /// Does it; the exit status.
  let run: @Sendable (Arguments) throws(ToolError) -> Int32

  /// All of them, in the order of the help.
  package static let all: [Verb] = [
    amend, bench, bitmap, check, commit, compare, convert, create, dd, info, map, measure, rebase,
    resize, snapshot,
  ]

  /// Persistent bitmaps are not written yet.
  private static let bitmap = Verb(
    name: "bitmap", summary: "change persistent bitmaps (not available yet)",
    operands: "FILE BITMAP", options: []
  ) { _ throws(ToolError) in
    throw ToolError("Persistent bitmaps are not supported yet")
  }
}

/// Options that several verbs have.
package enum Common {
  package static let object = OptionEntry(
    "--object", "OBJECT", "define an object first, such as secret,id=ID,data=TEXT")
  package static let imageOptions = OptionEntry(
    "--image-opts", nil, "FILE is a list of options: driver=qcow2,file.filename=PATH,…")
  package static let format = OptionEntry(
    "-f --format", "FORMAT", "the format of FILE; guessed from its first bytes when left out")
  package static let quiet = OptionEntry("-q --quiet", nil, "print nothing but errors")
  package static let share = OptionEntry(
    "-U --force-share", nil, "open even what another program writes to; what is read may be stale")
  package static let output = OptionEntry("--output", "FORM", "human or json")
  package static let progress = OptionEntry("-p", nil, "show how far it is")
  package static let progressForm = OptionEntry(
    "--progress", "FORM", "show how far it is as text or json, a line for each step",
    isValueOptional: true)
  package static let cache = OptionEntry(
    "-t --cache", "MODE",
    "how FILE is written: writeback, writethrough, none, directsync or unsafe")
  package static let help = OptionEntry("-h --help", nil, "this help")

  /// Whether `--output` asks for JSON.
  static func wantsJSON(_ arguments: Arguments) throws(ToolError) -> Bool {
    guard let form = arguments.value("output") else { return false }
    switch form {
    case "json": return true
    case "human": return false
    default: throw ToolError("--output must be used with human or json as argument.")
    }
  }

  /// The one image that a verb is about.
  static func file(_ arguments: Arguments) throws(ToolError) -> String {
    guard arguments.operands.count == 1 else { throw .usage("Expecting one image file name") }
    return arguments.operands[0]
  }
}
