import Synchronization

/// A thread that does one thing after the other, in the order in which they were asked for.
package final class SerialThread: Sendable {
  private struct State {
    var tasks: [@Sendable () -> Void] = []
    var isEnding = false
    var isStarted = false
  }
  private let state = Mutex(State())
  private let word = WaitWord()
  private let name: String
  private let thread = Mutex<HostThread?>(nil)

  /// The thread is started by the first task.
  package init(name: String) { self.name = name }

  /// Has `task` done after all that were asked for before. Nothing after `end`. Any thread.
  package func post(_ task: @escaping @Sendable () -> Void) {
    let starts = state.withLock { state in
      if state.isEnding { return false }
      state.tasks.append(task)
      defer { state.isStarted = true }
      return !state.isStarted
    }
    word.advance()
    if starts {
      let made = try? HostThread(name: name) { [self] in run() }
      thread.withLock { $0 = made }
    }
  }

  /// Lets the thread end once all tasks are done, and waits for it. Not on the thread itself.
  package func end() {
    state.withLock { $0.isEnding = true }
    word.advance()
    thread.withLock { $0.take() }?.join()
  }

  private func run() {
    while true {
      let seen = word.value
      let (task, isOver) = state.withLock { state in
        state.tasks.isEmpty ? (nil, state.isEnding) : (state.tasks.removeFirst(), false)
      }
      if let task {
        task()
      } else if isOver {
        return
      } else {
        word.wait(while: seen)
      }
    }
  }
}
