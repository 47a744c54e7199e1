import COracle
import Glibc

/// Looks for sequences on which the sides differ, makes them small, and prints them. What may crash or hang is done in child processes.
package struct SequenceHunt {
  package var seed: UInt64 = 1
  package var first = 0
  package var cases = 20000
  package var seconds = 3600
  package var kinds: [String] = ["host", "machine"]
  package var modes: [String] = SequenceMode.all.map(\.name)
  package var everyMode = false
  package var set: OracleSet?
  package var failures = 5
  package var minimises = true
  package var isVerbose = false

  package static var modeNames: [String] { SequenceMode.all.map(\.name) }

  /// The sequences made by hand instead of random ones.
  package var isCrafted = false

  package init() {}

  private static let chunk = 2048
  private var hasAVX: Bool { oracle_components() & 4 != 0 }

  private static let crafted = CraftedSequences.all()
  package static var craftedCount: Int { crafted.count }

  private func sequence(_ number: Int) -> Sequence {
    if isCrafted { return Self.crafted[number % Self.crafted.count] }
    let wanted = Sequence.Kind.allCases.filter { kinds.contains($0.rawValue) }
    let kind = wanted.isEmpty ? .host : wanted[number % wanted.count]
    return SequenceGenerator.sequence(
      seed: seed, number: number, kind: kind, set: set, hasAVX: hasAVX)
  }

  /// All modes, or three of them in turn.
  private func modes(for number: Int) -> [SequenceMode] {
    let all = SequenceMode.all.filter { modes.contains($0.name) }
    if everyMode || all.count <= 3 { return all }
    let start = number / 2 % all.count
    return (0..<3).map { all[(start + $0 * 3) % all.count] }
  }

  private static func index(of mode: String) -> UInt64 {
    UInt64((SequenceMode.all.firstIndex { $0.name == mode } ?? -1) + 1)
  }
  private static func name(of index: UInt64) -> String {
    index == 0 ? "interpreter" : SequenceMode.all[Int(index) - 1].name
  }

  // MARK: - Children

  /// Runs `body` in a child; nil when it ended well, else how it died.
  private func isolated(
    seconds: Int, _ body: @escaping (UnsafeMutablePointer<OracleReport>) -> Void
  )
    -> String?
  {
    final class Box {
      let body: (UnsafeMutablePointer<OracleReport>) -> Void
      init(_ body: @escaping (UnsafeMutablePointer<OracleReport>) -> Void) { self.body = body }
    }
    oracle_flush()
    let context = unsafe Unmanaged.passRetained(Box(body))
    defer { unsafe context.release() }
    let status = unsafe oracle_isolate(
      { context in
        guard let context = unsafe context, let report = unsafe oracle_report() else { return }
        let box = unsafe Unmanaged<Box>.fromOpaque(context).takeUnretainedValue()
        unsafe box.body(report)
      }, context.toOpaque(), UInt32(seconds))
    if status == 0 { return nil }
    if status < 0 { return "no child" }
    let signal = status & 0x7F
    if signal == SIGALRM { return "hangs" }
    return signal == 0 ? "exit status \(status >> 8)" : "crash by signal \(signal)"
  }

  private static func write(_ text: String, to report: UnsafeMutablePointer<OracleReport>) {
    let target = unsafe oracle_report_text(report)
    for (n, byte) in text.utf8.prefix(Int(ORACLE_TEXT_BYTES) - 1).enumerated() {
      unsafe target[n] = CChar(bitPattern: byte)
      unsafe target[n + 1] = 0
    }
  }
  private static var reportText: String {
    guard let report = unsafe oracle_report() else { return "" }
    return unsafe String(cString: oracle_report_text(report))
  }

  // MARK: - The hunt

  private struct Found {
    var number: Int
    var mode: String
    var text: String
  }

  /// Runs cases `from..<to` in one child until one fails. Also gives how many were run.
  private func sweep(_ from: Int, _ to: Int, until end: Int) -> (done: Int, found: Found?) {

    let death = unsafe isolated(seconds: 120) { report in
      do {
        let runner = try SequenceRunner()
        var next = from
        while next < to, time(nil) < end {
          var list = (next..<min(next + SequenceRunner.batch, to)).map { sequence($0) }
          let outcomes = try runner.judge(&list, lengthen: !isCrafted)
          for (one, outcome) in zip(list, outcomes) {
            unsafe report.pointee.number = UInt64(one.number)
            let failure = try runner.check(one, outcome, modes(for: one.number)) {
              unsafe report.pointee.mode = Self.index(of: $0)
            }
            unsafe report.pointee.count += 1
            if outcome != nil || one.kind == .machine { unsafe report.pointee.other += 1 }
            let lasted = outcome.map { $0.vector == 3 } ?? false
            if lasted { unsafe report.pointee.lasting += 1 }
            if let failure {
              unsafe report.pointee.mode = Self.index(of: failure.mode)
              unsafe Self.write(failure.text, to: report)
              return
            }
          }
          next += list.count
        }
      } catch { unsafe Self.write("\(error)", to: report) }
    }
    guard let report = unsafe oracle_report() else { return (0, nil) }
    let done = unsafe Int(report.pointee.count)
    let text = Self.reportText
    if death == nil, text.isEmpty { return (done, nil) }
    return (
      done,
      Found(
        number: unsafe Int(report.pointee.number),
        mode: Self.name(of: unsafe report.pointee.mode), text: death ?? text)
    )
  }

  private func account(_ totals: inout (judged: Int, lasting: Int)) {
    guard let report = unsafe oracle_report() else { return }
    totals.judged += unsafe Int(report.pointee.other)
    totals.lasting += unsafe Int(report.pointee.lasting)
  }

  /// The number of different failures found; everything about them is printed.
  package func run() -> Int {
    var count = 0
    var failed = 0
    var totals = (judged: 0, lasting: 0)
    var next = first
    let last = first + cases
    let begin = time(nil)
    let end = begin + seconds
    while next < last, time(nil) < end, failed < failures {
      let (done, found) = sweep(next, min(next + Self.chunk, last), until: end)
      count += done
      account(&totals)
      guard let found else {
        if done == 0 { break }
        next += done
        if isVerbose { print("\(next) cases") }
        continue
      }
      failed += 1
      print(
        "FAILURE \(failed): seed \(seed) case \(found.number), mode \(found.mode): \(found.text)")
      explain(found)
      next = max(found.number, next) + 1
    }
    let took = time(nil) - begin
    print("sequences: seed \(seed), \(count) cases, \(failed) failures, \(took) s")
    print("  \(totals.judged) had a judge, \(totals.lasting) ran to their end on the host")
    return count == 0 ? max(failed, 1) : failed
  }

  // MARK: - Whole guests

  /// Runs random guests with seeds from `seed` on, in the interpreter and in each mode; the number of failures.
  package func runGuests(_ count: Int, rounds: Int) -> Int {
    var failed = 0
    var ended = 0
    for number in 0..<count where failed < failures {
      let guestSeed = seed + UInt64(number)
      let death = unsafe isolated(seconds: 300) { report in
        do {
          let runner = try SequenceRunner()
          let guest = try RandomGuest(seed: guestSeed, rounds: rounds, runner: runner)
          let data = runner.hosts.data
          guard
            let expected = try guest.run(.interpreter, data: data, rounds: rounds, patience: 10)
          else { return }
          unsafe report.pointee.count = UInt64(expected.exceptions)
          for mode in SequenceMode.all where modes.contains(mode.name) {
            unsafe report.pointee.mode = Self.index(of: mode.name)
            let text = try guest.compare(mode, data: data, expected: expected)
            if !text.isEmpty {
              unsafe Self.write(text, to: report)
              return
            }
          }
        } catch { unsafe Self.write("\(error)", to: report) }
      }
      guard let report = unsafe oracle_report() else { return 1 }
      if unsafe report.pointee.count > 0 { ended += 1 }
      let text = Self.reportText
      if death == nil, text.isEmpty { continue }
      failed += 1
      let mode = Self.name(of: unsafe report.pointee.mode)
      print("FAILURE \(failed): guest with seed \(guestSeed), mode \(mode): \(death ?? text)")
    }
    print("guests: seeds from \(seed), \(count) guests, \(ended) ended, \(failed) failures")
    return ended == 0 ? max(failed, 1) : failed
  }

  // MARK: - One failure

  /// What is wrong with a sequence in a mode, alone in fresh machines; nil: nothing, or the judges differ.
  private func verdict(_ sequence: Sequence, _ mode: String) -> String? {
    let death = unsafe isolated(seconds: 20) { report in
      do {
        let runner = try SequenceRunner(capacity: 1)
        var list = [sequence]
        let outcome = try runner.judge(&list, lengthen: false)[0]
        let chosen = SequenceMode.all.filter { $0.name == mode }
        unsafe report.pointee.mode = 0
        if let failure = try runner.check(
          sequence, outcome, chosen,
          entering: { unsafe report.pointee.mode = Self.index(of: $0) }), failure.mode == mode
        {
          unsafe Self.write(failure.text, to: report)
        }
      } catch { unsafe Self.write("\(error)", to: report) }
    }
    if let death {
      guard let report = unsafe oracle_report() else { return death }
      return Self.name(of: unsafe report.pointee.mode) == mode ? death : nil
    }
    let text = Self.reportText
    return text.isEmpty ? nil : text
  }

  /// The sequence as the hunt ran it, without what the host refused.
  private func judged(_ number: Int) -> Sequence {
    // In a child too: its own child would otherwise stay.
    guard let runner = try? SequenceRunner() else { return sequence(number) }
    var list = [sequence(number)]
    if isCrafted { return list[0] }
    _ = try? runner.judge(&list)
    return list[0]
  }

  private func explain(_ found: Found) {
    let original = judged(found.number)
    guard var text = verdict(original, found.mode) else {
      print("  Alone it agrees: it depends on cases before it.")
      findHistory(found)
      print(SequenceReport.state(original) + SequenceReport.listing(original))
      return
    }
    var smallest = original
    if minimises {
      (smallest, text) = minimise(original, found.mode, text)
    }
    print("  offset \(smallest.offset), \(smallest.kind.rawValue), \(smallest.set.rawValue),")
    print("  smallest form (\(smallest.items.count) of \(original.items.count) items): \(text)")
    print(SequenceReport.state(smallest) + SequenceReport.listing(smallest))
    oracle_flush()
  }

  /// How many cases before it are needed.
  private func findHistory(_ found: Found) {
    var length = 1
    while length <= 2048, found.number - length >= first {
      var one = self
      one.first = found.number - length
      let (_, again) = one.sweep(one.first, found.number + 1, until: time(nil) + 60)
      if again?.number == found.number {
        print("  Fails again with --from \(one.first) --cases \(length + 1).")
        return
      }
      length *= 2
    }
    print("  Not reproduced with the cases before it.")
  }

  private func minimise(_ original: Sequence, _ mode: String, _ why: String) -> (Sequence, String) {
    var best = original
    var text = why
    let end = time(nil) + 60
    func attempt(_ candidate: Sequence) -> Bool {
      if !candidate.isSound || time(nil) > end { return false }
      guard let found = verdict(candidate, mode) else { return false }
      best = candidate
      text = found
      return true
    }
    var size = max(best.items.count / 2, 1)
    while size >= 1 {
      var start = 0
      var progress = false
      while start < best.items.count {
        var candidate = best
        let range = start..<min(start + size, best.items.count)
        let kept = range.filter { best.items[$0].name == Sequence.endName }
        candidate.items.replaceSubrange(range, with: kept.map { best.items[$0] })
        if candidate.items.count < best.items.count, attempt(candidate) {
          progress = true
        } else {
          start += size
        }
      }
      if size == 1, !progress { break }
      size = size == 1 ? 1 : size / 2
    }
    simplifyState(best, attempt)
    return (best, text)
  }

  private func simplifyState(_ best: Sequence, _ attempt: (Sequence) -> Bool) {
    var current = best
    func tryChange(_ change: (inout Sequence) -> Void) {
      var candidate = current
      change(&candidate)
      if attempt(candidate) { current = candidate }
    }
    tryChange { $0.offset = 0 }
    tryChange { sequence in
      var plain = [UInt8](repeating: 0, count: sequence.xsave.count)
      plain.replaceSubrange(0..<4, with: [0x7F, 3, 0, 0])
      plain.replaceSubrange(24..<32, with: [0x80, 0x1F, 0, 0, 0xFF, 0xFF, 0, 0])
      plain[512] = 7
      sequence.xsave = plain
    }
    tryChange { $0.flags = 0x202 }
    for n in 0..<16 where n != 4 && current.registers[n] != 0 { tryChange { $0.registers[n] = 0 } }
    for n in current.items.indices where current.items[n].name == "loop begin" {
      for rounds in [UInt8(1), 2, 3] {
        var done = false
        var candidate = current
        candidate.items[n].bytes[7] = rounds
        if candidate.items[n].bytes != current.items[n].bytes, attempt(candidate) {
          current = candidate
          done = true
        }
        if done { break }
      }
    }
  }

  // MARK: - One case by hand

  /// Prints a case and its result in every mode, alone.
  package func show(_ number: Int) -> Int {
    let one = judged(number)
    print("seed \(seed) case \(number): \(one.kind.rawValue), \(one.set.rawValue)")
    print(SequenceReport.state(one) + SequenceReport.listing(one))
    var failed = 0
    for mode in ["interpreter"] + modes {
      let text = verdict(one, mode)
      print("\(mode): \(text ?? "agrees")")
      if let text {
        failed += 1
        if minimises { explain(Found(number: number, mode: mode, text: text)) }
      }
    }
    return failed
  }
}
