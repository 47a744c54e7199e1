extension InterruptLine {
  /// Drives the line to `level`, which may change meanwhile on other threads: sets, then looks again. Call it after every change with
  /// no lock held; the last of several callers leaves the line right.
  package func settle(_ level: () -> Bool) {
    var wanted = level()
    while true {
      set(wanted)
      let now = level()
      if now == wanted { return }
      wanted = now
    }
  }
}
