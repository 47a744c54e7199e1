import Glibc
import Host
import Synchronization
import Testing

@Suite struct IOThreadTests {
  @Test func jobsRunInOrderOnTheThread() throws {
    let thread = try IOThread(name: "test")
    let seen = Mutex<[Int]>([])
    for number in 0..<1000 { thread.post { seen.withLock { $0.append(number) } } }
    let isCurrent = Mutex(false)
    thread.run { isCurrent.withLock { $0 = thread.isCurrent } }
    #expect(seen.withLock { $0 } == Array(0..<1000))
    #expect(isCurrent.withLock { $0 })
    #expect(!thread.isCurrent)
    #expect(thread.threadID > 0)
    thread.stop()
  }

  @Test func aPollingThreadHearsOfDescriptorsJobsAndTimers() throws {
    let thread = try IOThread(name: "test")
    thread.setPolling(maximum: 32768, grow: 0, shrink: 0)
    let folder = TemporaryFolder()
    #expect(FileNames.makePipe(folder.file("pipe")))
    let pipe = try FileDescriptor.open(folder.file("pipe"), O_RDWR | O_NONBLOCK)
    let done = WaitWord()
    let count = Mutex(0)
    let watch = try thread.watch(pipe.rawValue, .readable) { _ in
      count.withLock { $0 += 1 }
      done.advance()
    }
    _ = try pipe.write([1])
    while count.withLock({ $0 }) == 0 { done.wait(while: done.value, nanoseconds: 1_000_000) }
    watch.cancel()
    let fired = WaitWord()
    let before = fired.value
    let timer = thread.timers.makeTimer { fired.advance() }
    timer.arm(at: HostClock.monotonic + 1_000_000)
    while fired.value == before { fired.wait(while: before) }
    thread.stop()
  }

  @Test func workersAreMadeWhenNeededAndGoWhenIdle() throws {
    let pool = WorkerPool(name: "test", limit: 3, idleMilliseconds: 20)
    let running = Mutex((now: 0, most: 0, done: 0))
    let word = WaitWord()
    for _ in 0..<50 {
      pool.submit {
        running.withLock {
          $0.now += 1
          $0.most = max($0.most, $0.now)
        }
        HostClock.sleep(nanoseconds: 200_000)
        running.withLock {
          $0.now -= 1
          $0.done += 1
        }
        word.advance()
      }
    }
    while running.withLock({ $0.done }) < 50 {
      word.wait(while: word.value, nanoseconds: 1_000_000)
    }
    #expect(running.withLock { $0.most } <= 3)
    #expect(pool.threadCount <= 3)
    let end = HostClock.monotonic + 20_000_000_000
    while pool.threadCount > 0, HostClock.monotonic < end {
      HostClock.sleep(nanoseconds: 5_000_000)
    }
    #expect(pool.threadCount == 0)
  }
}
