import Chardev
import Host
import Machine
import Options
package import QAPI

// schemas/misc.json

extension MonitorCommands: @MainLoop MiscCommands {
  package func queryName() throws(QAPIError) -> NameInfo {
    NameInfo(name: try context.configuration.name.guest)
  }

  @MainLoop package func stop() async throws(QAPIError) {
    try refuseDuringDump()
    let machine = try context.machine
    machine.stop()
    if let reason = await machine.settle() { throw QAPIError(reason) }
  }

  /// The guest's memory must stand still while it is written.
  private func refuseDuringDump() throws(QAPIError) {
    if try context.machine.dumps.isActive {
      throw QAPIError("There is a dump in process, please wait.")
    }
  }

  @MainLoop package func cont() async throws(QAPIError) {
    try refuseDuringDump()
    let machine = try context.machine
    do throws(RunControlError) { try machine.resume() } catch {
      throw QAPIError(error.message)
    }
    if let reason = await machine.settle() { throw QAPIError(reason) }
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

  package func addFd(fdsetId: Int?, opaque: String?) throws(QAPIError) -> AddfdInfo {
    guard let descriptor = takeDescriptor?() else {
      throw QAPIError("No file descriptor supplied via SCM_RIGHTS")
    }
    let owned = FileDescriptor(owning: descriptor)
    if let fdsetId, fdsetId < 0 { throw .expects("fdset-id", "a non-negative value") }
    let set = DescriptorSets.shared.add(owned, to: fdsetId.map(Int64.init), note: opaque)
    return AddfdInfo(fdsetId: Int(set), fd: Int(descriptor))
  }

  package func removeFd(fdsetId: Int, fd: Int?) throws(QAPIError) {
    guard DescriptorSets.shared.remove(set: Int64(fdsetId), descriptor: fd.map(Int64.init)) else {
      let name = "fdset-id:\(fdsetId)" + (fd.map { ", fd:\($0)" } ?? "")
      throw QAPIError("File descriptor named '\(name)' not found")
    }
  }

  package func queryFdsets() throws(QAPIError) -> [FdsetInfo] {
    DescriptorSets.shared.list.map { set in
      FdsetInfo(
        fdsetId: Int(set.id),
        fds: set.members.map { FdsetFdInfo(fd: Int($0.descriptor), opaque: $0.note) })
    }
  }

  package func addClient(
    protocol name: String, fdname: String, skipauth: Bool?, tls: Bool?
  ) throws(QAPIError) {
    guard let descriptor = context.descriptors.take(fdname) else {
      throw QAPIError("File descriptor named '\(fdname)' has not been found")
    }
    let socket = FileDescriptor(owning: descriptor)
    // Displays take clients by these names; there is none.
    if name == "spice" { throw QAPIError(.deviceNotActive, "SPICE is not in use") }
    if name == "@dbus-display" { throw QAPIError(.deviceNotActive, "D-Bus display is not in use") }
    guard let device = try context.machine.chardevs[name] else {
      throw QAPIError("protocol '\(name)' is invalid")
    }
    guard device.addClient(socket) else { throw QAPIError("failed to add client") }
  }

  @MainLoop
  package func humanMonitorCommand(
    commandLine: String, cpuIndex: Int?
  ) async throws(QAPIError) -> String {
    if let cpuIndex, try !queryCpusFast().contains(where: { $0.cpuIndex == cpuIndex }) {
      throw .expects("cpu-index", "a CPU number")
    }
    guard let humanMonitor = context.humanMonitor else {
      throw QAPIError("The human monitor is not available")
    }
    return await humanMonitor(commandLine, cpuIndex, client?.access ?? .full)
  }
}
