import Host
import QAPI

/// One command of the human monitor.
struct HMPCommand: Sendable {
  /// What a command may do; monitors with limited access run only those that look.
  enum Access: Sendable {
    /// Tells something and changes nothing, neither in the guest nor on the host.
    case looks
    case changes
  }

  /// May wait; the monitor takes no further line until it has ended.
  typealias Body = @MainLoop @Sendable (HMPSession, HMPArguments) async throws(QAPIError) -> Void

  /// The name and its aliases.
  let names: [String]
  let parameters: [HMPParameter]
  /// The parameters as `help` shows them.
  let syntax: String
  /// One sentence for `help`.
  let help: String
  let access: Access
  /// Works before there is a machine (`-preconfig`).
  let isEarly: Bool
  /// What TAB offers for arguments; nil: names of files where one is expected.
  let completion: HMPCompleter?
  let subcommands: [HMPCommand]
  let run: Body

  init(
    _ names: String, _ specification: String = "", _ syntax: String = "", help: String,
    _ access: Access = .changes, early isEarly: Bool = false,
    completion: HMPCompleter? = nil, subcommands: [HMPCommand] = [],
    run: @escaping Body
  ) {
    self.names = names.split(separator: "|").map(String.init)
    parameters = HMPParameter.list(specification)
    self.syntax = syntax
    self.help = help
    self.access = access
    self.isEarly = isEarly
    self.completion = completion
    self.subcommands = subcommands
    self.run = run
  }

  /// The line of `help`.
  func helpLine(prefix: String = "") -> String {
    "\(prefix)\(names.joined(separator: "|")) \(syntax) -- \(help)\n"
  }
}
