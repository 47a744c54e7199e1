import Host
import QAPI

/// `info mem`, `info tlb`: what the guest's page tables map. The walk is cut into turns of the main loop; the guest may run on meanwhile.
extension HMPCommandTable {
  static let translationInfoCommands = [
    HMPCommand("mem", help: "show the guest's virtual memory by ranges", .looks) { session, _ in
      var ranges = RangeText()
      let isWhole = await forEachPage(session) { page in
        if let line = ranges.add(page) { session.print(line + "\n") }
      }
      if let line = ranges.finish() { session.print(line + "\n") }
      if !isWhole { session.print(cutOff) }
    },
    HMPCommand("tlb", help: "show the guest's virtual memory by pages", .looks) { session, _ in
      let isWhole = await forEachPage(session) { page in
        session.print(TranslationText.line(page) + "\n")
      }
      if !isWhole { session.print(cutOff) }
    },
  ]

  /// Most steps of a walk: a million pages with the tables they need.
  private static let walkLimit = 1 << 20
  private static let cutOff = "(cut off after \(walkLimit) pages and tables)\n"
  /// Steps in one turn of the main loop; a table costs as much as so many pages.
  private static let turnLimit = 1 << 10
  private static let tableCost = 16

  /// Calls `body` for every page that the current CPU's tables map; says so when there is no CPU or no paging.
  /// Answers false when there is more.
  @MainLoop
  private static func forEachPage(
    _ session: HMPSession, _ body: @MainLoop (PageMapping) -> Void
  ) async -> Bool {
    guard let state = session.machine.cpuState(session.currentCPU) else {
      session.print("No CPU available\n")
      return true
    }
    let tables = virtualMemory(session, state)
    guard tables.isEnabled else {
      session.print("PG disabled\n")
      return true
    }
    var walk = tables.pages
    var budget = turnLimit
    for _ in 0..<walkLimit {
      switch walk.next() {
      case .end: return true
      case .page(let page):
        body(page)
        budget -= 1
      case .table: budget -= tableCost
      }
      guard budget <= 0 else { continue }
      await MainLoop.nextTurn()
      budget = turnLimit
    }
    return false
  }
}
