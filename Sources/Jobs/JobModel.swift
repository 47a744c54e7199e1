import Host
package import QAPI

/// The life of a job: its state, and what may come next. A pure model of QEMU 7.2's rules (job.json: JobStatus, JobVerb).
///
/// Methods that change the state answer the states entered, in order; each is one `JOB_STATUS_CHANGE`.
package struct JobModel: Equatable, Sendable {
  package private(set) var status = JobStatus.undefined
  /// How many want the job to stand: the user, and operations such as draining.
  package private(set) var pauseCount = 0
  /// The user has paused it (`job-pause`).
  package private(set) var isPausedByUser = false
  package private(set) var isCancelled = false
  private var hasStarted = false
  /// Waits for `job-finalize` in `pending` when false.
  package let finalizesItself: Bool
  /// Waits for `job-dismiss` in `concluded` when false.
  package let dismissesItself: Bool

  /// A job in `undefined`; `create` comes next.
  package init(finalizesItself: Bool = true, dismissesItself: Bool = true) {
    self.finalizesItself = finalizesItself
    self.dismissesItself = dismissesItself
  }

  // MARK: - Tables

  /// Whether a job may go from one state to another.
  package static func allows(_ from: JobStatus, to next: JobStatus) -> Bool {
    switch from {
    case .undefined: next == .created
    case .created: [.running, .aborting, .null].contains(next)
    case .running: [.paused, .ready, .waiting, .aborting].contains(next)
    case .paused: next == .running
    case .ready: [.standby, .waiting, .aborting].contains(next)
    case .standby: next == .ready
    case .waiting: [.pending, .aborting].contains(next)
    case .pending: [.aborting, .concluded].contains(next)
    case .aborting: [.aborting, .concluded].contains(next)
    case .concluded: next == .null
    case .null: false
    }
  }

  /// Whether a state accepts a verb.
  package static func accepts(_ verb: JobVerb, in status: JobStatus) -> Bool {
    switch verb {
    case .cancel:
      [.created, .running, .paused, .ready, .standby, .waiting, .pending].contains(status)
    case .pause, .resume, .setSpeed:
      [.created, .running, .paused, .ready, .standby].contains(status)
    case .complete: status == .ready
    case .finalize: status == .pending
    case .dismiss: status == .concluded
    }
  }

  /// Throws what a client is told when the present state does not accept a verb.
  package func check(_ verb: JobVerb, id: String) throws(QAPIError) {
    Trace.write(
      .jobApplyVerb, "job \(id) in state \(status.rawValue); applying verb \(verb.rawValue)")
    guard !JobModel.accepts(verb, in: status) else { return }
    throw QAPIError(
      "Job '\(id)' in state '\(status.rawValue)' cannot accept command verb '\(verb.rawValue)'")
  }

  // MARK: - Life

  /// Comes into being.
  package mutating func create() -> [JobStatus] { enter(.created) }

  /// Begins to run, or to stand when a pause is wanted already.
  package mutating func start() -> [JobStatus] {
    guard status == .created else { return [] }
    hasStarted = true
    return enter(.running)
  }

  /// The work has nothing left to do but to be told to complete (a mirror in step).
  package mutating func becomeReady() -> [JobStatus] {
    status == .running ? enter(.ready) : []
  }

  /// One more wants it to stand.
  package mutating func pause() { pauseCount += 1 }

  /// One fewer wants it to stand. The states entered when nobody does any more.
  package mutating func resume() -> [JobStatus] {
    guard pauseCount > 0 else { return [] }
    pauseCount -= 1
    return pauseCount == 0 ? wake() : []
  }

  /// `job-pause`. Throws when the user has done so already.
  package mutating func pauseByUser() throws(QAPIError) {
    if isPausedByUser { throw QAPIError("Job is already paused") }
    isPausedByUser = true
    pause()
  }

  /// `job-resume`. Throws when the user has not paused it.
  package mutating func resumeByUser() throws(QAPIError) -> [JobStatus] {
    guard isPausedByUser, pauseCount > 0 else {
      throw QAPIError("Can't resume a job that was not paused")
    }
    isPausedByUser = false
    return resume()
  }

  /// The work stands at a pause point. Nothing when nobody wants it to stand (any more).
  package mutating func hasPaused() -> [JobStatus] {
    guard pauseCount > 0, !isCancelled else { return [] }
    switch status {
    case .running: return enter(.paused)
    case .ready: return enter(.standby)
    default: return []
    }
  }

  /// Whether the work must stand at its next pause point.
  package var wantsPause: Bool { pauseCount > 0 && !isCancelled }

  /// Asks for the end without success. The user's pause ends, so that the work can notice.
  package mutating func cancel() -> [JobStatus] {
    if isPausedByUser {
      isPausedByUser = false
      pauseCount = max(0, pauseCount - 1)
    }
    isCancelled = true
    return wake()
  }

  // MARK: - End

  /// The work has ended well; `proceed` comes next, when the other jobs of its transaction are as far.
  package mutating func succeed() -> [JobStatus] { wake() + enter(.waiting) }

  /// All of its transaction have ended well.
  package mutating func proceed() -> [JobStatus] { status == .waiting ? enter(.pending) : [] }

  /// The work, or another job of its transaction, has failed or was cancelled.
  package mutating func abort() -> [JobStatus] {
    status == .aborting ? [] : wake() + enter(.aborting)
  }

  /// Everything is done; what remains is the result to look at.
  package mutating func conclude() -> [JobStatus] {
    let entered = enter(.concluded)
    // What never ran leaves nothing to look at.
    return dismissesItself || !hasStarted ? entered + enter(.null) : entered
  }

  /// The user has seen the result.
  package mutating func dismiss() -> [JobStatus] { enter(.null) }

  /// Whether the job is over and forgotten.
  package var isGone: Bool { status == .null }

  private mutating func wake() -> [JobStatus] {
    switch status {
    case .paused: enter(.running)
    case .standby: enter(.ready)
    default: []
    }
  }

  private mutating func enter(_ next: JobStatus) -> [JobStatus] {
    guard JobModel.allows(status, to: next) else { return [] }
    status = next
    return [next]
  }
}
