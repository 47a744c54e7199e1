import DeviceModel
import Host
import Machine
import Options
package import QAPI

// schemas/process.json

extension MonitorCommands: @MainLoop ProcessCommands {
  package func queryIothreads() throws(QAPIError) -> [IOThreadInfo] {
    context.objects.all(IOThreadObject.self).map { id, thread in
      IOThreadInfo(
        id: id, threadId: thread.threadID, pollMaxNs: thread.pollMaximum,
        pollGrow: thread.pollGrow, pollShrink: thread.pollShrink,
        aioMaxBatch: thread.maximumBatch)
    }
  }

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
