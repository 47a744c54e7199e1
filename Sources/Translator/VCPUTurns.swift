import CX86
import Host
import Synchronization

/// `thread=single`: the vCPUs of a machine execute one at a time, in the order in which they ask, a millisecond each while others wait.
///
/// Every vCPU keeps its thread; those that wait for their turn hold nothing that others need.
final class VCPUTurns: Sendable {
  private struct State {
    var holder: TCGVCPU?
    /// When the holder's turn began, nanoseconds.
    var since: Int64 = 0
    var waiting: [TCGVCPU] = []
  }
  private let state = Mutex(State())
  /// Advances whenever the turn is free.
  private let word = WaitWord()
  private static let slice: Int64 = 1_000_000

  /// Waits for the vCPU's turn, on its thread. False: it was asked to leave (`requestExit`) meanwhile.
  func take(_ vcpu: TCGVCPU) -> Bool {
    state.withLock { $0.waiting.append(vcpu) }
    while true {
      let seen = word.value
      let now = HostClock.monotonic
      let (isMine, late) = state.withLock { state -> (Bool, TCGVCPU?) in
        if state.holder == nil, state.waiting.first === vcpu {
          state.waiting.removeFirst()
          state.holder = vcpu
          state.since = now
          return (true, nil)
        }
        return (false, now &- state.since >= Self.slice ? state.holder : nil)
      }
      if isMine { return true }
      if vcpu.takesExitRequest() {
        state.withLock { state in state.waiting.removeAll { $0 === vcpu } }
        word.advance()
        return false
      }
      late?.requestExit()
      word.wait(while: seen, nanoseconds: Self.slice)
    }
  }

  /// Ends the turn of the one who has it.
  func give() {
    state.withLock { $0.holder = nil }
    word.advance()
  }
}
