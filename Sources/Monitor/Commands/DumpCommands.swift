import Glibc
import Host
import Machine
package import QAPI

// schemas/dump.json

extension MonitorCommands: @MainLoop DumpCommands {
  @MainLoop
  package func dumpGuestMemory(
    paging: Bool, protocol target: String, detach: Bool?, begin: Int?, length: Int?,
    format: DumpGuestMemoryFormat?, xJobId: String?
  ) async throws(QAPIError) {
    let outcome = DumpOutcome()
    try startDump(
      paging: paging, target: target, begin: begin, length: length, format: format ?? .elf,
      jobID: xJobId, completion: outcome.set)
    if detach == true { return }
    if let failure = await outcome.value { throw QAPIError(failure.message) }
  }

  package func queryDump() throws(QAPIError) -> DumpQueryResult {
    try context.machine.dumps.result
  }

  package func queryDumpGuestMemoryCapability() throws(QAPIError) -> DumpGuestMemoryCapability {
    DumpGuestMemoryCapability(formats: DumpGuestMemoryFormat.allCases.filter(\.isAvailable))
  }

  /// Checks the request in QEMU's order and starts the dump; `completion` comes at its end.
  private func startDump(
    paging: Bool, target: String, begin: Int?, length: Int?, format: DumpGuestMemoryFormat,
    jobID: String?, completion: @escaping @MainLoop (DumpFailure?) -> Void
  ) throws(QAPIError) {
    let machine = try context.machine
    if machine.dumps.isActive { throw QAPIError("There is a dump in process, please wait.") }
    if format != .elf, paging || begin != nil || length != nil {
      throw QAPIError("kdump-compressed format doesn't support paging or filter")
    }
    if begin != nil, length == nil { throw QAPIError("Parameter 'length' is missing") }
    if begin == nil, length != nil { throw QAPIError("Parameter 'begin' is missing") }
    guard format.isAvailable else {
      throw QAPIError("\(format.rawValue) is not available now")
    }
    let output = try openDump(target)
    var filter: Range<UInt64>?
    if let begin, let length {
      if length == 0 { throw QAPIError("Invalid parameter 'length'") }
      guard begin >= 0 else { throw QAPIError("Invalid parameter 'begin'") }
      let start = UInt64(begin)
      filter = start..<(length < 0 ? start : start + UInt64(length))
    }
    try machine.startDump(
      DumpRequest(
        format: format, usesPageTables: paging, filter: filter, output: output, name: target),
      jobID: jobID, completion: completion)
  }

  /// `file:PATH` or `fd:NAME`. A FIFO without a reader is refused, since nothing would ever come of waiting for one.
  private func openDump(_ target: String) throws(QAPIError) -> OutputFile {
    if target.hasPrefix("fd:") {
      let name = String(target.dropFirst(3))
      guard let descriptor = context.descriptors.take(name) else {
        throw QAPIError("File descriptor named '\(name)' has not been found")
      }
      return OutputFile(FileDescriptor(owning: descriptor))
    }
    guard target.hasPrefix("file:") else { throw QAPIError("Invalid parameter 'protocol'") }
    let path = String(target.dropFirst(5))
    do throws(SystemError) {
      // Only the owner may read what was in the guest's memory.
      let file = try FileDescriptor.open(
        path, O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK, mode: 0o400)
      try file.setNonBlocking(false)
      return OutputFile(file)
    } catch {
      throw QAPIError("Could not open '\(path)': \(error.reason)")
    }
  }
}

/// How a dump ended, for the one who waits for it.
@MainLoop
private final class DumpOutcome {
  private var result: DumpFailure??
  private var waiter: CheckedContinuation<DumpFailure?, Never>?

  func set(_ failure: DumpFailure?) {
    result = .some(failure)
    waiter?.resume(returning: failure)
    waiter = nil
  }

  var value: DumpFailure? {
    get async {
      if let result { return result }
      return await withCheckedContinuation { waiter = $0 }
    }
  }
}
