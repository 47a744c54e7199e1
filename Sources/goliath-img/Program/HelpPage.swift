/// The pages that the program prints about itself, made from the tables that it works by.
package enum HelpPage {
  /// `--help`.
  package static var all: String {
    let width = Verb.all.map(\.name.utf8.count).max() ?? 0
    var text = """
      Usage: goliath-img [OPTION…] COMMAND [OPTION…] FILE…

      Makes, converts, checks and changes disk images that no machine has open.

      Options:
        -h, --help     this help; behind a command, that command's
        -V, --version  the version
        -T, --trace    accepted for compatibility
        --completion   a completion script for bash

      Commands:

      """
    for verb in Verb.all { text += "  \(padded(verb.name, width))  \(verb.summary)\n" }
    text += """

      Sizes are bytes; k, M, G, T, P and E stand for powers of 1024. Cache modes are writeback, writethrough,
      none, directsync and unsafe.

      Supported formats: \(formats.joined(separator: " "))

      """
    return text
  }

  /// Help about one command.
  package static func page(of verb: Verb) -> String {
    var text = "Usage: goliath-img \(verb.name) [OPTION…] \(verb.operands)\n\n"
    text += verb.summary.prefix(1).uppercased() + verb.summary.dropFirst() + ".\n\nOptions:\n"
    let entries = verb.options + [Common.help]
    let heads = entries.map { entry in
      let names = entry.names.joined(separator: ", ")
      let indented = entry.names[0].hasPrefix("--") ? "    " + names : names
      return indented
        + (entry.value.map { entry.isValueOptional ? "[=\($0)]" : " " + $0 } ?? "")
    }
    let width = heads.map(\.count).max() ?? 0
    for (head, entry) in zip(heads, entries) {
      text += "  \(padded(head, width))  \(entry.help)\n"
    }
    return text
  }

  /// `--completion`.
  package static var bashCompletion: String {
    var text = """
      # bash completion for goliath-img: source it, or put it into a folder of bash-completion
      _goliath_img() {
        local word=${COMP_WORDS[COMP_CWORD]} verb=${COMP_WORDS[1]}
        if ((COMP_CWORD == 1)); then
          COMPREPLY=($(compgen -W '\(Verb.all.map(\.name).joined(separator: " ")) --help --version' -- "$word"))
          return
        fi
        local words=
        case $verb in

      """
    for verb in Verb.all {
      let names = verb.options.flatMap(\.names).joined(separator: " ")
      text += "    \(verb.name)) words='\(names)' ;;\n"
    }
    text += """
        esac
        case $word in
          -*) COMPREPLY=($(compgen -W "$words" -- "$word")) ;;
          *) compopt -o filenames; COMPREPLY=($(compgen -f -- "$word")) ;;
        esac
      }
      complete -F _goliath_img goliath-img

      """
    return text
  }

  /// Drivers that an image may be opened or made with.
  static let formats = [
    "blkdebug", "file", "host_device", "null-aio", "null-co", "qcow2", "raw", "throttle",
  ]

  private static func padded(_ text: String, _ width: Int) -> String {
    text + String(repeating: " ", count: max(0, width - text.count))
  }
}
