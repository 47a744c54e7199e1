import Block
import Host
import JSON
import Synchronization
import Testing

@Suite struct ThrottleTests {
  /// Nanoseconds that move when told.
  final class Clock: Sendable {
    private let time = Mutex<Int64>(1_000_000_000)
    var now: Int64 { time.withLock { $0 } }
    func advance(milliseconds: Int64) { time.withLock { $0 += milliseconds * 1_000_000 } }
  }

  private func refused(_ change: (inout ThrottleLimits) -> Void) -> String? {
    var limits = ThrottleLimits()
    change(&limits)
    do throws(BlockError) {
      try limits.check()
      return nil
    } catch {
      return error.message
    }
  }

  @Test func contradictionsAreToldAsQEMUDoes() {
    #expect(refused { $0.bytesTotal.average = 1 } == nil)
    #expect(
      refused {
        $0.bytesTotal.average = 1
        $0.bytesRead.average = 1
      } == "bps/iops/max total values and read/write values cannot be used at the same time")
    #expect(
      refused { $0.operationSize = 4096 } == "iops size requires an iops value to be set")
    #expect(
      refused { $0.bytesRead.average = 1_000_000_000_000_001 }
        == "bps/iops/max values must be within [0, 1000000000000000]")
    #expect(refused { $0.bytesRead.burstLength = 0 } == "the burst length cannot be 0")
    #expect(
      refused {
        $0.bytesRead.average = 5
        $0.bytesRead.burstLength = 2
      } == "burst length set without burst rate")
    #expect(
      refused { $0.operationsWrite.maximum = 5 }
        == "bps_max/iops_max require corresponding bps/iops values")
    #expect(
      refused {
        $0.operationsWrite.average = 6
        $0.operationsWrite.maximum = 5
      } == "bps_max/iops_max cannot be lower than bps/iops")
  }

  @Test func aTenthOfASecondGoesThroughAtOnceWithoutAMaximum() {
    var limits = ThrottleLimits()
    limits.operationsTotal.average = 100
    var model = ThrottleModel(limits, now: 0)
    var started = 0
    while model.wait(isWrite: false, now: 0) == 0 {
      model.account(isWrite: false, bytes: 512)
      started += 1
    }
    // More than ten are in the bucket when it is full.
    #expect(started == 11)
    #expect(model.wait(isWrite: false, now: 0) == 10_000_000)
    #expect(model.wait(isWrite: false, now: 10_000_000) == 0)
  }

  @Test func theRateHoldsOverTime() {
    var limits = ThrottleLimits()
    limits.bytesWrite.average = 1 << 20
    var model = ThrottleModel(limits, now: 0)
    var now: Int64 = 0
    var bytes: UInt64 = 0
    while now < 10_000_000_000 {
      let wait = model.wait(isWrite: true, now: now)
      if wait > 0 {
        now += wait
        continue
      }
      model.account(isWrite: true, bytes: 65536)
      bytes += 65536
    }
    let ideal = 10 * (1 << 20)
    #expect(abs(Int(bytes) - ideal) < ideal / 20)
    #expect(model.wait(isWrite: false, now: now) == 0)
  }

  @Test func burstsLastAsLongAsAllowed() {
    var limits = ThrottleLimits()
    limits.operationsTotal = ThrottleBucket(average: 100, maximum: 1000, burstLength: 2)
    var model = ThrottleModel(limits, now: 0)
    var now: Int64 = 0
    var inBurst = 0
    var total = 0
    while now < 20_000_000_000 {
      let wait = model.wait(isWrite: false, now: now)
      if wait > 0 {
        now += wait
        continue
      }
      model.account(isWrite: false, bytes: 512)
      total += 1
      if now < 2_000_000_000 { inBurst += 1 }
    }
    #expect(inBurst > 1900 && inBurst < 2300)
    // 2000 of the burst, and what leaks in 20 seconds.
    #expect(total > 3800 && total < 4200)
  }

  @Test func largeRequestsCountAsSeveral() {
    var limits = ThrottleLimits()
    limits.operationsTotal.average = 10
    limits.operationSize = 4096
    var model = ThrottleModel(limits, now: 0)
    model.account(isWrite: false, bytes: 40960)
    #expect(model.wait(isWrite: false, now: 0) == 900_000_000)
  }

  @Test func requestsOfAGroupStartInOrderWhenTheClockSaysSo() throws {
    let clock = Clock()
    let group = ThrottleGroup(name: "g") { clock.now }
    var limits = ThrottleLimits()
    limits.operationsTotal.average = 10
    try group.configure(limits)
    let started = Mutex<[Int]>([])
    var immediate = 0
    for number in 0..<5 {
      if group.admit(isWrite: false, bytes: 512, { started.withLock { $0.append(number) } }) {
        immediate += 1
      }
    }
    #expect(immediate == 2)
    #expect(group.waitingCount == 3)
    group.release()
    #expect(started.withLock { $0 }.isEmpty)
    clock.advance(milliseconds: 100)
    group.release()
    #expect(started.withLock { $0 } == [2])
    group.releaseAll()
    #expect(started.withLock { $0 } == [2, 3, 4])
  }

  @Test func aThrottledDiskDelaysAndDrainsAtOnce() throws {
    let graph = BlockGraph()
    let node = NullNode(name: "disk", length: 1 << 30)
    try graph.add(node)
    let backend = BlockBackend(graph, name: "drive", used: [.consistentRead, .write])
    try backend.insert(node)
    backend.setThrottleGroup("drive")
    var limits = ThrottleLimits()
    limits.bytesTotal.average = 1
    try backend.throttleGroup?.configure(limits)
    let word = WaitWord()
    let count = Mutex(0)
    let queue = BlockCompletionQueue(on: nil) { batch in
      count.withLock { $0 += batch.count }
      word.advance()
    }
    let data = IOBuffer(count: 4096)
    _ = backend.submit(.write(0, from: data.vector), tag: 0, to: queue, mayBlock: true)
    #expect(
      backend.submit(.write(0, from: data.vector), tag: 1, to: queue, mayBlock: true) == .pending)
    #expect(backend.inFlight == 1)
    backend.beginDrain()
    #expect(backend.inFlight == 0)
    backend.endDrain()
  }

  @Test func throttleNodesNeedTheirGroup() throws {
    let graph = BlockGraph()
    try graph.add(["driver": "null-co", "node-name": "n", "read-zeroes": true])
    #expect(throws: BlockError(22, "Throttle group 'g' does not exist")) {
      try graph.add([
        "driver": "throttle", "node-name": "t", "file": "n", "throttle-group": "g",
      ])
    }
    _ = graph.throttleGroups.use("g")
    let node = try graph.add([
      "driver": "throttle", "node-name": "t", "file": "n", "throttle-group": "g",
    ])
    #expect(graph.throttleGroups.userCount("g") == 2)
    #expect(try node.bytes(0, 1) == [0])
    try graph.delete("t")
    #expect(graph.throttleGroups.userCount("g") == 1)
  }
}
