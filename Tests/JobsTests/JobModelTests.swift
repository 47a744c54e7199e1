import Host
import Jobs
import QAPI
import Support
import Synchronization
import Testing

@Suite struct JobModelTests {
  /// QEMU 7.2's tables: a row for each state, a column for each next state or verb, states in the order of the schema.
  @Test func statesFollowEachOtherAsInQEMU() {
    let rows: [JobStatus: String] = [
      .undefined: "01000000000", .created: "00100000101", .running: "00011010100",
      .paused: "00100000000", .ready: "00000110100", .standby: "00001000000",
      .waiting: "00000001100", .pending: "00000000110", .aborting: "00000000110",
      .concluded: "00000000001", .null: "00000000000",
    ]
    for (from, row) in rows {
      for (next, mark) in zip(JobStatus.allCases, row) {
        #expect(JobModel.allows(from, to: next) == (mark == "1"), "\(from) \(next)")
      }
    }
  }

  @Test func verbsAreAcceptedAsInQEMU() {
    let rows: [JobVerb: String] = [
      .cancel: "01111111000", .pause: "01111100000", .resume: "01111100000",
      .setSpeed: "01111100000", .complete: "00001000000", .finalize: "00000001000",
      .dismiss: "00000000010",
    ]
    for (verb, row) in rows {
      for (status, mark) in zip(JobStatus.allCases, row) {
        #expect(JobModel.accepts(verb, in: status) == (mark == "1"), "\(verb) \(status)")
      }
    }
  }

  @Test func aRefusedVerbIsNamedWithJobAndState() {
    var model = JobModel()
    _ = model.create()
    let error = #expect(throws: QAPIError.self) { try model.check(.finalize, id: "j") }
    #expect(
      error?.description == "Job 'j' in state 'created' cannot accept command verb 'finalize'")
  }

  @Test func pausesNest() throws {
    var model = JobModel()
    _ = model.create()
    _ = model.start()
    model.pause()
    try model.pauseByUser()
    #expect(throws: QAPIError("Job is already paused")) { try model.pauseByUser() }
    #expect(model.hasPaused() == [.paused])
    #expect(try model.resumeByUser() == [])
    #expect(model.status == .paused)
    #expect(model.resume() == [.running])
    #expect(throws: QAPIError("Can't resume a job that was not paused")) {
      try model.resumeByUser()
    }
  }

  @Test func aCancelEndsTheUsersPause() throws {
    var model = JobModel()
    _ = model.create()
    _ = model.start()
    try model.pauseByUser()
    _ = model.hasPaused()
    #expect(model.cancel() == [.running])
    #expect(!model.wantsPause)
    #expect(model.abort() + model.conclude() == [.aborting, .concluded, .null])
  }

  @Test func everyRandomRunKeepsToTheTable() {
    var random = SystemRandomNumberGenerator()
    var bad = 0
    for _ in 0..<2000 {
      var model = JobModel(finalizesItself: .random(), dismissesItself: .random())
      var status = model.status
      func follow(_ entered: [JobStatus]) {
        for next in entered {
          if !JobModel.allows(status, to: next) { bad += 1 }
          status = next
        }
      }
      follow(model.create())
      for _ in 0..<20 {
        switch UInt8.random(in: 0..<11, using: &random) {
        case 0: follow(model.start())
        case 1: model.pause()
        case 2: follow(model.resume())
        case 3: try? model.pauseByUser()
        case 4: follow((try? model.resumeByUser()) ?? [])
        case 5: follow(model.hasPaused())
        case 6: follow(model.becomeReady())
        case 7: follow(model.cancel())
        case 8: follow(model.succeed())
        case 9: follow(model.proceed())
        default: follow(model.abort())
        }
        if model.status != status || model.pauseCount < 0 { bad += 1 }
      }
    }
    #expect(bad == 0)
  }
}

/// Work that a test drives.
@MainLoop
private final class HandWork: JobWork {
  var calls: [String] = []
  var failsToFinalize = false
  func start(_ job: Job) { calls.append("start") }
  func pause() { calls.append("pause") }
  func resume() { calls.append("resume") }
  func cancel(isForced: Bool) { calls.append("cancel") }
  func complete() -> Bool {
    calls.append("complete")
    return true
  }
  func finalize() throws(QAPIError) {
    if failsToFinalize { throw QAPIError("no") }
  }
  func conclude(success: Bool) { calls.append("conclude \(success)") }
}

@MainLoop
private final class Seen {
  var events: [String] = []
}

@Suite struct JobRegistryTests {
  @MainLoop
  private func make() -> (JobRegistry, Seen) {
    let seen = Seen()
    let registry = JobRegistry { event in
      if case .jobStatusChange(let id, let status) = event {
        seen.events.append("\(id) \(status.rawValue)")
      }
    }
    return (registry, seen)
  }

  private func onMainLoop(_ body: @escaping @MainLoop @Sendable () throws -> Void) async throws {
    MainLoopThread.start()
    try await body()
  }

  @Test func aJobThatEndsWellGoesThroughAllStates() async throws {
    try await onMainLoop {
      let (registry, seen) = make()
      let work = HandWork()
      let job = try registry.create(
        id: "a", type: .mirror, model: JobModel(finalizesItself: false, dismissesItself: false),
        work: work)
      job.start()
      job.progress.set(total: 10)
      job.progress.advance(by: 4)
      job.becomeReady()
      #expect(
        registry.list == [
          JobInfo(
            id: "a", type: .mirror, status: .ready, currentProgress: 4, totalProgress: 10)
        ])
      try registry.complete("a")
      job.finish()
      #expect(throws: QAPIError.self) { try registry.dismiss("a") }
      try registry.finalize("a")
      try registry.dismiss("a")
      #expect(throws: QAPIError("Job not found")) { try registry.dismiss("a") }
      let states = ["created", "running", "ready", "waiting", "pending", "concluded", "null"]
      #expect(seen.events == states.map { "a \($0)" })
      #expect(work.calls == ["start", "complete", "conclude true"])
    }
  }

  @Test func aFailedJobKeepsItsErrorUntilDismissed() async throws {
    try await onMainLoop {
      let (registry, seen) = make()
      let job = try registry.create(
        id: "a", type: .backup, model: JobModel(dismissesItself: false), work: HandWork())
      job.start()
      job.finish(error: "disk full")
      job.finish()
      #expect(registry.list.first?.error == "disk full")
      #expect(seen.events.last == "a concluded")
    }
  }

  @Test func aCancelledJobIsAborted() async throws {
    try await onMainLoop {
      let (registry, seen) = make()
      let work = HandWork()
      let job = try registry.create(id: "a", type: .backup, work: work)
      job.start()
      try registry.pause("a")
      job.hasPaused()
      try registry.cancel("a")
      job.finish()
      #expect(
        seen.events == [
          "a created", "a running", "a paused", "a running", "a aborting", "a concluded", "a null",
        ])
      #expect(job.error == "Operation canceled" && registry.list.isEmpty)
      #expect(work.calls == ["start", "pause", "cancel", "conclude false"])
    }
  }

  @Test func aJobThatNeverRanVanishes() async throws {
    try await onMainLoop {
      let (registry, seen) = make()
      _ = try registry.create(
        id: "a", type: .backup, model: JobModel(dismissesItself: false), work: HandWork())
      try registry.cancel("a")
      #expect(seen.events == ["a created", "a aborting", "a concluded", "a null"])
    }
  }

  @Test func jobsOfATransactionFinishTogetherOrNotAtAll() async throws {
    try await onMainLoop {
      let (registry, seen) = make()
      let both = JobTransaction()
      let first = try registry.create(id: "a", type: .backup, transaction: both, work: HandWork())
      let second = try registry.create(id: "b", type: .backup, transaction: both, work: HandWork())
      first.start()
      second.start()
      first.finish()
      #expect(first.status == .waiting)
      second.finish()
      #expect(seen.events.suffix(2) == ["a null", "b concluded"] || seen.events.last == "b null")

      let broken = JobTransaction()
      let third = try registry.create(id: "c", type: .backup, transaction: broken, work: HandWork())
      let fourth = try registry.create(
        id: "d", type: .backup, transaction: broken, work: HandWork())
      third.start()
      fourth.start()
      third.finish()
      fourth.finish(error: "bad")
      #expect(third.error == "Operation canceled" && fourth.error == "bad")
      #expect(registry.list.isEmpty)
    }
  }

  @Test func idsAreChecked() async throws {
    try await onMainLoop {
      let (registry, _) = make()
      _ = try registry.create(id: "a-1._", type: .backup, work: HandWork())
      #expect(throws: QAPIError("Job ID 'a-1._' already in use")) {
        _ = try registry.create(id: "a-1._", type: .backup, work: HandWork())
      }
      for id in ["", "1a", "a b", "#x"] {
        #expect(throws: QAPIError("Invalid job ID '\(id)'")) {
          _ = try registry.create(id: id, type: .backup, work: HandWork())
        }
      }
      #expect(throws: QAPIError("Job not found")) { try registry.pause("zz") }
    }
  }
}
