import Cluster
import Host
import Shm
import Synchronization
import Testing

/// The service: pages go from node to node and keep what was written.
@Suite struct CoherentMemoryTests {
  @Test(arguments: ClusterConfiguration.HomePolicy.allCases)
  func whatOneNodeWritesTheOthersRead(_ policy: ClusterConfiguration.HomePolicy) throws {
    let cluster = try CoherentCluster(nodes: 3, pages: 2048, homes: policy)
    for round in 0..<6 {
      let writer = round % 3
      for page in [0, 1, 63, 64, 700, 1023, 1024, 1100, 2047] {
        let value = UInt64(round * 10_000 + page)
        #expect(cluster[writer].store(cluster.address(page, 8 * round), value))
        for reader in 0..<3 {
          #expect(cluster[reader].load(cluster.address(page, 8 * round), as: UInt64.self) == value)
        }
      }
    }
    #expect(cluster.end() == [])
  }

  @Test func pagesThatNobodyWroteAreZeroAndCarryNoBytes() throws {
    let cluster = try CoherentCluster(nodes: 2, pages: 256, homes: .node0)
    #expect(cluster[1].load(cluster.address(5), as: UInt64.self) == 0)
    #expect(cluster[1].store(cluster.address(20), UInt64(1)))
    let statistics = cluster.statistics(1)
    #expect(statistics.zeroTransfers == 2 && statistics.fullTransfers == 0)
    #expect(statistics.readFaults == 1 && statistics.writeFaults == 1)
    #expect(cluster.end() == [])
  }

  @Test func readerThatWritesNeedsNoBytes() throws {
    let cluster = try CoherentCluster(nodes: 2, pages: 256, homes: .node0)
    #expect(cluster[0].store(cluster.address(3), UInt64(7)))
    #expect(cluster[1].load(cluster.address(3), as: UInt64.self) == 7)
    #expect(cluster[1].store(cluster.address(3), UInt64(8)))
    let statistics = cluster.statistics(1)
    #expect(statistics.grants == 1 && statistics.fullTransfers == 1)
    #expect(statistics.upgradeFaults == 1 && statistics.readFaults == 1)
    #expect(cluster[0].load(cluster.address(3), as: UInt64.self) == 8)
    #expect(cluster.end() == [])
  }

  @Test func ownerSendsThePageToTheNextOne() throws {
    let cluster = try CoherentCluster(nodes: 4, pages: 64, homes: .node0)
    for round in 0..<12 {
      let node = 1 + round % 3
      let old = cluster[node].load(cluster.address(9, 512), as: UInt64.self)
      #expect(old == UInt64(round))
      #expect(cluster[node].store(cluster.address(9, 512), UInt64(round + 1)))
    }
    for node in 1..<4 { #expect(cluster.nodes[node].coherent.state(of: cluster.address(9)) != nil) }
    #expect(cluster.nodes[3].coherent.state(of: cluster.address(9)) == .modified)
    #expect(cluster.nodes[0].coherent.state(of: cluster.address(9)) == .invalid)
    #expect(cluster.end() == [])
  }

  @Test func accessesThatGoFromPageToPageAskForMoreAndMore() throws {
    let cluster = try CoherentCluster(nodes: 2, pages: 512, homes: .node0)
    for page in 0..<256 {
      #expect(cluster[0].store(cluster.address(page), UInt64(page + 1)))
    }
    for page in 0..<256 {
      #expect(cluster[1].load(cluster.address(page), as: UInt64.self) == UInt64(page + 1))
    }
    let statistics = cluster.statistics(1)
    #expect(statistics.readFaults < 20, "\(statistics.readFaults) faults")
    #expect(statistics.fullTransfers >= 256 && statistics.prefetchesUsed > 230)
    // What was asked for early and not used goes as if it had not been there.
    for page in 0..<512 { #expect(cluster[0].store(cluster.address(page), UInt64(0))) }
    #expect(
      cluster.statistics(1).prefetchesWasted == statistics.prefetches - statistics.prefetchesUsed)
    #expect(cluster.end() == [])
  }

  @Test func deviceKeepsItsPagesUntilItsRequestIsOver() throws {
    let cluster = try CoherentCluster(nodes: 2, pages: 256, homes: .node0)
    let start = cluster.address(10, 100)
    #expect(cluster[1].store(cluster.address(12), UInt64(1)))
    var pins = MemoryPins()
    var vector = IOVector()
    let isPinned = cluster[0].append(start, 5 * 4096, for: .write, to: &vector, pinning: &pins)
    #expect(isPinned && vector.count == 5 * 4096 && !pins.isEmpty)
    let isDone = Atomic<Bool>(false)
    let reader = try HostThread(name: "reader") {
      _ = cluster[1].load(cluster.address(12), as: UInt64.self)
      isDone.store(true, ordering: .releasing)
    }
    // Another node waits; pages that are not pinned go.
    #expect(cluster[1].load(cluster.address(20), as: UInt64.self) == 0)
    #expect(eventually { cluster.statistics(0).pinWaits == 1 })
    HostClock.sleep(nanoseconds: 5_000_000)
    let wasEarly = isDone.load(ordering: .acquiring)
    #expect(!wasEarly)
    cluster[0].release(&pins)
    #expect(pins.isEmpty)
    reader.join()
    #expect(cluster.statistics(0).longPinWaits == 1)
    // Reading alone may be shared.
    let isReadable = cluster[0].pin(start, count: 4096, .read, &pins)
    #expect(isReadable)
    #expect(cluster[1].load(cluster.address(10), as: UInt64.self) == 0)
    cluster[0].release(&pins)
    #expect(cluster.end() == [])
  }

  /// What a vCPU loses again and again stays in its node's turn, and goes in that of another.
  @Test func contestedPagesStayInTheTurnOfTheirNode() throws {
    let cluster = try CoherentCluster(nodes: 3, pages: 256, homes: .node0)
    let turn = CoherentMemory.Tuning().turnNanoseconds
    let number = Atomic<Int64>(0)
    for node in cluster.nodes {
      // The cluster's time stands, in the midst of somebody's turn.
      node.coherent.followClock {
        (number.load(ordering: .relaxed) * 2 + 1) * turn / 2 - HostClock.monotonic
      }
    }
    let use = Mutex(PageUse.contested)
    cluster[1].observeProgress { _ in use.withLock { $0 } }
    /// How often node 0 had to wait for a page that a vCPU of node 1 has used.
    func waits(_ page: Int) -> UInt64 {
      let before = cluster.statistics(1).pinWaits
      let address = cluster.address(page)
      let opened: GuestMemory.Attempt<Void> = cluster[1].attempt(.write, address, 8) {
        cluster[1].noteOpened(address)
      }
      guard case .done = opened else { return .max }
      #expect(cluster[0].store(address, UInt64(page)))
      return cluster.statistics(1).pinWaits - before
    }
    for (page, owner) in [0, 1, 2, 3, 4, 5, 7].enumerated() {
      number.store(Int64(owner), ordering: .relaxed)
      #expect(waits(page) == (owner % 3 == 1 ? 1 : 0), "turn \(owner)")
    }
    use.withLock { $0 = .used }
    #expect(waits(20) == 0)
    #expect(cluster.end() == [])
  }

  /// An access that is under way when a page is taken, and its thread without a processor or in the kernel.
  @Test func pageGoesWhenSlowAccessesToItHaveEnded() throws {
    let cluster = try CoherentCluster(nodes: 2, pages: 256, homes: .node0)
    for round in 0..<20 {
      let address = cluster.address(round)
      let isIn = WaitWord()
      let isOut = Atomic<Bool>(false)
      let started = isIn.value
      let access = try HostThread(name: "access") {
        _ =
          cluster[1].attempt(.write, address, 8) {
            isIn.advance()
            HostClock.sleep(nanoseconds: 3_000_000)
            isOut.store(true, ordering: .releasing)
          } as GuestMemory.Attempt<Void>
      }
      while isIn.value == started { isIn.wait(while: started) }
      #expect(cluster[0].store(address, UInt64(round)))
      let hasEnded = isOut.load(ordering: .acquiring)
      #expect(hasEnded)
      access.join()
    }
    #expect(cluster.end() == [])
  }

  /// Two devices' requests that want each other's pages both get them.
  @Test func pinsOfTwoNodesDoNotWaitForEachOther() throws {
    let cluster = try CoherentCluster(
      nodes: 2, pages: 256, .init(seed: 3, longestDelayMicroseconds: 300), homes: .block)
    var threads: [HostThread] = []
    for node in 0..<2 {
      threads.append(
        try HostThread(name: "device") {
          var pins = MemoryPins()
          for round in 0..<60 {
            // In the order that would lead two to wait for each other.
            for part in 0..<3 {
              let start = cluster.address((round + part * 3 * (node == 0 ? 1 : -1) + 30) % 13)
              guard cluster[node].pin(start, count: 3 * 4096, .write, &pins) else {
                cluster.errors.withLock { $0.append("no pin") }
                return
              }
            }
            cluster[node].release(&pins)
          }
        })
    }
    for thread in threads { thread.join() }
    #expect(cluster.end() == [])
  }

  @Test func frozenMemoryLetsNobodyWait() throws {
    let cluster = try CoherentCluster(nodes: 2, pages: 256, homes: .node0)
    #expect(cluster[0].store(cluster.address(4), UInt64(9)))
    cluster.network.cut(0, 1)
    let result = Mutex<PageAccess?>(nil)
    let waiting = try HostThread(name: "vcpu") {
      let access = cluster[1].acquire(cluster.address(4), .read)
      result.withLock { $0 = access }
    }
    HostClock.sleep(nanoseconds: 2_000_000)
    #expect(result.withLock { $0 } == nil)
    cluster.nodes[1].coherent.freeze()
    waiting.join()
    #expect(result.withLock { $0 } == .frozen)
    #expect(cluster[1].acquire(cluster.address(9), .write) == .frozen)
    // What was asked for comes after all.
    cluster.network.join(0, 1)
    cluster.nodes[1].coherent.thaw()
    #expect(cluster[1].load(cluster.address(4), as: UInt64.self) == 9)
    #expect(cluster.end() == [])
  }

  @Test func imageThatOneNodeLoadedIsEverywhere() throws {
    let cluster = try CoherentCluster(nodes: 3, pages: 128, homes: .block, owner: .devices)
    #expect(cluster.nodes[0].coherent.state(of: cluster.address(100)) == .modified)
    #expect(cluster.nodes[2].coherent.state(of: cluster.address(100)) == .invalid)
    let image = (0..<5 * 4096).map { UInt8(truncatingIfNeeded: $0 / 7) }
    #expect(cluster[0].write(cluster.address(66, 5), image))
    #expect(cluster[2].read(cluster.address(66, 5), count: image.count) == image)
    #expect(cluster.end() == [])
  }

  @Test func pagesAreGivenBackToTheirHomes() throws {
    let cluster = try CoherentCluster(nodes: 2, pages: 128, homes: .node0)
    for page in 0..<50 { #expect(cluster[1].store(cluster.address(page), UInt64(page))) }
    cluster.nodes[1].coherent.put(0..<128)
    #expect(eventually { cluster.statistics(1).modifiedPages == 0 })
    for page in 0..<50 {
      #expect(cluster[0].load(cluster.address(page), as: UInt64.self) == UInt64(page))
    }
    #expect(cluster.statistics(0).invalidations >= 50)
    #expect(cluster.end() == [])
  }

  @Test func copyIsPushedToWhoWillRead() throws {
    let cluster = try CoherentCluster(nodes: 2, pages: 128, homes: .node0)
    #expect(cluster[1].store(cluster.address(2), UInt64(3)))
    #expect(!cluster.nodes[0].coherent.push(2, to: NodeID(rawValue: 1)), "another owns it")
    #expect(cluster[0].load(cluster.address(2), as: UInt64.self) == 3)
    #expect(cluster[0].store(cluster.address(2), UInt64(4)))
    cluster.nodes[0].coherent.put(0..<1)
    #expect(cluster.end() == [])
  }

  @Test func hotPagesAreNamed() throws {
    let cluster = try CoherentCluster(nodes: 2, pages: 128, homes: .node0)
    // Until the host has let two threads take turns for 67 ms.
    let end = HostClock.monotonic + 60_000_000_000
    var rounds: UInt64 = 0
    var hot: [HotPage] = []
    while hot.isEmpty, HostClock.monotonic < end {
      rounds += 1
      #expect(cluster[Int(rounds % 2)].store(cluster.address(77), rounds))
      hot = cluster.nodes[1].coherent.hotPages(limit: 5)
    }
    #expect(hot.first?.address == cluster.address(77))
    #expect(hot.first.map { $0.transfersPerSecond > 200 && $0.home == .devices } ?? false)
    #expect(cluster.end() == [])
  }

  /// Node 2 goes: what it alone had is lost, all else is where it was.
  @Test(arguments: ClusterConfiguration.HomePolicy.allCases)
  func survivorsKeepWhatTheyHave(_ policy: ClusterConfiguration.HomePolicy) throws {
    let cluster = try CoherentCluster(nodes: 3, pages: 1536, homes: policy)
    // By turns: written by one, read by none, one, or both others.
    let pages = Array(stride(from: 3, to: 1536, by: 7))
    for (index, page) in pages.enumerated() {
      #expect(cluster[index % 3].store(cluster.address(page), UInt64(page)))
      if index / 3 % 3 > 0 {
        #expect(
          cluster[(index + 1) % 3].load(cluster.address(page), as: UInt64.self) == UInt64(page))
      }
      if index / 3 % 3 > 1 {
        #expect(
          cluster[(index + 2) % 3].load(cluster.address(page), as: UInt64.self) == UInt64(page))
      }
    }
    cluster.network.kill(2)
    for node in 0..<2 { cluster.nodes[node].coherent.freeze() }
    let done = Atomic<Int>(0)
    for node in 0..<2 {
      cluster.network[node].advanceEpoch(to: 1)
    }
    for node in 0..<2 {
      cluster.nodes[node].coherent.recover(without: NodeSet(NodeID(rawValue: 2))) {
        done.wrappingAdd(1, ordering: .relaxed)
      }
    }
    let isOver = eventually { done.load(ordering: .relaxed) == 2 }
    #expect(isOver)
    for node in 0..<2 { cluster.nodes[node].coherent.thaw() }
    // The end of a link that is noticed late does not freeze again.
    cluster.nodes[1].coherent.lost(NodeID(rawValue: 2))
    var lost = 0
    for (index, page) in pages.enumerated() {
      let readers = index / 3 % 3
      // Only node 2 had it, if nobody read it, nor its home, by which the bytes went.
      let isLost = index % 3 == 2 && readers == 0
      for node in 0..<2 {
        let value = cluster[node].load(cluster.address(page), as: UInt64.self)
        #expect(value == (isLost ? nil : UInt64(page)), "page \(page) at node \(node)")
        #expect(cluster[node].acquire(cluster.address(page), .write) == (isLost ? .lost : .granted))
        #expect(cluster.nodes[node].coherent.isLost(cluster.address(page)) == isLost)
      }
      if isLost {
        lost += 1
      } else {
        // It goes on as ever.
        #expect(cluster[index % 2].store(cluster.address(page), UInt64(page + 1)))
        #expect(
          cluster[1 - index % 2].load(cluster.address(page), as: UInt64.self) == UInt64(page + 1))
      }
    }
    #expect(lost > 20)
    #expect(cluster.end() == [])
  }

  @Test func frameThatSaysNonsenseFreezesTheMemory() throws {
    let cluster = try CoherentCluster(nodes: 2, pages: 128, homes: .node0)
    // A grant that nobody asked for.
    var body = [UInt8](repeating: 0, count: 40)
    body[0] = 4
    cluster.network[0].send(FrameHeader(.grant, argument: 0), bytes: body, to: NodeID(rawValue: 1))
    #expect(eventually { cluster.errors.withLock { $0.count } == 1 })
    #expect(cluster.statistics(1).protocolErrors == 1)
    #expect(cluster[1].acquire(cluster.address(9), .write) == .frozen)
    _ = cluster.end()
    #expect(cluster.errors.withLock { $0.first?.contains("unexpected") } ?? false)
  }

  /// Whatever the bytes, the receiver lives.
  @Test func malformedFramesAreRefused() throws {
    let random = MersenneTwister(seed: 5)
    for round in 0..<60 {
      let cluster = try CoherentCluster(nodes: 2, pages: 128, homes: .block)
      let type = random.choice(PageFrame.types)
      let size = random.choice([0, 8, 39, 40, 41, 56, 40 + 4096, 56 + 8192])
      var body = (0..<size).map { _ in UInt8(random.randrange(256)) }
      if size >= 24, random.randrange(2) == 0 {
        // Nearly right.
        for index in 0..<24 { body[index] = 0 }
        body[random.randrange(17)] = UInt8(random.randrange(4))
      }
      let argument = random.choice([0, 64, 128, 1 << 40, 3])
      cluster.network[0].send(
        FrameHeader(type, argument: UInt64(argument)), bytes: body, to: NodeID(rawValue: 1))
      // Anything but death is right; what is malformed is said.
      if size < 40 {
        #expect(eventually { cluster.errors.withLock { !$0.isEmpty } }, "round \(round)")
      }
      cluster.network[1].send(FrameHeader(.memMarker), to: NodeID(rawValue: 0))
      _ = cluster.end()
    }
  }
}
