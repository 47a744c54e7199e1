import CLinux
import Host
import Synchronization

/// Revocations that wait: for an access to be done, for a device, for a hot page's time. A thread of its own tries them again when they are due,
/// so that no thread that receives has to wait.
final class HeldPages: Sendable {
  private struct Item {
    var page: UInt64
    var due: Int64
  }
  private struct State {
    var items: [Item] = []
    var isStopped = false
  }
  private let state = Mutex(State())
  private let word = WaitWord()
  private let thread = Mutex<HostThread?>(nil)

  /// Starts the thread, which calls `retry` for each page that is due. Throws `SystemError` for `pthread_create`.
  func start(_ retry: @escaping @Sendable (UInt64) -> Void) throws(SystemError) {
    state.withLock { state in
      state.isStopped = false
      state.items.reserveCapacity(256)
    }
    let new = try HostThread(name: "shm-held") { [self] in run(retry) }
    thread.withLock { $0 = new }
  }

  /// Ends the thread and waits for it.
  func stop() {
    state.withLock { $0.isStopped = true }
    word.advance()
    thread.withLock { $0.take() }?.join()
  }

  func clear() { state.withLock { $0.items.removeAll(keepingCapacity: true) } }

  /// A page's revocation is to be tried at `due`, in monotonic time.
  func add(_ page: UInt64, due: Int64) {
    let isFirst = state.withLock { state in
      var isFirst = true
      for index in state.items.indices {
        if state.items[index].page == page {
          state.items[index].due = due
          return true
        }
        if state.items[index].due <= due { isFirst = false }
      }
      state.items.append(Item(page: page, due: due))
      return isFirst
    }
    if isFirst { word.advance() }
  }

  /// What the page's revocation waited for has come.
  func hurry(_ page: UInt64) {
    let isKnown = state.withLock { state in
      for index in state.items.indices where state.items[index].page == page {
        state.items[index].due = 0
        return true
      }
      return false
    }
    if isKnown { word.advance() }
  }

  private func run(_ retry: (UInt64) -> Void) {
    ThreadDuty.isServing = true
    goliath_exact_timers()
    while true {
      let seen = word.value
      let now = HostClock.monotonic
      var page: UInt64?
      var wait: Int64?
      let isStopped = state.withLock { state in
        var first: Int?
        for index in state.items.indices
        where first.map({ state.items[index].due < state.items[$0].due }) ?? true {
          first = index
        }
        if let first {
          if state.items[first].due <= now {
            page = state.items[first].page
            state.items.swapAt(first, state.items.count - 1)
            state.items.removeLast()
          } else {
            wait = state.items[first].due &- now
          }
        }
        return state.isStopped
      }
      if isStopped { return }
      if let page {
        retry(page)
      } else {
        word.wait(while: seen, nanoseconds: wait)
      }
    }
  }
}
