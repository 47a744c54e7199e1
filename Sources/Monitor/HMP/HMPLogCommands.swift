import Host
import Options
import QAPI

/// `log` and `logfile`: what `-d` and `-D` ask for, while the program runs.
extension HMPCommandTable {
  static let logCommands = [
    HMPCommand(
      "log", "items:s", "item1[,...]", help: "choose what is logged ('help' lists the items)",
      completion: logItems
    ) { session, arguments in
      let text = arguments.text("items") ?? ""
      var items: LogItems = []
      for word in text.split(separator: ",") where word != "none" {
        let known = HelpCatalog.standardLogItems
        guard known.contains(where: { $0.name == word }), let item = LogItems(name: String(word))
        else {
          session.print("Log items (comma separated):\n")
          for item in known {
            session.print("\(TextForm.left(item.name, 15)) \(item.description)\n")
          }
          return
        }
        items.insert(item)
      }
      do throws(LogError) { try Log.open(items, file: waitingLogFile) } catch {
        session.print("\(error.message)\n")
        return
      }
      session.machine.logChanged()
      if !items.isEmpty { waitingLogFile = nil }
    },
    HMPCommand(
      "logfile", "filename:F", "filename", help: "write the log to 'filename'"
    ) { session, arguments in
      // Opened when there is something to log.
      waitingLogFile = arguments.text("filename")
      guard !Log.items.isEmpty else { return }
      do throws(LogError) {
        try Log.open(Log.items, file: waitingLogFile)
        waitingLogFile = nil
      } catch { session.print("\(error.message)\n") }
    },
  ]

  /// Items are joined with commas: the last one is completed.
  private static let logItems: HMPCompleter = { _, request in
    guard request.position == 1 else { return [] }
    if let comma = request.word.lastIndex(of: ",") {
      request.word = String(request.word[request.word.index(after: comma)...])
    }
    return ["none"] + HelpCatalog.standardLogItems.map(\.name)
  }

  @MainLoop private static var waitingLogFile: String?
}
