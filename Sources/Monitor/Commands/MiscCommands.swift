import Host
import Machine
import Options
package import QAPI

// schemas/misc.json

extension MonitorCommands: @MainLoop MiscCommands {
  package func queryName() throws(QAPIError) -> NameInfo {
    NameInfo(name: try context.configuration.name.guest)
  }

  package func stop() throws(QAPIError) {
    try refuseDuringDump()
    try context.machine.stop()
  }

  /// The guest's memory must stand still while it is written.
  private func refuseDuringDump() throws(QAPIError) {
    if try context.machine.dumps.isActive {
      throw QAPIError("There is a dump in process, please wait.")
    }
  }

  package func cont() throws(QAPIError) {
    try refuseDuringDump()
    let machine = try context.machine
    do throws(RunControlError) { try machine.resume() } catch {
      throw QAPIError(error.message)
    }
  }

  package func xExitPreconfig() throws(QAPIError) { try context.exitPreconfig() }

  package func getfd(fdname: String) throws(QAPIError) {
    guard let descriptor = takeDescriptor?() else {
      throw QAPIError("No file descriptor supplied via SCM_RIGHTS")
    }
    if fdname.utf8.first.map({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }) == true {
      FileDescriptor(owning: descriptor).close()
      throw .expects("fdname", "a name not starting with a digit")
    }
    context.descriptors.keep(descriptor, as: fdname)
  }

  package func closefd(fdname: String) throws(QAPIError) {
    guard let descriptor = context.descriptors.take(fdname) else {
      throw QAPIError("File descriptor named '\(fdname)' not found")
    }
    FileDescriptor(owning: descriptor).close()
  }

  @MainLoop
  package func humanMonitorCommand(
    commandLine: String, cpuIndex: Int?
  ) async throws(QAPIError) -> String {
    if let cpuIndex { _ = try vcpu(cpuIndex) }
    guard let humanMonitor = context.humanMonitor else {
      throw QAPIError("The human monitor is not available")
    }
    return await humanMonitor(commandLine, cpuIndex)
  }
}
