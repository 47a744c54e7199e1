import Block
import CPU
import Devices
package import Host
package import Jobs
package import QAPI
import Shm

/// The dump of a machine, as its monitors see it: at most one at a time, and how the last one ended.
@MainLoop
package final class DumpControl {
  /// `none` until the first dump.
  package fileprivate(set) var status = DumpStatus.none
  fileprivate var dump: GuestDump?
  fileprivate var progress = JobProgress()
  fileprivate var wasRunning = false

  init() {}

  /// Whether one is being written.
  package var isActive: Bool { status == .active }

  /// `query-dump`.
  package var result: DumpQueryResult {
    let (completed, total) = progress.now
    return DumpQueryResult(status: status, completed: completed, total: total)
  }
}

extension Machine {
  /// What the guest's kernel tells about itself for dumps; nil without the device, or before the kernel has said it.
  var vmcoreinfo: VMCoreInfoNote? {
    let device = devices.lazy.compactMap { $0.device as? VMCoreInfo }.first
    guard let place = device?.location else { return nil }
    return memory.read(place.address, count: place.size).flatMap { VMCoreInfoNote($0) }
  }

  /// Stops the guest and begins to write it to a file, on a thread of its own. Returns at once; `completion` is called at the end, after
  /// `DUMP_COMPLETED`, with the reason when the dump failed. With `jobID` the dump is a job as well.
  ///
  /// Throws QEMU's sentence when there can be no dump now.
  package func startDump(
    _ request: DumpRequest, jobID: String? = nil,
    completion: @escaping @MainLoop (DumpFailure?) -> Void
  ) throws(QAPIError) {
    if dumps.isActive { throw QAPIError("There is a dump in process, please wait.") }
    guard DumpRanges(memory, filter: request.filter).size > 0 else {
      dumps.status = .failed
      throw QAPIError("dump: no guest memory to dump")
    }
    let work = jobID.map { _ in DumpWork() }
    dumps.wasRunning = isRunning
    suspendForSaving()
    let states = vcpus.compactMap { cpuState($0.id) }
    let dump = GuestDump(
      request, memory: memory, states: states, vmcoreinfo: vmcoreinfo,
      onHeld: { [weak work] in MainLoop.post { [weak work] in work?.hasPaused() } })
    if let jobID, let work {
      do throws(QAPIError) {
        work.dump = dump
        work.job = try jobs.create(
          id: jobID, type: .xDump, progress: dump.progress, work: work)
      } catch {
        if dumps.wasRunning { resumeAfterSaving() }
        throw error
      }
    }
    dumps.status = .active
    Trace.write(.dumpBegin, "format \(request.format.rawValue) to \(request.name)")
    dumps.dump = dump
    dumps.progress = dump.progress
    let finish: @MainLoop @Sendable (DumpFailure?) -> Void = { [weak self] failure in
      self?.finishDump(failure)
      completion(failure)
      work?.job?.finish(
        error: failure?.isCancelled == true ? "Operation canceled" : failure?.message)
      work?.job = nil
    }
    do throws(SystemError) {
      _ = try HostThread(name: "dump") { [blocks] in
        for backend in blocks.backends { backend.settle(flushing: false) }
        var failure: DumpFailure?
        do throws(DumpFailure) { try dump.run() } catch { failure = error }
        MainLoop.post { [failure] in finish(failure) }
      }
    } catch {
      finish(DumpFailure("dump: cannot start a thread", error))
      return
    }
    work?.job?.start()
  }

  private func finishDump(_ failure: DumpFailure?) {
    dumps.status = failure == nil ? .completed : .failed
    dumps.dump = nil
    Trace.write(.dumpEnd, "error \(failure?.message ?? "none")")
    emit(.dumpCompleted(result: dumps.result, error: failure?.message))
    if dumps.wasRunning { resumeAfterSaving() }
  }

  /// The process ends: what a dump has written so far stays, unfinished.
  func abandonDump() {
    guard let dump = dumps.dump else { return }
    dump.cancel()
    let (completed, total) = dump.progress.now
    Log.error(
      "the memory dump '\(dump.name)' is incomplete: \(completed) of \(total) bytes were dealt with"
    )
  }
}

/// A dump as a job.
@MainLoop
private final class DumpWork: JobWork {
  var dump: GuestDump?
  var job: Job?

  func start(_ job: Job) {}
  func pause() { dump?.hold() }
  func resume() { dump?.release() }
  func cancel(isForced: Bool) { dump?.cancel() }
  func conclude(success: Bool) {
    dump = nil
    job = nil
  }

  func hasPaused() { if job?.wantsPause == true { job?.hasPaused() } }
}
