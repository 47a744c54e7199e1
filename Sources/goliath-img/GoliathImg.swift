import Glibc
import Host
import QAPI

/// Command line in, exit status out.
@main
enum GoliathImg {
  nonisolated static func main() {
    _ = signal(SIGPIPE, SIG_IGN)
    // Each thread would reserve 64 MiB of address space for its allocations.
    ProcessMemory.limitArenas(2)
    do throws(ToolError) {
      exit(try run(Array(CommandLine.arguments.dropFirst())))
    } catch {
      Standard.complain(error)
      exit(error.status)
    }
  }

  static func run(_ words: [String]) throws(ToolError) -> Int32 {
    var rest = words[...]
    while let word = rest.first, word.hasPrefix("-") {
      rest.removeFirst()
      switch word {
      case "-h", "--help":
        Standard.write(Array(HelpPage.all.utf8), to: 1)
        return 0
      case "-V", "--version":
        Standard.print(version)
        return 0
      case "--completion":
        Standard.write(Array(HelpPage.bashCompletion.utf8), to: 1)
        return 0
      case "-T", "--trace":
        guard rest.popFirst() != nil else {
          throw .usage("missing argument for option '\(word)'")
        }
      default:
        if word.hasPrefix("--trace=") { continue }
        throw .usage("unrecognized option '\(word)'")
      }
    }
    guard let name = rest.popFirst() else { throw .usage("Not enough arguments") }
    guard let verb = Verb.all.first(where: { $0.name == name }) else {
      throw .usage("Command not found: \(name)")
    }
    // A size of `resize` may begin with a hyphen.
    let isSize = name == "resize" && rest.count > 1
    let last = isSize ? rest.popLast() : nil
    var arguments = try Arguments(Array(rest), verb.options + [Common.help])
    if let last { arguments.operands.append(last) }
    if arguments.has("h") {
      Standard.write(Array(HelpPage.page(of: verb).utf8), to: 1)
      return 0
    }
    for text in arguments.values("object") { try ObjectDefinition.check(text) }
    return try verb.run(arguments)
  }

  private static let version =
    "goliath-img version \(VersionInfo.current.qemu.text) (\(VersionInfo.current.package))"
}
