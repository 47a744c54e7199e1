import Glibc
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
