package import Host
package import QAPI
import Synchronization

/// How far a job's work has come, in units of its own choice; any thread.
package final class JobProgress: Sendable {
  private let current: Atomic<Int64>
  private let total: Atomic<Int64>

  package init(total: Int64 = 0) {
    current = Atomic(0)
    self.total = Atomic(total)
  }

  package var now: (current: Int, total: Int) {
    (Int(current.load(ordering: .relaxed)), Int(total.load(ordering: .relaxed)))
  }

  /// So much more is done.
  package func advance(by amount: Int64) { current.wrappingAdd(amount, ordering: .relaxed) }
  package func set(current value: Int64) { current.store(value, ordering: .relaxed) }
  package func set(total value: Int64) { total.store(value, ordering: .relaxed) }
}

/// What a job does. Called on the main loop; none of them may wait.
@MainLoop
package protocol JobWork: AnyObject {
  /// Begins. Ends with `job.finish`.
  func start(_ job: Job)
  /// Stand at the next pause point, and say so (`job.hasPaused`).
  func pause()
  func resume()
  /// End soon, without success; `job.finish` is still to be called. `isForced`: without waiting for anything in flight.
  func cancel(isForced: Bool)
  /// `job-complete`: a ready job is to end well. False when this kind of job has no such end.
  func complete() -> Bool
  /// What must still be done when all jobs of the transaction have ended well; throws the reason why it could not be.
  func finalize() throws(QAPIError)
  /// The job has ended, well or not; the last call.
  func conclude(success: Bool)
}

extension JobWork {
  package func complete() -> Bool { false }
  package func finalize() throws(QAPIError) {}
  package func conclude(success: Bool) {}
}

/// One job: its model, its work, its result.
@MainLoop
package final class Job {
  package nonisolated let id: String
  package nonisolated let type: JobType
  package nonisolated let progress: JobProgress
  /// Why it failed.
  package private(set) var error: String?
  private(set) var model: JobModel
  private let work: any JobWork
  private let transaction: JobTransaction
  private weak var registry: JobRegistry?
  private var hasFinished = false

  init(
    id: String, type: JobType, model: JobModel, progress: JobProgress, work: any JobWork,
    transaction: JobTransaction, registry: JobRegistry
  ) {
    self.id = id
    self.type = type
    self.model = model
    self.progress = progress
    self.work = work
    self.transaction = transaction
    self.registry = registry
    transaction.add(self)
  }

  package var status: JobStatus { model.status }
  package var isCancelled: Bool { model.isCancelled }
  /// Whether the work must stand at its next pause point.
  package var wantsPause: Bool { model.wantsPause }

  /// What `query-jobs` tells.
  package var info: JobInfo {
    let (current, total) = progress.now
    return JobInfo(
      id: id, type: type, status: status, currentProgress: current, totalProgress: total,
      error: error)
  }

  // MARK: - The work's side

  func create() { report(model.create()) }

  /// Begins to run. Once.
  package func start() {
    guard status == .created else { return }
    report(model.start())
    work.start(self)
    if model.wantsPause { work.pause() }
  }

  /// The work stands at a pause point.
  package func hasPaused() { report(model.hasPaused()) }

  /// The work is in step and waits for `job-complete`.
  package func becomeReady() { report(model.becomeReady()) }

  /// The work is over; `error` is the reason when it failed. Once; later calls do nothing.
  package func finish(error reason: String? = nil) {
    guard !hasFinished else { return }
    hasFinished = true
    Trace.write(.jobCompleted, "job \(id) error \(reason ?? "none")")
    if reason == nil, !model.isCancelled {
      report(model.succeed())
      transaction.jobSucceeded()
    } else {
      error = reason ?? "Operation canceled"
      report(model.abort())
      transaction.jobFailed(self)
    }
  }

  // MARK: - The transaction's side

  var isWaiting: Bool { status == .waiting }
  var hasEnded: Bool { hasFinished }
  var finalizesItself: Bool { model.finalizesItself }

  func proceed() { report(model.proceed()) }

  func finalize() throws(QAPIError) { try work.finalize() }

  func fail(_ reason: String) {
    if error == nil { error = reason }
    report(model.abort())
  }

  func conclude() {
    work.conclude(success: status == .pending)
    report(model.conclude())
    if model.isGone { registry?.forget(self) }
  }

  // MARK: - The user's side

  func pauseByUser() throws(QAPIError) {
    try model.check(.pause, id: id)
    try model.pauseByUser()
    if status != .created { work.pause() }
  }

  func resumeByUser() throws(QAPIError) {
    try model.check(.resume, id: id)
    let entered = try model.resumeByUser()
    report(entered)
    if !model.wantsPause, status != .created { work.resume() }
  }

  /// Holds the job for an operation of ours; taken back by `resume`.
  package func pause() {
    model.pause()
    if status != .created { work.pause() }
  }

  package func resume() {
    report(model.resume())
    if !model.wantsPause, status != .created { work.resume() }
  }

  func cancelByUser() throws(QAPIError) {
    try model.check(.cancel, id: id)
    cancel(isForced: true)
  }

  /// Asks for the end without success.
  package func cancel(isForced: Bool) {
    let before = status
    report(model.cancel())
    switch before {
    case .created: finish(error: "Operation canceled")
    case .waiting, .pending: transaction.jobFailed(self)
    default: work.cancel(isForced: isForced)
    }
  }

  func completeByUser() throws(QAPIError) {
    try model.check(.complete, id: id)
    if model.isCancelled || !work.complete() {
      throw QAPIError("The active block job '\(id)' cannot be completed")
    }
  }

  func finalizeByUser() throws(QAPIError) {
    try model.check(.finalize, id: id)
    transaction.finalize()
  }

  func dismissByUser() throws(QAPIError) {
    try model.check(.dismiss, id: id)
    report(model.dismiss())
    registry?.forget(self)
  }

  private func report(_ entered: [JobStatus]) {
    for status in entered {
      Trace.write(.jobStateTransition, "job \(id) now \(status.rawValue)")
      registry?.onEvent(.jobStatusChange(id: id, status: status))
    }
  }
}

/// Jobs that finish together: none before all have ended well, and when one fails the others are cancelled.
@MainLoop
package final class JobTransaction {
  private var jobs: [Job] = []
  private var isAborting = false

  package init() {}

  func add(_ job: Job) { jobs.append(job) }

  func jobSucceeded() {
    if isAborting {
      for job in jobs where job.isWaiting { job.fail("Operation canceled") }
      return concludeIfAllEnded()
    }
    guard jobs.allSatisfy(\.isWaiting) else { return }
    for job in jobs { job.proceed() }
    if jobs.allSatisfy(\.finalizesItself) { finalize() }
  }

  func finalize() {
    for job in jobs {
      do throws(QAPIError) { try job.finalize() } catch {
        job.fail(error.description)
        return jobFailed(job)
      }
    }
    let done = jobs
    jobs = []
    for job in done { job.conclude() }
  }

  func jobFailed(_ failed: Job) {
    if !isAborting {
      isAborting = true
      failed.fail("Operation canceled")
      for job in jobs where job !== failed {
        if job.hasEnded { job.fail("Operation canceled") } else { job.cancel(isForced: true) }
      }
    }
    concludeIfAllEnded()
  }

  private func concludeIfAllEnded() {
    guard jobs.allSatisfy(\.hasEnded) else { return }
    let done = jobs
    jobs = []
    for job in done { job.conclude() }
  }
}
