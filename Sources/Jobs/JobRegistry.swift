package import Host
package import QAPI

/// The jobs of a process, newest first, and what a monitor may do to them.
@MainLoop
package final class JobRegistry {
  private var jobs: [Job] = []
  let onEvent: @MainLoop (QAPI.Event) -> Void

  /// No jobs yet; `onEvent` gets `JOB_STATUS_CHANGE`.
  package init(onEvent: @escaping @MainLoop (QAPI.Event) -> Void) { self.onEvent = onEvent }

  /// Makes a job in state `created`. Throws QEMU's sentence when the id is malformed or taken.
  package func create(
    id: String, type: JobType, model: JobModel = JobModel(),
    progress: JobProgress = JobProgress(), transaction: JobTransaction? = nil, work: any JobWork
  ) throws(QAPIError) -> Job {
    guard JobRegistry.isWellFormed(id) else { throw QAPIError("Invalid job ID '\(id)'") }
    guard self[id] == nil else { throw QAPIError("Job ID '\(id)' already in use") }
    let job = Job(
      id: id, type: type, model: model, progress: progress, work: work,
      transaction: transaction ?? JobTransaction(), registry: self)
    jobs.insert(job, at: 0)
    job.create()
    return job
  }

  /// The job of that id.
  package subscript(id: String) -> Job? { jobs.first { $0.id == id } }

  /// `query-jobs`.
  package var list: [JobInfo] { jobs.map(\.info) }

  package func pause(_ id: String) throws(QAPIError) { try find(id).pauseByUser() }
  package func resume(_ id: String) throws(QAPIError) { try find(id).resumeByUser() }
  package func cancel(_ id: String) throws(QAPIError) { try find(id).cancelByUser() }
  package func complete(_ id: String) throws(QAPIError) { try find(id).completeByUser() }
  package func finalize(_ id: String) throws(QAPIError) { try find(id).finalizeByUser() }
  package func dismiss(_ id: String) throws(QAPIError) { try find(id).dismissByUser() }

  func forget(_ job: Job) { jobs.removeAll { $0 === job } }

  private func find(_ id: String) throws(QAPIError) -> Job {
    guard let job = self[id] else { throw QAPIError("Job not found") }
    return job
  }

  /// A letter, then letters, digits, '-', '.', '_'.
  static func isWellFormed(_ id: String) -> Bool {
    func isLetter(_ byte: UInt8) -> Bool {
      (0x41...0x5A).contains(byte) || (0x61...0x7A).contains(byte)
    }
    guard let first = id.utf8.first, isLetter(first) else { return false }
    return id.utf8.allSatisfy {
      isLetter($0) || (0x30...0x39).contains($0) || [0x2D, 0x2E, 0x5F].contains($0)
    }
  }
}
