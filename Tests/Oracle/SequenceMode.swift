import Translator

/// A way of running sequences in the software CPU: the interpreter, or the translator in one of its forced modes.
struct SequenceMode {
  var name: String
  var tuning: TranslatorTuning

  private init(_ name: String, _ change: (inout TranslatorTuning) -> Void) {
    self.name = name
    tuning = TranslatorTuning()
    tuning.threshold = 0
    tuning.exactFlags = true
    change(&tuning)
  }

  static let interpreter = SequenceMode("interpreter") { $0 = .interpreter }

  /// The translator's modes.
  static let all: [SequenceMode] = [
    SequenceMode("once") { _ in },
    SequenceMode("stale") { $0.exactFlags = false },
    SequenceMode("hot") { $0 = TranslatorTuning() },
    SequenceMode("single") { $0.maximumInstructions = 1 },
    SequenceMode("short") {
      $0.maximumInstructions = 3
      $0.exactFlags = false
    },
    SequenceMode("tlb") { $0.tlbLimit = 2 },
    SequenceMode("flush") { $0.flushEvery = 2 },
    SequenceMode("cache") { $0.codeCacheBytes = 1 },
    SequenceMode("request") { $0.requestEvery = 2 },
    SequenceMode("mixed") {
      $0.exactFlags = false
      $0.tlbLimit = 4
      $0.flushEvery = 5
      $0.requestEvery = 3
      $0.maximumInstructions = 7
      $0.threshold = 2
    },
  ]
}
