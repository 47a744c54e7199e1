/// The pages that the program prints about itself, made from the tables that it works by.
package enum Manual {
  /// `--help`.
  package static var help: [String] {
    var lines = [
      "Usage: goliath-shell [OPTION…] [NAME=]ADDRESS…",
      "",
      "A client of the monitors of Goliath and QEMU, for people and scripts. ADDRESS is the path of a",
      "Unix socket, HOST:PORT, or fd:NUMBER. Without -c and -f, lines come from standard input; on a",
      "terminal with editing, completion and history.",
      "",
      "Options:",
    ]
    lines += options
    lines += ["", "Exit status (of several, the greatest):"]
    lines += statuses
    lines += [
      "", "Examples:",
      "  goliath-shell /run/vm.qmp",
      "  goliath-shell /run/vm.qmp -c stop -c 'wait STOP timeout=5' -c query-status",
      "  goliath-shell -s status /run/vm.qmp -c query-status",
      "  goliath-shell a=/run/a.qmp b=/run/b.qmp -c '@a stop'",
      "  goliath-shell --hmp 127.0.0.1:1234 -c 'info status'",
      "  goliath-shell cluster top /run/vm.qmp   (cluster --help: machines on several nodes)",
    ]
    return lines
  }

  /// `--manual`.
  package static var manual: [String] {
    [
      "GOLIATH-SHELL(1)", "", "NAME", "  goliath-shell - client of QMP and human monitors", "",
      "SYNOPSIS", "  goliath-shell [OPTION…] [NAME=]ADDRESS…", "", "OPTIONS",
    ] + options + ["", "LINES"] + HelpPage.overview.map { $0.isEmpty ? "" : "  " + $0 }
      + ["", "EXIT STATUS"] + statuses + [
        "", "ENVIRONMENT",
        "  GOLIATH_SHELL   addresses to use when none is given, separated by blanks",
        "  NO_COLOR        no colours unless --color=always",
        "  XDG_STATE_HOME  where the history is (goliath/shell-history); ~/.local/state otherwise",
        "", "FILES",
        "  ~/.editrc       key bindings (editrc(5))",
      ]
  }

  /// `--completion bash`.
  package static var bashCompletion: [String] {
    let words = OptionEntry.all.flatMap(\.names).joined(separator: " ")
    let files = OptionEntry.all.filter { $0.value == "FILE" }.flatMap(\.names).joined(
      separator: "|")
    let free = OptionEntry.all.filter {
      $0.value != nil && $0.value != "FILE" && $0.value != "WHEN"
    }
    .flatMap(\.names).joined(separator: "|")
    return [
      "# bash completion for goliath-shell: source it, or put it into a folder of bash-completion",
      "_goliath_shell() {",
      "  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}",
      "  case $before in",
      "    \(files)) compopt -o filenames; COMPREPLY=($(compgen -f -- \"$word\")); return ;;",
      "    --color) COMPREPLY=($(compgen -W 'auto always never' -- \"$word\")); return ;;",
      "    \(free)) return ;;",
      "  esac",
      "  case $word in",
      "    -*) COMPREPLY=($(compgen -W '\(words)' -- \"$word\")) ;;",
      "    *) compopt -o filenames; COMPREPLY=($(compgen -f -- \"$word\")) ;;",
      "  esac",
      "}",
      "complete -F _goliath_shell goliath-shell",
    ]
  }

  // MARK: -

  private static var options: [String] {
    let heads = OptionEntry.all.map { entry in
      let names = entry.names.joined(separator: ", ")
      let indented = entry.names[0].hasPrefix("--") ? "    " + names : names
      return indented + (entry.value.map { " " + $0 } ?? "")
    }
    let width = heads.map(\.count).max() ?? 0
    return zip(heads, OptionEntry.all).map { head, entry in
      "  \(head)\(String(repeating: " ", count: width - head.count))  \(entry.help)"
    }
  }

  private static var statuses: [String] {
    ExitStatus.allCases.map { status in
      let number = String(status.rawValue)
      return "  \(String(repeating: " ", count: 3 - number.count))\(number)  \(status.meaning)"
    }
  }
}
