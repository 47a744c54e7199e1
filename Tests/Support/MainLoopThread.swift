import Host
import Synchronization

/// The main loop for tests: one thread of the test process runs it, for all tests, until the process ends.
public enum MainLoopThread {
  private static let thread: HostThread? = try? HostThread(name: "main-loop") {
    _ = MainLoop.run {}
  }

  /// Starts it unless it runs. Tests of `@MainLoop` code call this first.
  public static func start() { _ = thread }
}
