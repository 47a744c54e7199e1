import Host
import Options
package import QAPI

// schemas/process.json

extension MonitorCommands: @MainLoop ProcessCommands {
  /// There are no I/O threads.
  package func queryIothreads() throws(QAPIError) -> [IOThreadInfo] { [] }

  package func queryCommandLineOptions(option: String?) throws(QAPIError)
    -> [CommandLineOptionInfo]
  {
    let all = OptionCatalog.list
    guard let option else { return all }
    let found = all.filter { $0.option == option }
    guard !found.isEmpty else { throw QAPIError("invalid option name: \(option)") }
    return found
  }
}
