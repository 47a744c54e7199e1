import Glibc
import Host
import Support
import Synchronization
import Testing

/// A filter cannot be taken back: each test applies it to a thread of its own, which then ends.
@Suite struct SandboxTests {
  private final class Findings: Sendable {
    let codes = Mutex<[String: Int32]>([:])
  }

  /// Runs `calls` on a thread under the sandbox; answers the `errno` of each, 0 for success.
  private func codes(
    denying denied: Sandbox.Group, _ calls: [(String, @Sendable () -> Int32)]
  ) throws -> [String: Int32] {
    let findings = Findings()
    let thread = try HostThread(name: "sandboxed") {
      do throws(SystemError) {
        try Sandbox(denying: denied).install(allThreads: false)
      } catch {
        findings.codes.withLock { $0["install"] = error.code }
        return
      }
      for (name, call) in calls {
        errno = 0
        let result = call()
        findings.codes.withLock { $0[name] = result < 0 ? errno : 0 }
      }
    }
    thread.join()
    let found = findings.codes.withLock { $0 }
    #expect(found["install"] == nil)
    return found
  }

  private let priority: (String, @Sendable () -> Int32) = (
    "setpriority", { setpriority(__priority_which_t(PRIO_PROCESS.rawValue), 0, 0) }
  )
  // Too long for the kernel, so that nothing happens were it allowed.
  private let setHostName: (String, @Sendable () -> Int32) = (
    "sethostname", { sethostname("x", 1000) }
  )
  private let setUser: (String, @Sendable () -> Int32) = ("setpgid", { setpgid(0, 0) })
  private let execute: (String, @Sendable () -> Int32) = (
    "execve",
    {
      var none: [UnsafeMutablePointer<CChar>?] = [nil]
      return execve("/nowhere", &none, &none)
    }
  )

  @Test func deniedCallsFailWithEPERMAndOthersWork() throws {
    let all = try codes(
      denying: [.resourceControl, .spawn, .privileges], [priority, setHostName, setUser, execute])
    #expect(all == ["setpriority": EPERM, "sethostname": EPERM, "setpgid": EPERM, "execve": EPERM])
  }

  @Test func whatIsNotDeniedReachesTheKernel() throws {
    let some = try codes(denying: [], [priority, execute, setHostName])
    #expect(some == ["setpriority": 0, "execve": ENOENT, "sethostname": EPERM])
  }

  @Test func threadsCanBeMadeWhereProcessesCannot() throws {
    let found = try codes(
      denying: [.spawn],
      [
        (
          "thread",
          {
            guard let thread = try? HostThread(name: "child", {}) else { return -1 }
            thread.join()
            return 0
          }
        ),
        (
          "process",
          {
            var child: pid_t = 0
            var arguments: [UnsafeMutablePointer<CChar>?] = [nil]
            let code = posix_spawn(&child, "/bin/true", nil, nil, &arguments, environ)
            errno = code
            return code == 0 ? 0 : -1
          }
        ),
      ])
    #expect(found == ["thread": 0, "process": EPERM])
  }
}
