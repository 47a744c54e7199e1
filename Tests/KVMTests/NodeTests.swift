import Glibc
import KVM
import KVMNodes
import Testing

/// Guests of KVM on several nodes, on this machine's own KVM.
@Suite struct NodeTests {
  @Test func nodesOfKVMHaveCoherentMemory() throws {
    guard OwnKVM.isThere else { return print("skipped: no /dev/kvm") }
    for result in NodeChecks.run(rounds: 100, { print($0) }) {
      #expect(result.complaint == nil, "\(result.name)")
    }
  }
}

/// When a vCPU counts as one that loses its pages faster than it can use them.
@Suite struct RecentPagesTests {
  @Test func pagesThatAreLostAgainAndAgainAreContested() {
    var pages = RecentPages()
    // Page tables, stack and variables of a guest, all of them gone each time.
    for round in 0..<4 {
      for page in UInt64(0)..<10 {
        pages.note(page)
        #expect(pages.isContested(page) == (round * 10 + Int(page) >= 29))
      }
    }
    #expect(pages.isContested(3))
    #expect(!pages.isContested(10))
  }

  @Test func aGuestThatGoesThroughMemoryContestsNothing() {
    var pages = RecentPages()
    for page in UInt64(0)..<1000 { pages.note(page % 40) }
    for page in UInt64(0)..<40 { #expect(!pages.isContested(page)) }
  }

  @Test func whoGetsOnIsForgottenAsOne() {
    var pages = RecentPages()
    for turn in UInt64(0)..<100 { pages.note(turn % 2) }
    #expect(pages.isContested(0) && pages.isContested(1))
    for page in UInt64(100)..<113 { pages.note(page) }
    #expect(!pages.isContested(0))
  }
}
